"""Boxes, arrows, cells, dots and charts in, one SVG file out that stands alone, for a page of words.

    sketch = Sketch(400, 120, name="A number goes through a layer")
    first, second = sketch.box(20, 40, "stream"), sketch.box(250, 40, "MLP", style="part-0")
    sketch.arrow(first.right, second.left, "normed")
    sketch.save("layer.svg")

Places are units of the picture, x to the right and y downwards. A style is `part-0` to `part-4`, one colour each, or
`plain`; it suits light and dark paper, as the file carries both.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.drawing import Point
from minigpt.files import replacing

STYLE = """
svg { --ink: #1e2226; --soft: #5f656c; --hair: #e6e3dc; --axis: #a19e96; --card: #ffffff;
  --part-0: #1f5fa8; --part-1: #b3591a; --part-2: #2c7a4b; --part-3: #8a4b9c; --part-4: #8a8f96;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { svg { --ink: #e4e5e3; --soft: #a3a9b1; --hair: #2b3037; --axis: #676e77;
  --card: #1b1f24; --part-0: #7db4ee; --part-1: #e0a562; --part-2: #7ec797; --part-3: #cf9be0; --part-4: #9aa0a8; } }
.paper { fill: var(--card); }
svg { overflow: visible; font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
text { font-size: 12px; fill: var(--ink); }
text.tick, text.soft { fill: var(--soft); }
text.small { font-size: 10px; }
text.title { font-weight: 600; }
text.code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.grid { stroke: var(--hair); } .axis { stroke: var(--axis); }
line.level { stroke: var(--axis); stroke-dasharray: 2 4; } text.level { fill: var(--soft); }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; stroke: var(--part-0); }
.arrow { fill: none; stroke: var(--soft); stroke-width: 1.3; } .tip { fill: var(--soft); }
.box { fill: var(--paint); fill-opacity: 0.12; stroke: var(--paint); stroke-width: 1.2; }
.cell, .bar rect { fill: var(--paint); } .frame { fill: none; stroke: var(--hair); }
circle { fill: var(--paint); }
polyline[class*="part-"] { stroke: var(--paint); } .name[class*="part-"] { fill: var(--paint); font-weight: 600; }
.plain { --paint: var(--axis); } .part-0 { --paint: var(--part-0); } .part-1 { --paint: var(--part-1); }
.part-2 { --paint: var(--part-2); } .part-3 { --paint: var(--part-3); } .part-4 { --paint: var(--part-4); }
.hit rect { fill: transparent; } .hit line { stroke: none; }
""".strip()  # the colours of templates/house.css, and three more
LINE = 15  # from one line of words to the next
TIP = 7  # an arrow's head


@dataclass(frozen=True)
class Box:
    """Where a box lies; the middles of its sides are where arrows begin and end."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        """The middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        """The middle of the right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        """The middle of the upper side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        """The middle of the lower side."""
        return self.x + self.width / 2, self.y + self.height


class Sketch:
    """A picture that grows by what is put on it."""

    def __init__(self, width: float, height: float, *, name: str) -> None:
        """Begin with an empty sheet.

        Args:
            width: units from left to right; on a page of words 720 is about as wide as the text.
            height: units from top to bottom.
            name: what the picture shows, for those who hear it.
        """
        self._size, self._name = (width, height), name
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, text: str, *, width: float = 120, height: float = 36,
        style: str = "plain",
    ) -> Box:  # fmt: skip
        """Draw a box around words, \\n between lines, and return where it lies; x and y are its upper left corner."""
        self._parts.append(
            f'<rect class="box {style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>'
        )
        lines = text.split("\n")
        first = y + height / 2 + 4 - LINE * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            self.words(x + width / 2, first + number * LINE, line, anchor="middle")
        return Box(x, y, width, height)

    def arrow(self, *corners: Point, text: str = "", head: bool = True) -> None:
        """Draw a line through corners, with a head at the last and words beside its first stretch."""
        (before, last) = corners[-2:]
        self._parts.append(
            f'<polyline class="arrow" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>'
        )
        if head:
            self._parts.append(_tip(before, last))
        if text:
            (x, y), (to_x, to_y) = corners[:2]
            level = abs(to_x - x) >= abs(to_y - y)
            place = ((x + to_x) / 2, (y + to_y) / 2 - 6) if level else (x + 7, (y + to_y) / 2 + 4)
            self.words(*place, text, style="soft", anchor="middle" if level else "start")

    def words(
        self, x: float, y: float, text: str, *, style: str = "", anchor: str = "start"
    ) -> None:
        """Write words on a line.

        Args:
            x: where they start, or what `anchor` says.
            y: the line they stand on.
            text: the words.
            style: any of title, soft, small, code, with spaces between; "name part-0" has that colour.
            anchor: start, middle or end: which of their points lies at x.
        """
        self._parts.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def cells(
        self, x: float, y: float, values: Sequence[Sequence[float]], *, size: float = 22, style: str = "part-0",
        rows: Sequence[str] = (), columns: Sequence[str] = (), digits: int | None = None,
        most: float | None = None,
    ) -> Box:  # fmt: skip
        """Draw numbers as squares, the larger the deeper; below 0 in the colour `part-1`.

        Args:
            x: the left of the first column.
            y: the top of the first row.
            values: rows of numbers.
            size: of a square.
            style: the colour of what is above 0.
            rows: a name for each row, at its left.
            columns: a name for each column, above it.
            digits: write each number so, rounded.
            most: what is drawn deepest; None: the largest there is.
        """
        deepest = most or max((abs(value) for row in values for value in row), default=1) or 1.0
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                self._cell(x + j * size, y + i * size, value, value / deepest, size, style, digits)
        for i, text in enumerate(rows):
            self.words(x - 6, y + (i + 0.5) * size + 4, text, style="soft", anchor="end")
        for j, text in enumerate(columns):
            self.words(x + (j + 0.5) * size, y - 6, text, style="soft", anchor="middle")
        return Box(x, y, size * max(map(len, values), default=0), size * len(values))

    def dots(
        self, x: float, y: float, points: Iterable[tuple[float, float, str]], *, size: tuple[float, float],
        style: str = "part-0", within: tuple[float, float, float, float] | None = None, radius: float = 3.5,
    ) -> Box:  # fmt: skip
        """Draw named points in a frame.

        Args:
            x: the left of the frame.
            y: the top of the frame.
            points: across, up, and a name beside it, or "".
            size: width and height of the frame.
            style: the colour.
            within: least and most across, least and most up; None: as the points lie.
            radius: of a dot.
        """
        points, (width, height) = list(points), size
        low_x, high_x, low_y, high_y = within or _room(points)
        self._parts.append(
            f'<rect class="frame" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        )
        for across, up, text in points:
            at_x = x + width * (across - low_x) / (high_x - low_x)
            at_y = y + height - height * (up - low_y) / (high_y - low_y)
            self._parts.append(
                f'<circle class="{style}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="{radius:g}"/>'
            )
            if text:
                self.words(at_x + radius + 3, at_y + 4, text, style="soft")
        return Box(x, y, width, height)

    def bars(
        self, x: float, y: float, items: Sequence[tuple[str, float]], *, width: float, label: float = 120,
        style: str = "part-0", most: float | None = None, unit: str = "",
    ) -> Box:  # fmt: skip
        """Draw a bar for each number, its name at the left and the number behind it.

        Args:
            x: where the names begin.
            y: the top of the first bar.
            items: name and number, at least 0.
            width: of the longest bar.
            label: room for the names.
            style: the colour.
            most: the number of the longest bar; None: the largest there is.
            unit: what stands behind each number.
        """
        longest = most or max((value for _, value in items), default=1) or 1.0
        for number, (text, value) in enumerate(items):
            top = y + number * 22
            length = width * min(value / longest, 1.0)
            self.words(x + label - 8, top + 12, text, anchor="end")
            self._parts.append(
                f'<rect class="cell {style}" x="{x + label:g}" y="{top:g}" width="{length:.1f}" height="16" rx="2"/>'
            )
            self.words(x + label + length + 6, top + 12, f"{value:.4g}{unit}", style="soft")
        return Box(x, y, label + width, 22 * len(items))

    def put(self, x: float, y: float, chart: str, *, title: str = "") -> Box:
        """Place a chart of `minigpt.drawing.chart` in its own size, with a title above it."""
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)[0])
        placed = f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        self._parts.append(chart.replace("<svg ", placed, 1))
        if title:
            self.words(x, y - 4, title, style="title")
        return Box(x, y, width, height)

    def svg(self) -> str:
        """Return the picture as a file that needs nothing else."""
        width, height = self._size
        size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
        paper = f'<rect class="paper" width="{width:g}" height="{height:g}" rx="6"/>'
        parts = "\n".join([paper, *self._parts])
        return f'{head} aria-label="{html.escape(self._name)}">\n<style>{STYLE}</style>\n{parts}\n</svg>\n'

    def save(self, path: str | Path) -> None:
        """Write the picture to a file, whole or not at all."""
        with replacing(Path(path)) as new:
            new.write_text(self.svg(), encoding="utf-8")

    def _cell(
        self, x: float, y: float, value: float, share: float, size: float, style: str, digits: int | None
    ) -> None:  # fmt: skip
        """Draw one square of `cells`, as deep as the share says."""
        paint, depth = (style, share) if share >= 0 else ("part-1", -share)
        square = f'x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}"'
        self._parts.append(
            f'<rect class="cell {paint}" {square} fill-opacity="{min(depth, 1) * 0.75:.3f}"/>'
            f'<rect class="frame" {square}/>'
        )
        if digits is not None:
            small = "small" if size < 32 else ""
            self.words(
                x + size / 2, y + size / 2 + 4, f"{value:.{digits}f}", style=small, anchor="middle"
            )


def _tip(before: Point, last: Point) -> str:
    """Return the head of an arrow that comes from a corner."""
    across, down = last[0] - before[0], last[1] - before[1]
    length = (across**2 + down**2) ** 0.5 or 1.0
    across, down = across / length, down / length
    back = last[0] - TIP * across, last[1] - TIP * down
    side = 0.45 * TIP
    corners = [
        last,
        (back[0] - side * down, back[1] + side * across),
        (back[0] + side * down, back[1] - side * across),
    ]
    return f'<polygon class="tip" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>'


def _room(points: Sequence[tuple[float, float, str]]) -> tuple[float, float, float, float]:
    """Return least and most of both directions, with a tenth more on each side."""
    found = []
    for values in ([point[0] for point in points], [point[1] for point in points]):
        low, high = min(values, default=0.0), max(values, default=1.0)
        more = 0.1 * (high - low) or 1.0
        found += [low - more, high + more]
    return found[0], found[1], found[2], found[3]
