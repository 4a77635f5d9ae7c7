import doctest
import itertools
import math
from xml.etree import ElementTree

import pytest

from minigpt import drawing
from minigpt.drawing import Axis, Level, Line, apart, bar, chart, linear_ticks, log_ticks, thinned

SVG = "{http://www.w3.org/2000/svg}"
SIZE = (400, 200)


def drawn(lines, **options):
    return ElementTree.fromstring(chart(lines, name="a & b", size=SIZE, **options))


def corners(tree) -> list[tuple[float, float]]:
    points = tree.find(f"{SVG}polyline").get("points").split()
    return [tuple(map(float, point.split(","))) for point in points]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(drawing).failed == 0
    assert doctest.testmod(drawing).attempted > 4


def test_points_stand_where_the_axes_say():
    points = corners(drawn([Line("", [(0, 0.0), (50, 5.0), (100, 10.0)])], from_zero=True))
    assert points[0][0] == drawing.LEFT
    assert points[2][0] == SIZE[0] - 12
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.1)
    assert points[0][1] == SIZE[1] - drawing.BOTTOM > points[2][1] > drawing.TOP


def test_equal_factors_are_equal_distances_on_a_log_axis():
    points = corners(drawn([Line("", [(1, 0.01), (2, 0.1), (3, 1.0), (4, 0.0)])], log=True))
    assert len(points) == 3  # zero has no place there
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.1)


def test_names_levels_and_titles_are_escaped_and_there():
    tree = drawn(
        [Line("a<b", [(0, 1.0), (5, 2.0)])],
        levels=[Level("x & y", 1.5)],
        right=80,
        describe=lambda step: f"step {step:.0f} <&>",
    )
    texts = {text.text for text in tree.iter(f"{SVG}text")}
    assert {"a<b", "x & y"} <= texts
    assert [title.text for title in tree.iter(f"{SVG}title")] == ["step 0 <&>", "step 5 <&>"]
    assert tree.get("aria-label") == "a & b"


@pytest.mark.parametrize(
    "values", [[1.0], [0.0], [3.0, 3.0], [-1.0, 1.0], [1e-12, 1e12], [math.nan, 1.0, math.inf]]
)
@pytest.mark.parametrize("log", [False, True])
def test_strange_values_are_drawn_inside_the_picture_or_left_out(values, log):
    picture = chart([Line("n", list(enumerate(values)))], name="", size=SIZE, log=log, right=50)
    drawable = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    assert bool(picture) == bool(drawable)
    assert "nan" not in picture
    assert "inf" not in picture.replace("infinite", "")
    for _, y in corners(ElementTree.fromstring(picture)) if drawable else ():
        assert 0 <= y <= SIZE[1]


def test_thousands_of_points_keep_their_ends_and_extremes_and_none_is_made_up():
    points = [(step, math.sin(step / 50)) for step in range(9000)]
    points[4321] = (4321, 77.0)
    kept = thinned(points)
    assert len(kept) <= drawing.MOST_POINTS + 2
    assert set(kept) <= set(points)
    assert {points[0], points[-1], (4321, 77.0)} <= set(kept)
    assert kept == sorted(kept)
    tree = drawn([Line("", points)])
    assert len(list(tree.iter(f"{SVG}title"))) <= drawing.MOST_STEPS


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 19_073), (2.0, 5.1), (1e-5, 3e-4), (-3, 8)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = linear_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}


def test_ticks_of_a_log_axis_are_powers_where_there_is_room_for_them():
    assert log_ticks(1e-4, 1.0) == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert log_ticks(0.3, 3.0) == [0.5, 1.0, 2.0]
    assert log_ticks(1.52, 1.98) == [1.6, 1.8]
    assert Axis(1.0, 1.0, 0, 10).ticks() == [1.0]


def test_names_are_pushed_apart_and_stay_inside():
    places = apart([10, 11, 12, 95], 10, 0, 100)
    assert places == [10, 20, 30, 95]
    assert apart([96, 97, 98], 10, 0, 100) == [80, 90, 100]


def test_a_bar_is_cut_by_shares():
    tree = ElementTree.fromstring(bar([("updates", 3.0), ("saving", 1.0)], name="time", width=100))
    assert [float(part.get("width")) for part in tree.iter(f"{SVG}rect")] == [75.0, 25.0]
    assert [title.text for title in tree.iter(f"{SVG}title")] == [
        "updates: 75.0 %",
        "saving: 25.0 %",
    ]
