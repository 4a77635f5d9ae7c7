import xml.etree.ElementTree as ElementTree

import pytest

from minigpt.drawing import Line, bar, chart
from minigpt.figures import Box, Sketch

SVG = "{http://www.w3.org/2000/svg}"


def drawn(sketch: Sketch) -> ElementTree.Element:
    return ElementTree.fromstring(sketch.svg())


def numbers(element, *names) -> list[float]:
    return [float(element.get(name)) for name in names]


@pytest.fixture
def sketch():
    return Sketch(400, 200, name="a & b")


def test_a_box_says_where_arrows_may_touch_it(sketch):
    box = sketch.box(10, 20, "one\ntwo <three>", width=100, height=40, style="part-1")
    assert box == Box(10, 20, 100, 40)
    assert (box.left, box.right, box.top, box.bottom) == ((10, 40), (110, 40), (60, 20), (60, 60))
    tree = drawn(sketch)
    one, two = tree.findall(f"{SVG}text")
    assert (one.text, two.text) == ("one", "two <three>")
    assert float(two.get("y")) - float(one.get("y")) == 15


@pytest.mark.parametrize("last", [(100, 0), (0, 100), (-30, 40), (0, 0)])
def test_an_arrow_points_at_its_end(sketch, last):
    sketch.arrow((0, 0), last, text="there")
    tree = drawn(sketch)
    tip, *back = tree.find(f"{SVG}polygon").get("points").split()
    assert tuple(map(float, tip.split(","))) == last
    for corner in back:  # no part of the head lies beyond it
        x, y = map(float, corner.split(","))
        assert (last[0] - x) * last[0] + (last[1] - y) * last[1] >= 0
    assert tree.find(f"{SVG}text").text == "there"


def test_a_larger_number_is_a_deeper_cell_and_one_below_0_has_another_colour(sketch):
    place = sketch.cells(
        50, 30, [[1.0, 0.5], [0.0, -0.25]], size=20, rows="ab", columns="cd", digits=2
    )
    assert place == Box(50, 30, 40, 40)
    tree = drawn(sketch)
    cells = [i for i in tree.iter(f"{SVG}rect") if "cell" in i.get("class")]
    depths = [float(cell.get("fill-opacity")) for cell in cells]
    assert depths[0] > depths[1] > depths[3] > depths[2] == 0
    assert [cell.get("class") for cell in cells] == ["cell part-0"] * 3 + ["cell part-1"]
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert texts == ["1.00", "0.50", "0.00", "-0.25", "a", "b", "c", "d"]


def test_dots_and_bars_are_as_far_as_their_numbers(sketch):
    sketch.dots(0, 0, [(1, 0, "low"), (3, 10, "")], size=(100, 50), within=(0, 4, 0, 10))
    sketch.bars(0, 100, [("a", 1.0), ("b", 4.0), ("c", 8.0)], width=80, label=30, most=4, unit=" s")
    tree = drawn(sketch)
    assert [numbers(dot, "cx", "cy") for dot in tree.iter(f"{SVG}circle")] == [[25, 50], [75, 0]]
    bars = [i for i in tree.iter(f"{SVG}rect") if "cell" in i.get("class")]
    assert [numbers(bar, "x", "width") for bar in bars] == [[30, 20], [30, 80], [30, 80]]
    assert "4 s" in {text.text for text in tree.iter(f"{SVG}text")}


@pytest.mark.parametrize("points", [[], [(2.0, 3.0, "alone")], [(1.0, 1.0, ""), (1.0, 2.0, "")]])
def test_few_points_have_room_too(sketch, points):
    sketch.dots(0, 0, points, size=(100, 50))
    for dot in drawn(sketch).iter(f"{SVG}circle"):
        x, y = numbers(dot, "cx", "cy")
        assert 0 < x < 100
        assert 0 < y < 50


def test_a_chart_keeps_its_size_where_it_is_put(sketch, tmp_path):
    picture = chart([Line("loss", [(0, 2.0), (9, 1.0)], "part-0")], name="c", size=(200, 90))
    assert sketch.put(20, 40, picture, title="Losses") == Box(20, 40, 200, 90)
    sketch.save(tmp_path / "a.svg")
    tree = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert tree.get("aria-label") == "a & b"
    assert numbers(tree.find(f"{SVG}svg"), "x", "y", "width", "height") == [20, 40, 200, 90]
    assert tree.find(f"{SVG}svg/{SVG}polyline").get("class") == "part-0"


def test_a_bar_cut_into_parts_is_painted_and_levels_are_dashed_but_not_their_names(sketch):
    assert sketch.put(5, 5, bar([("a", 1.0), ("b", 3.0)], name="n", width=200)).width == 200
    (placed,) = drawn(sketch).findall(f"{SVG}svg")
    assert placed.get("class") == "bar"
    assert [rect.get("class") for rect in placed] == ["part-0", "part-1"]
    style = sketch.svg().partition("</style>")[0]
    assert ".bar rect { fill: var(--paint); }" in style
    assert "line.level { stroke: var(--axis);" in style
    assert " .level {" not in style


def test_a_file_needs_nothing_else_and_has_colours_for_light_and_dark(sketch):
    text = sketch.svg()
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    for style in ("part-0", "part-1", "part-2", "part-3", "part-4"):
        assert text.count(f"--{style}:") == 2
