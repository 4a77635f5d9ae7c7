"""The verb `look`, and its page in a real browser."""

import json
import time

import pytest

import minigpt
from minigpt import cli
from minigpt.model.transformer import GPT

from .conftest import tiny
from .test_heads import TOKENIZER, handmade
from .test_page import SCREENS, brightness, opened
from .test_views import BYTES, HOSTILE, model_of_bytes


def look(*arguments) -> int:
    return cli.run(time.monotonic(), ["look", *map(str, arguments)])


def test_the_verb_writes_one_file_and_says_where(trained, tmp_path, capsys):
    out = tmp_path / "inside.html"
    assert look(trained, "--prompt", "the cat sat", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "renderLook" in out.read_text()


def test_without_out_it_is_called_look_html(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert look(trained, "--prompt", "-the cat") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["look.html"]


def test_json_is_the_data_in_one_line_and_writes_no_file(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert look(trained, "--prompt", "the cat sat", "--json") == 0
    assert list(tmp_path.iterdir()) == []
    data = json.loads(capsys.readouterr().out)
    assert data == minigpt.look(*minigpt.load(trained), "the cat sat").data
    assert look(trained, "--prompt", "the cat", "--json", "--out", tmp_path / "x.html") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == str(tmp_path / "x.html")
    assert json.loads(last)["model"]["layers"] == 2


def test_a_text_that_is_cut_is_said(trained, capsys):
    assert look(trained, "--prompt", "the cat sat on a mat. " * 40, "--json") == 0
    assert "the model was given the last 48 of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", ""), "text is empty"),
        (("--prompt", "the", "--out", "no/where/look.html"), "cannot be written"),
        (("--prompt", "the", "--device", "abacus"), "abacus"),
        ((), "--prompt"),
    ],
)
def test_bad_input_is_one_sentence(trained, arguments, words, capsys):
    assert look(trained, *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


# ---------------------------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """Return a function that makes the page of a model and a text."""
    folder = tmp_path_factory.mktemp("look")

    def make(model, tokenizer, text, name="look"):
        return minigpt.look(model, tokenizer, text).save(folder / f"{name}.html")

    return make


@pytest.fixture
def tab_of(browser):
    """Return a function that opens a page; what it says and what it asks for is looked at in the end."""
    tabs, said, asked = [], [], []

    def show(path, screen="laptop", scheme="light"):
        tab = opened(browser, screen, scheme)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        tabs.append(tab)
        return tab

    yield show
    assert said == []
    assert len(asked) == len(tabs)
    for tab in tabs:
        tab.close()


MADE_TEXT = "the cat the cat the cat"
# The large map on a canvas of the test's own: a browser warns of one that is read often.
DRAWN = """(() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  context.drawImage(document.querySelector(".frame canvas"), 0, 0);
  return context;
})()"""


@pytest.mark.parametrize(("screen", "scheme"), [("laptop", "light"), ("phone", "dark")])
def test_the_page_fits_the_screen_and_asks_for_nothing(page_of, tab_of, screen, scheme):
    model = GPT(tiny(vocab_size=BYTES.vocab_size, block_size=200, n_layer=3, n_head=8)).eval()
    tab = tab_of(page_of(model, BYTES, (HOSTILE + "word " * 60)[:180]), screen, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0]
    assert tab.locator("canvas.map").count() == 3 * 9 + 1
    style = "getComputedStyle(document.body)"
    ink, paper = (tab.evaluate(f"{style}.{name}") for name in ("color", "backgroundColor"))
    assert (brightness(ink) < brightness(paper)) == (scheme == "light")


def test_a_hostile_text_is_shown_and_does_nothing(page_of, tab_of):
    tab = tab_of(page_of(model_of_bytes(), BYTES, HOSTILE, "hostile"))
    assert tab.locator("#look img").count() == 0
    shown = "".join(tab.locator(".strip").first.locator(".token").all_text_contents())
    assert shown.startswith("</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;")
    assert shown.endswith("<U+0000><U+001B>[31m" + "<e2><80><ae>" + "<e2><80><a8>" + "␍⏎→<c3><a9>")


def chosen(tab, section: str) -> str:
    return tab.locator(f"section[aria-label='{section}'] .token.chosen").first.text_content()


def test_a_named_head_is_named_and_chosen_first(page_of, tab_of):
    tab = tab_of(page_of(handmade(), TOKENIZER, MADE_TEXT, "made"))
    captions = tab.locator(".thumb span").all_text_contents()
    assert captions[:4] == ["average", "previous token", "first token", "current token"]
    assert captions[5] == "induction"
    pressed = tab.locator(".thumb[aria-pressed=true]")
    assert pressed.get_attribute("aria-label") == "Layer 1, head 1: previous token"


def test_what_a_token_looks_at_follows_pointer_and_keys(page_of, tab_of):
    tab = tab_of(page_of(handmade(), TOKENIZER, MADE_TEXT, "made"))
    strip = tab.locator("section[aria-label=Attention] .strip")
    strip.locator(".token").nth(4).hover()  # the c of the first "cat"
    looks = tab.locator("section[aria-label=Attention] .bars li").first
    assert looks.locator(".piece").text_content() == "· (4)"
    assert looks.locator(".share").text_content() == "100\u00a0%"
    strip.locator(".token").nth(4).focus()
    tab.keyboard.press("ArrowRight")
    assert looks.locator(".piece").text_content() == "c (5)"
    tab.keyboard.press("Home")
    assert chosen(tab, "Loss by token") == "t"
    tab.keyboard.press("ArrowLeft")  # there is nothing before it
    assert chosen(tab, "Loss by token") == "t"
    tab.keyboard.press("End")
    assert chosen(tab, "Queries, keys and values") == "t"


def test_a_map_is_chosen_by_click_keys_and_fields_and_drawn_as_computed(page_of, tab_of):
    tab = tab_of(page_of(handmade(), TOKENIZER, MADE_TEXT, "made"))
    pixel = f"([row, column]) => {DRAWN}.getImageData(column, row, 1, 1).data[3]"
    assert tab.evaluate(pixel, [9, 8]) > 250
    assert tab.evaluate(pixel, [9, 0]) == tab.evaluate(pixel, [8, 9]) == 0
    tab.get_by_role("button", name="Layer 1, head 2: first token").click()
    assert tab.evaluate(pixel, [9, 0]) > 250
    assert tab.evaluate(pixel, [9, 8]) == 0
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert tab.evaluate(pixel, [9, 9]) > 250
    layer, head = tab.locator("section[aria-label=Attention] select").all()
    layer.select_option("2")
    head.select_option("1")
    assert "Induction" in tab.locator(".large").text_content()
    # The second e looks at what came after the first.
    assert tab.evaluate(pixel, [10, 3]) > 250
    assert tab.evaluate(pixel, [10, 9]) < 20
    frame = tab.locator(".frame")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.1)
    assert "does not see" in tab.locator(".large").text_content()


def test_the_lens_and_the_vectors_are_reached_by_keyboard(page_of, tab_of):
    tab = tab_of(page_of(handmade(), TOKENIZER, MADE_TEXT, "made"))
    lens = tab.locator("section[aria-label='Logit lens']")
    lens.locator("tbody td").nth(2).focus()
    assert "Before the first block, at “e” (3)" in lens.text_content()
    tab.keyboard.press("ArrowDown")
    assert "After block 1, at “e” (3): what came, “·”," in lens.text_content()
    norms = tab.locator("section[aria-label='Norms of the residual stream']")
    assert norms.locator("tbody tr").count() == 3
    norms.get_by_label("what attention adds").check()
    assert norms.locator("tbody tr").count() == 2
    vectors = tab.locator("section[aria-label='Queries, keys and values']")
    assert vectors.locator("circle").count() == len(MADE_TEXT) + 1  # the chosen one twice
    vectors.locator("select").last.select_option("average")
    assert vectors.locator("circle").count() == 0
    assert "The average has no vectors" in vectors.text_content()
    vectors.locator("svg").first.hover()
    tab.mouse.move(1, 1)
    assert "The average has no vectors" in vectors.text_content()


def test_a_change_of_scheme_draws_the_maps_anew(page_of, tab_of):
    tab = tab_of(page_of(handmade(), TOKENIZER, MADE_TEXT, "made"))
    red = f"{DRAWN}.getImageData(0, 0, 1, 1).data[0]"
    assert tab.evaluate(red) == 0x1F
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"{red} === 0x7d")


def test_ink_on_the_strongest_colour_can_be_read(page_of, tab_of):
    ratio = """element => {
      const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const seen = (...colours) => {
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      };
      const light = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
      element.style.setProperty('--w', 1);
      const paper = getComputedStyle(document.body).backgroundColor, own = getComputedStyle(element);
      const [one, other] = [light(seen(paper, own.backgroundColor)), light(seen(own.color))].sort((a, b) => b - a);
      return (one + 0.05) / (other + 0.05);
    }"""
    for scheme in ("light", "dark"):
        tab = tab_of(page_of(handmade(), TOKENIZER, MADE_TEXT, "made"), scheme=scheme)
        for item in (".loss .token", ".attention .token", ".attention .cell", ".loss .cell"):
            assert tab.locator(item).first.evaluate(ratio) >= 4.5
