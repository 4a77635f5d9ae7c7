"""What a page shows and what its code makes, compared: words exactly, numbers about; for several tests."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence

NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
SHARE = 0.02  # of a number that is printed
UNITS = 3.0  # of a drawing, by which a place may be off
UNITS_TRAINED = 15.0  # the same where something was trained: other CPUs add in another order
DEPTH, DEPTH_TRAINED = 0.05, 0.2  # of the opacity of a cell

Point = tuple[float, float]


def difference_of_words(shown: str, made: str) -> str | None:
    """Return the first line that differs by more than a number by 2 % or by 1 in its last decimal, or None."""
    lines = [
        [" ".join(line.split()) for line in text.strip().splitlines()] for text in (shown, made)
    ]
    for number, (one, other) in enumerate(zip(*lines, strict=False), 1):
        if not _about_the_same(one, other):
            return f"line {number}: the page shows {one!r}, printed was {other!r}"
    if len(lines[0]) != len(lines[1]):
        return f"the page shows {len(lines[0])} lines, printed were {len(lines[1])}"
    return None


def _about_the_same(one: str, other: str) -> bool:
    if one == other:
        return True
    if NUMBER.sub("0", one) != NUMBER.sub("0", other):
        return False
    return all(map(_close, NUMBER.findall(one), NUMBER.findall(other)))


def _close(one: str, other: str) -> bool:
    first, second = (float(text.replace(",", "").replace("−", "-")) for text in (one, other))
    last = 10.0 ** -len(one.partition(".")[2]) if "." in one and "e" not in one.lower() else 0.0
    return abs(first - second) <= max(SHARE * max(abs(first), abs(second)), 1.001 * last)


def difference_of_drawings(shown: str, made: str, trained: bool = False) -> str | None:
    """Return what is not the same in two SVG files beyond places that are off by a few units; None: nothing."""
    units, depth = (UNITS_TRAINED, DEPTH_TRAINED) if trained else (UNITS, DEPTH)
    one, other = (list(ElementTree.fromstring(text).iter()) for text in (shown, made))
    for first, second in zip(one, other, strict=False):
        name = first.tag.rpartition("}")[2]
        if (first.tag, sorted(first.attrib)) != (second.tag, sorted(second.attrib)):
            return f"<{name} {first.attrib}> is <{second.tag.rpartition('}')[2]} {second.attrib}>"
        words = difference_of_words(first.text or "", second.text or "")
        if words:
            return f"<{name}>: {words}"
        for key, value in first.attrib.items():
            if not _same_attribute(key, value, second.attrib[key], units, depth):
                return f"<{name}>: {key} is {value!r} in the file, {second.attrib[key]!r} was drawn"
    if len(one) != len(other):
        return f"{len(one)} parts in the file, {len(other)} were drawn"
    return None


def _same_attribute(key: str, one: str, other: str, units: float, depth: float) -> bool:
    if one == other:
        return True
    if key == "points":
        lines = [_corners(text) for text in (one, other)]
        return _lies_on(*lines, units) and _lies_on(*reversed(lines), units)
    if key == "class" or NUMBER.sub("0", one) != NUMBER.sub("0", other):
        return key == "aria-label" and _about_the_same(one, other)
    allowed = depth if key.endswith("opacity") else units
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= allowed for a, b in pairs)


def _corners(points: str) -> list[Point]:
    numbers = list(map(float, NUMBER.findall(points.replace(",", " "))))
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _lies_on(points: Sequence[Point], line: Sequence[Point], units: float) -> bool:
    """Return whether no point is further from a line, of other corners perhaps."""
    return all(min(_distances(point, line)) <= units for point in points)


def _distances(point: Point, line: Sequence[Point]) -> Iterator[float]:
    """Yield how far a point is from each stretch of a line."""
    (x, y) = point
    for (x0, y0), (x1, y1) in zip(line, [*line[1:], line[-1]], strict=True):
        across, down = x1 - x0, y1 - y0
        length = across**2 + down**2
        share = ((x - x0) * across + (y - y0) * down) / length if length else 0.0
        share = min(max(share, 0.0), 1.0)
        yield math.hypot(x - x0 - share * across, y - y0 - share * down)
