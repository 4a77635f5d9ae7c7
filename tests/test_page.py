import doctest
import itertools
import json

import pytest

from minigpt import page
from minigpt.page import fill_page, visible
from minigpt.report import write_report

from .test_report import BASELINES, row, run, write_rows  # noqa: F401 - `run` is a fixture

SCREENS = {"laptop": (1200, 800), "phone": (375, 700)}
TWELVE = {"update_ratio": [1e-3 / block for block in range(1, 13)]}


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(page).failed == 0


def test_a_template_leaves_dollars_of_the_text_alone():
    assert "$body $title $5" in fill_page("t", "$body $title $5")


def test_control_characters_get_a_shape():
    assert visible("a\x00\x7f\x85\u202eb\tc\né€\u200d") == "a␀\ufffd\ufffd\ufffdb\tc\né€\u200d"


FIRST = row(0, baselines=BASELINES, val_loss=4.5, val_bits_per_byte=2.25)
RUNS = {
    "plain": [FIRST, *(row(n) for n in range(1, 200)), row(200, val_loss=3.0, val_bits_per_byte=1.5)],
    "wild": [FIRST, *(row(n, train_loss=900 / n, spike_z=9.0, spike_step=n, skipped=1) for n in range(1, 120))],
    "begun": [row(1)],
    "nothing logged": [],
}  # fmt: skip


def opened(browser, screen, scheme="light"):
    width, height = SCREENS[screen]
    return browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)


@pytest.mark.parametrize("rows", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(("screen", "scheme"), [("laptop", "light"), ("phone", "dark")])
def test_a_report_fits_the_screen_and_asks_for_nothing(browser, run, rows, screen, scheme):  # noqa: F811
    write_rows(run, *(one | TWELVE for one in rows))
    facts = {"fingerprint": "ab" * 32, "source": "/folder" * 20, "val": {"tokens": 10**9}}
    (run / "data.json").write_text(json.dumps(facts))
    (run / "samples.txt").write_text(f"--- step 0\n{'x' * 900}\n\n")
    path, width = write_report(run), SCREENS[screen][0]
    tab = opened(browser, screen, scheme)
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    assert said == []
    assert asked == [path.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for picture in tab.locator("svg:visible").all():
        boxes = [text.bounding_box() for text in picture.locator("text").all()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        names = sorted(name.bounding_box()["y"] for name in picture.locator("text.name").all())
        assert all(below - above > 9 for above, below in itertools.pairwise(names))
    ink, paper = (
        tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )  # fmt: skip
    assert (brightness(ink) < brightness(paper)) == (scheme == "light")
    tab.close()


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.parametrize("screen", SCREENS)
def test_the_pointer_finds_the_numbers_and_no_chart_moves(browser, run, screen):  # noqa: F811
    write_rows(run, *(one | TWELVE for one in RUNS["plain"]))
    path = write_report(run)
    tab = opened(browser, screen)
    tab.goto(path.as_uri())
    for figure in tab.locator("figure").all():
        picture, words = figure.locator("svg:visible"), figure.locator("figcaption span")
        before = words.text_content()
        picture.scroll_into_view_if_needed()
        place = picture.bounding_box()
        tab.mouse.move(place["x"] + place["width"] * 0.45, place["y"] + place["height"] / 2)
        assert words.text_content().startswith("step ")
        assert picture.bounding_box() == place
        tab.mouse.move(1, 1)
        assert words.text_content() == before
    tab.close()
