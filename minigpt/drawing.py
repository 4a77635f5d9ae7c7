"""Numbers in, SVG out: one line chart and one bar, drawn for paper of either colour, with no library.

A chart needs no script: steps carry their numbers in a `<title>`, which a browser shows where the pointer rests.
Colours are classes that the page defines, so that one drawing suits light and dark.
"""

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

LEFT, TOP, BOTTOM = 44, 12, 22  # margins of a chart
MOST_STEPS = 120  # places of a chart at which the pointer finds numbers
MOST_POINTS = 240  # corners of a line, about two to a pixel of a small screen
LABEL = 14.0  # from one label to the next

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: what stands beside it; empty: nothing.
        points: (x, y), x rising.
        style: classes of the page's style.
        dots: mark each point.
    """

    name: str
    points: Sequence[Point]
    style: str = "line"
    dots: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line at a value, with its name on it."""

    name: str
    value: float


# ------------------------------------------------------------------------------------------------------------ scales


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers in a range, about so many: steps of 1, 2 or 5 times a power of ten.

    >>> linear_ticks(0, 1353)
    [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda nice: abs(math.log(nice * power / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten in a range; fewer than two: also 2 and 5 times each, then what suits a linear one."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [float(f"{part}e{power}") for power in powers for part in parts]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) >= 2:
            return ticks[:: math.ceil(len(ticks) / 6)]
    return linear_ticks(low, high, 3)


def short(value: float) -> str:
    """Return a number as an axis shows it: 0, 0.25, 1,500, 30k, 2M, 3e-4.

    >>> [short(value) for value in (0.0, 0.25, 1500.0, 30_000.0, 2e6, 3e-4)]
    ['0', '0.25', '1,500', '30k', '2M', '3e-4']
    """
    size = abs(value)
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit and (unit > 1e3 or size >= 1e4):
            return f"{value / unit:.4g}{name}"
    if size and size < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


@dataclass(frozen=True)
class Axis:
    """Values onto a stretch of paper."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    apart: float = 56  # units between two ticks, about

    def at(self, value: float) -> float:
        """Return the place of a value; what lies outside lands on the edge."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return where to draw and name lines."""
        if self.log:
            return log_ticks(self.low, self.high)
        return linear_ticks(
            self.low, self.high, max(3, int(abs(self.end - self.start) / self.apart))
        )


# ---------------------------------------------------------------------------------------------------------- thinning


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return about `most` of the points, ends and extremes among them: none is moved or made up.

    >>> thinned([(0, 1), (1, 9), (2, 1), (3, 1), (4, 0), (5, 1), (6, 1), (7, 1)], 4)
    [(0, 1), (1, 9), (4, 0), (5, 1), (7, 1)]
    """
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    count = max(1, most // 2)
    for part in range(count):
        inside = range(part * len(points) // count, (part + 1) * len(points) // count)
        kept.add(min(inside, key=lambda i: points[i][1]))
        kept.add(max(inside, key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]


def spread(items: Sequence[float], most: int) -> list[float]:
    """Return at most `most` of the items, evenly spread, both ends among them.

    >>> spread([1, 2, 3, 4, 5], 3)
    [1, 3, 5]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


# ----------------------------------------------------------------------------------------------------------- drawing


def chart(
    lines: Sequence[Line],
    *,
    name: str,
    size: tuple[int, int],
    right: int = 12,
    levels: Sequence[Level] = (),
    ends_at: float = 0.0,
    log: bool = False,
    from_zero: bool = False,
    describe: Callable[[float], str] = short,
) -> str:
    """Return an SVG of lines over steps, with named axes, names at the lines' ends, and numbers for the pointer.

    Args:
        lines: what to draw; those with no points are left out.
        name: what the picture shows, for those who hear it.
        size: width and height; the picture scales.
        right: units kept free for names at the right.
        levels: horizontal lines.
        ends_at: the x axis reaches at least so far.
        log: powers of ten at equal distances; what is not above 0 is left out.
        from_zero: the y axis begins at 0.
        describe: returns the numbers at a step, in words.
    """
    lines = [Line(i.name, _drawable(i.points, log), i.style, i.dots) for i in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    width, height = size
    x = Axis(
        0, max(ends_at, 1, *(line.points[-1][0] for line in lines)), LEFT, width - right, apart=90
    )
    y = _value_axis(lines, levels, log, from_zero, height)
    steps = sorted({step for line in lines for step, _ in line.points})
    parts = [
        *_grid(x, y, width - right, height),
        *(_level(level, x, y) for level in levels),
        *(_line(line, x, y) for line in lines),
        *(_end_names(lines, levels, x, y) if right > 12 else ()),
        *_hits(steps, x, height, describe),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    return f'{head} aria-label="{html.escape(name)}">{"".join(parts)}</svg>'


def bar(
    parts: Sequence[tuple[str, float]], *, name: str, width: int = 720, height: int = 18
) -> str:
    """Return an SVG of one bar, cut into parts by their size; the part of number n has the style `part-n`."""
    total = sum(value for _, value in parts) or 1.0
    drawn, start = [], 0.0
    for number, (label, value) in enumerate(parts):
        length = width * value / total
        title = html.escape(f"{label}: {100 * value / total:.1f} %")
        drawn.append(
            f'<rect class="part-{number}" x="{start:.1f}" width="{length:.1f}" height="{height}">'
            f"<title>{title}</title></rect>"
        )
        start += length
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    style = 'class="bar" preserveAspectRatio="none"'
    return f'{head} {style} aria-label="{html.escape(name)}">{"".join(drawn)}</svg>'


def _drawable(points: Sequence[Point], log: bool) -> list[Point]:
    good = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]
    return thinned(good)


def _value_axis(
    lines: Sequence[Line], levels: Sequence[Level], log: bool, from_zero: bool, height: int
) -> Axis:
    values = [value for line in lines for _, value in line.points] + [i.value for i in levels]
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = (min(0.0, low) if from_zero else low - room), high + room
    return Axis(low, high, height - BOTTOM, TOP, log)


def _grid(x: Axis, y: Axis, end: float, height: int) -> Iterator[str]:
    for value in y.ticks():
        place = y.at(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{place:.1f}" y2="{place:.1f}"/>'
        yield _text(short(value), LEFT - 7, place + 4, "tick", "end")
    bottom = height - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{end}" y1="{bottom}" y2="{bottom}"/>'
    for value in x.ticks():
        place = x.at(value)
        yield f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield _text(short(value), place, height - 4, "tick", "middle")


def _level(level: Level, x: Axis, y: Axis) -> str:
    place = y.at(level.value)
    return f'<line class="level" x1="{x.start}" x2="{x.end}" y1="{place:.1f}" y2="{place:.1f}"/>'


def _line(line: Line, x: Axis, y: Axis) -> str:
    corners = [f"{x.at(step):.1f},{y.at(value):.1f}" for step, value in line.points]
    drawn = f'<polyline class="{line.style}" points="{" ".join(corners)}"/>'
    if line.dots or len(corners) == 1:
        marked = zip(line.points, corners, strict=True)
        if len(corners) > MOST_STEPS // 2:
            marked = list(marked)[-1:]
        for _, corner in marked:
            cx, cy = corner.split(",")
            drawn += f'<circle class="{line.style}" cx="{cx}" cy="{cy}" r="2.6"/>'
    return drawn


def _end_names(lines: Sequence[Line], levels: Sequence[Level], x: Axis, y: Axis) -> Iterator[str]:
    """Yield each name beside the end of its line, moved as little as keeps them apart."""
    wanted = [(y.at(line.points[-1][1]), line.name, f"name {line.style}") for line in lines]
    wanted += [(y.at(level.value), level.name, "name level") for level in levels]
    wanted = sorted(item for item in wanted if item[1])
    places = apart([place for place, _, _ in wanted], LABEL, y.end, y.start)
    for place, (_, name, style) in zip(places, wanted, strict=True):
        yield _text(name, x.end + 7, place + 4, style, "start")


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Return the same places, in their order, pushed apart to a distance and kept in a range where they fit.

    >>> apart([10, 12, 40], 10, 0, 50)
    [10, 20, 40]
    >>> apart([45, 50], 10, 0, 50)
    [40, 50]
    """
    pushed: list[float] = []
    for place in places:
        pushed.append(max(place, low, pushed[-1] + distance if pushed else low))
    for i in reversed(range(len(pushed))):
        highest = pushed[i + 1] - distance if i + 1 < len(pushed) else high
        pushed[i] = min(pushed[i], highest)
    return pushed


def _hits(
    steps: Sequence[float], x: Axis, height: int, describe: Callable[[float], str]
) -> Iterator[str]:
    """Yield invisible bands, one for each step that the pointer finds, with its numbers as the title."""
    steps = spread(steps, MOST_STEPS)
    for i, step in enumerate(steps):
        place = x.at(step)
        start = (x.at(steps[i - 1]) + place) / 2 if i else x.start
        end = (place + x.at(steps[i + 1])) / 2 if i + 1 < len(steps) else min(x.end, place + 20)
        bottom = height - BOTTOM
        yield (
            f'<g class="hit"><rect x="{start:.1f}" y="0" width="{max(end - start, 0.5):.1f}" height="{height}"/>'
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{bottom}"/>'
            f"<title>{html.escape(describe(step))}</title></g>"
        )


def _text(text: str, x: float, y: float, style: str, anchor: str) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{style}" {where}>{html.escape(text)}</text>'
