"""The page in a real browser, as a person uses it: with pointer and keys, on a phone, in the dark."""

import json
import re
import threading

import pytest

from minigpt.serve.site import Site

from .serving import until
from .serving import world as serve
from .test_portal import zipped
from .test_runs import row

SCREENS = {"desktop": (1200, 800), "phone": (375, 720)}
# What a browser writes about an answer that the page shows in words of its own.
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 40[01] ")
VIEWS = ("write", "chat", "portal", "runs", "look")
# For each control that can be seen, what it is called by those who hear the page.
NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a, summary, progress")]
  .filter(one => one.checkVisibility() || one.type === "file")
  .filter(one => !(one.ariaLabel || one.textContent.trim() || [...(one.labels ?? [])].some(l => l.textContent.trim())))
  .map(one => one.outerHTML)"""
# The contrast of each text that can be seen with what lies behind it, where that is less than WCAG's 4.5.
FAINT = """() => {
  const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const together = colours => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return luminance(canvas.getImageData(0, 0, 1, 1).data);
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const own = node.parentElement, behind = [];
    const isMeant = node.textContent.trim() && own.checkVisibility();
    if (!isMeant || own.closest(".unseen, .skip, svg, noscript, #views, option")) continue;
    for (let one = own; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
    const [a, b] = [together(behind), together([...behind, getComputedStyle(own).color])].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push([own.outerHTML.slice(0, 80), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""


@pytest.fixture
def open_tab(browser, paged):
    """Opens the page in a tab of its own; at the end nothing has gone wrong in it, and nobody else was asked."""
    contexts, said, asked = [], [], []

    def opened(view="write", screen="desktop", scheme="light", url=paged.url):
        width, height = SCREENS[screen]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        context.set_default_timeout(20_000)
        contexts.append(context)
        tab = context.new_page()
        tab.on(
            "console",
            lambda message: said.append(message.text) if not REFUSED.match(message.text) else None,
        )
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(f"{url}/#{view if '=' in view else '/' + view}")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert {re.match(r"\w+://[^/]+", url)[0].rpartition(":")[0] for url in asked} <= {
        "http://127.0.0.1"
    }


@pytest.fixture
def tab(open_tab):
    made = open_tab()
    ready(made)
    return made


def ready(tab):
    tab.wait_for_selector("body[data-ready]")


def setting(tab, name, value):
    field = tab.locator(f"#setting-{name}")
    if not field.is_visible():
        tab.get_by_text("More settings").click()
    field.fill(str(value))
    field.blur()


def write(tab, prompt, model="trained", **settings):
    """Have a text written, and return it."""
    tab.select_option("#model", model)
    for name, value in ({"max_tokens": 12, "seed": 3} | settings).items():
        setting(tab, name, value)
    tab.fill("#prompt", prompt)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_selector("#written .facts:not(:empty)")
    return tab.locator("#written-text").text_content()


def completed(paged, prompt, model="trained", **settings):
    """Return the same text by the API."""
    wanted = {"max_tokens": 12, "seed": 3, "temperature": 0.8, "top_k": 40, "on_full": "slide"}
    _, _, answer = paged.complete(prompt, model=model, **wanted | settings)
    return prompt + answer["choices"][0]["text"]


def test_it_writes_what_the_server_writes(tab, paged):
    assert write(tab, "the cat ") == completed(paged, "the cat ")
    assert write(tab, "the cat ", seed=4, temperature=1.5) == completed(
        paged, "the cat ", seed=4, temperature=1.5
    )
    assert "seed 4" in tab.locator("#written .facts").text_content()
    # Characters of several bytes, in pieces that are no whole characters.
    other = {"top_k": 0, "temperature": 1.5}
    assert write(tab, "naïve 🙂", "plain", **other) == completed(
        paged, "naïve 🙂", "plain", **other
    )


def test_a_token_shows_what_else_was_likely_and_what_was_cut(tab):
    write(tab, "the cat ", top_k=2, temperature=1.0)
    pieces = tab.locator("#written-text .piece")
    assert pieces.count() == 12
    assert all(re.search(r"chance-[0-3]", one.get_attribute("class")) for one in pieces.all())
    pieces.nth(2).hover()
    panel = tab.locator("#token")
    panel.get_by_text("Top-k 2 cut away").wait_for()
    assert panel.locator("tbody tr").count() >= 10
    assert panel.locator("tr.taken:not(.cut)").count() == 1
    assert panel.locator("tr.cut").count() >= 8
    tab.get_by_label("Colour tokens by probability").uncheck()
    assert (
        pieces.nth(2).evaluate("one => getComputedStyle(one).backgroundColor") == "rgba(0, 0, 0, 0)"
    )


def test_tokens_are_reached_by_key(tab):
    write(tab, "the cat ")
    tab.locator("#written-text [tabindex='0']").focus()
    for key, place in (("ArrowRight", 1), ("ArrowDown", 11), ("ArrowRight", 11), ("ArrowLeft", 10)):
        tab.keyboard.press(key)
        assert tab.locator("#written-text :focus").get_attribute("data-place") == str(place)
    tab.locator("#token table").wait_for()
    assert tab.locator("#written-text [tabindex='0']").count() == 1
    assert "%" in tab.locator("#status").text_content()
    tab.keyboard.press("Escape")
    assert not tab.locator("#token").is_visible()


def test_regenerate_edit_and_copy(tab):
    first = write(tab, "the cat ")
    tab.locator("#written [data-does=copy]").click()
    tab.get_by_role("button", name="Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == first
    tab.get_by_role("button", name="Edit and go on").click()
    assert tab.input_value("#prompt") == first
    setting(tab, "seed", "")
    tab.get_by_role("button", name="Regenerate").click()
    tab.wait_for_selector("#written .facts:not(:empty)")
    again = tab.locator("#written-text").text_content()
    assert again.startswith("the cat ")
    assert "seed 3" not in tab.locator("#written .facts").text_content()


def test_a_text_is_stopped_and_its_place_is_free(tab, paged, monkeypatch):
    engine = paged.models.get("plain").worker.engine
    step, pause = (
        engine.step,
        threading.Event(),
    )  # a browser that has little of a machine is slower than the model
    monkeypatch.setattr(engine, "step", lambda: (pause.wait(0.01), step())[1])
    tab.select_option("#model", "plain")
    setting(tab, "max_tokens", 4000)
    setting(tab, "temperature", 0)  # it says the same again and again
    tab.fill("#prompt", "abc")
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.locator("#written-text .piece").nth(20).wait_for()
    tab.keyboard.press("Enter")  # the button to stop has the focus by now
    tab.get_by_text("stopped").first.wait_for()
    assert tab.locator("#written-text .piece").count() < 4000
    until(lambda: paged.gauge("running", "plain") == 0)
    assert tab.evaluate("document.activeElement.textContent") == "Generate"


def test_a_setting_out_of_range_is_not_sent(tab):
    setting(tab, "top_p", 2)
    tab.fill("#prompt", "the")
    tab.get_by_role("button", name="Generate", exact=True).click()
    assert tab.locator("#setting-top_p:invalid").count() == 1
    assert not tab.locator("#written").is_visible()


def test_what_the_server_refuses_is_said(open_tab, paged):
    tab = open_tab()
    ready(tab)
    tab.select_option("#model", "letters")
    tab.fill("#prompt", "UPPER")
    with tab.expect_response("**/v1/completions") as answered:
        tab.get_by_role("button", name="Generate", exact=True).click()
    assert answered.value.status == 400
    tab.locator("#trouble:visible").wait_for()
    assert "'U'" in tab.locator("#trouble").text_content()


def test_markup_in_a_text_stays_text(tab):
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    assert write(tab, markup, "plain").startswith(markup)
    assert tab.locator("#written-text img, #written-text b").count() == 0


def test_a_conversation(open_tab):
    tab = open_tab("chat")
    ready(tab)
    tab.select_option("#model", "chat")
    setting(tab, "max_tokens", 8)
    answers = tab.locator(".turn.assistant .facts:not(:empty)")
    for number, text in enumerate(("hello <b>you</b>", "and you?"), start=1):
        tab.fill("#message", text)
        tab.press("#message", "Enter")
        answers.nth(number - 1).wait_for()
    assert tab.locator(".turn.user .said").all_text_contents() == ["hello <b>you</b>", "and you?"]
    assert tab.locator(".turn").count() == 4
    tab.locator(".turn.assistant").last.get_by_role("button", name="Regenerate").click()
    answers.nth(1).wait_for()
    assert tab.locator(".turn").count() == 4
    tab.locator(".turn.user").first.get_by_role("button", name="Edit").click()
    assert tab.locator(".turn").count() == 0
    assert tab.input_value("#message") == "hello <b>you</b>"
    tab.locator("#message").press("Shift+Enter")
    assert tab.locator(".turn").count() == 0


def test_a_model_without_a_chat_template_offers_to_write(open_tab):
    tab = open_tab("chat")
    ready(tab)
    tab.select_option("#model", "plain")
    assert not tab.locator("#message").is_visible()
    tab.get_by_role("link", name="Write with it").click()
    tab.locator("#prompt").wait_for()


def test_a_model_is_brought_written_with_and_removed(open_tab, trained, tmp_path):
    run, wrong = tmp_path / "my run.zip", tmp_path / "notes.pth"
    run.write_bytes(zipped(trained))
    wrong.write_text("this is no model")
    tab = open_tab("portal")
    ready(tab)
    tab.set_input_files("#file", wrong)
    tab.get_by_text("notes.pth cannot be loaded").wait_for()
    tab.set_input_files("#file", run)
    tab.get_by_role("button", name="Write with it").wait_for()
    assert "parameters" in tab.locator("[data-stage=blueprint]").text_content()
    assert tab.locator("#stages [data-state=done]").count() == 4
    assert not tab.locator("#portal-trouble").is_visible()
    tab.keyboard.press("Enter")
    tab.locator("#prompt").wait_for()
    assert tab.locator("#model option:checked").text_content() == "my run.zip"
    tab.fill("#prompt", "the cat ")
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_selector("#written .facts:not(:empty)")
    tab.get_by_role("link", name="Portal").click()
    tab.get_by_role("button", name="Remove my run.zip").click()
    tab.locator("#brought li").wait_for(state="detached")
    assert "my run.zip" not in tab.locator("#model option").all_text_contents()


def test_a_file_that_is_dropped_is_taken(open_tab):
    tab = open_tab("portal")
    ready(tab)
    carried = tab.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['no model'], 'dropped.bin')); return d; }"
    )
    tab.dispatch_event("#drop", "drop", {"dataTransfer": carried})
    tab.get_by_text("dropped.bin cannot be loaded").wait_for()


def test_runs_are_drawn_as_they_train_and_compared(open_tab, paged):
    tab = open_tab("runs")
    tab.get_by_role("button", name="live", exact=True).click()
    tab.get_by_role("heading", name="live").wait_for()
    assert tab.locator("#run figure svg:visible").count() >= 4
    assert tab.get_by_text("step 60 of 100").count() >= 1
    folder = tab_folder(paged)
    with (folder / "live" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(80, val_loss=3.2, val_bits_per_byte=1.6)) + "\n")
    tab.locator("#run").get_by_text("step 80 of 100").wait_for()
    for name in ("live", "trained"):
        tab.get_by_label(f"Compare {name}").check()
    tab.get_by_role("heading", name="2 runs in one chart").wait_for()
    lines = tab.locator("#run svg:visible polyline")
    colours = lines.evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
    assert len(set(colours)) == 2
    assert tab.locator("#run").get_by_text("train.steps").is_visible()
    tab.select_option("#over", "tokens")
    tab.locator("#run svg[aria-label='Held-out loss over tokens']").first.wait_for()


def tab_folder(paged):
    return paged.models.get("trained").path.parent


def test_it_looks_inside_a_text_at_hand(open_tab):
    tab = open_tab("write")
    ready(tab)
    text = write(tab, "the cat ")
    tab.locator("#written").get_by_role("button", name="Look inside").click()
    tab.locator("#views canvas").first.wait_for()
    assert tab.input_value("#look-text") == text
    assert tab.locator("#views section").count() == 5


def test_a_key_is_asked_for_until_it_is_right(open_tab):
    with serve(Site(), keys=("the-right-key",)) as world:
        tab = open_tab(url=world.url)
        tab.locator("#ask-key[open]").wait_for()
        tab.fill("#key", "the-wrong-key")
        tab.keyboard.press("Enter")
        tab.get_by_text("That was not one of its keys.").wait_for()
        tab.fill("#key", "the-right-key")
        tab.keyboard.press("Enter")
        ready(tab)
        tab.reload()
        ready(tab)
        assert not tab.locator("#ask-key").is_visible()
        other = open_tab("key=the-right-key&portal", url=world.url)
        ready(other)
        assert "the-right-key" not in other.url
        assert other.locator("#portal").is_visible()


@pytest.mark.parametrize(("screen", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_every_view_fits_the_screen_is_named_and_can_be_read(open_tab, screen, scheme):
    tab = open_tab("runs", screen, scheme)
    ready(tab)
    tab.locator("#run svg:visible").first.wait_for()
    for view in VIEWS:
        tab.get_by_role("link", name=view, exact=False).first.click()
        tab.locator(f"#{view}").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0], view
        assert tab.evaluate(NAMELESS) == []
        assert tab.evaluate(FAINT) == []
        assert tab.locator("nav [aria-current=page]").count() == 1


def test_the_page_is_walked_through_by_key(tab):
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "prompt"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
