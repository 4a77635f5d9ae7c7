"""The rows of `metrics.jsonl` in, the charts of a report out: SVG in figures with captions, for a page."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from minigpt.config import RunConfig
from minigpt.drawing import Level, Line, Point, chart, spread
from minigpt.page import safe

MOST_BLOCKS = 4  # lines in the chart of blocks: the first, the last, and some between
FAR_ABOVE = 2.0  # times the highest baseline: such a loss is drawn on a log scale
SMALL = (380, 180)  # width and height

Row = dict[str, Any]


def loss_chart(rows: list[Row], settings: RunConfig) -> str:
    """Return the losses beside what they must beat, in bits per byte where that is known; "" where there are none."""
    held = points_of(rows, "val_bits_per_byte")
    scale = next(
        (row["val_bits_per_byte"] / row["val_loss"] for row in reversed(rows) if number_in(row, "val_loss")
         and number_in(row, "val_bits_per_byte")),
        None,
    )  # fmt: skip
    train = [(step, value * (scale or 1)) for step, value in points_of(rows, "train_loss")]
    if not train and not held:
        return ""
    levels = [Level(f"{name} {bits:.2f}", bits) for name, bits in baselines_in(rows).items()]
    highest = max((value for _, value in train + held), default=0.0)
    # Of a run that went wild, equal distances would show that alone.
    is_wild = bool(levels) and highest > FAR_ABOVE * max(level.value for level in levels)
    by_step = {row["step"]: row for row in rows}

    def describe(step: float) -> str:
        row = by_step[int(step)]
        words = [f"step {step:,.0f}"]
        if bits := number_in(row, "val_bits_per_byte"):
            words.append(
                f"held-out {bits:.4f} bits per byte ({row.get('val_loss', 0):.4f} nats per token)"
            )
        if loss := number_in(row, "train_loss"):
            words.append(f"training {loss:.4f} nats per token")
        return " · ".join(words)

    lines = [
        Line(f"training {train[-1][1]:.2f}" if train else "", train, "line train"),
        Line(f"held-out {held[-1][1]:.2f}" if held else "", held, "line held", dots=True),
    ]
    pictures = [
        (style, chart(
            lines, name="Loss over steps", size=size, right=right, levels=levels, ends_at=end_of(rows, settings),
            log=is_wild, describe=describe,
        ))
        for style, size, right in (("broad", (880, 400), 104), ("narrow", (350, 300), 98))
    ]  # fmt: skip
    unit = "bits per byte" if scale else "nats per token"
    words = f"{unit}, over steps{' (log scale)' if is_wild else ''}; less is better"
    if scale:
        words += f". Here 1 nat per token is {scale:.3f} bits per byte"
    drawn = "".join(f'<div class="{style}">{picture}</div>' for style, picture in pictures)
    return f"<h2>Loss</h2>\n{_figure('', words, drawn)}"


def small_charts(rows: list[Row], settings: RunConfig) -> Iterator[str]:
    """Yield the charts of what drives the run and how fast it goes."""
    clip = settings.optim.clip
    charts: list[tuple[str, str, str, dict[str, Any]]] = [
        ("lr", "Learning rate", "", {"from_zero": True}),
        (
            "grad_norm",
            "Gradient norm",
            f"before clipping at {clip:g}" if clip else "",
            {"log": True},
        ),
        ("tokens_per_second", "Tokens per second", "updates alone", {"from_zero": True}),
    ]
    for key, title, words, options in charts:
        points = points_of(rows, key)
        described = _describer(key.replace("_", " "), dict(points))
        picture = chart(
            [Line("", points)], name=title, size=SMALL, ends_at=end_of(rows, settings), describe=described, **options,
        )  # fmt: skip
        if picture:
            yield _figure(title, words, picture)
        if key == "grad_norm":
            yield from _blocks(rows, settings)


def _describer(name: str, values: dict[float, float]) -> Callable[[float], str]:
    return lambda step: f"step {step:,.0f} · {name} {values[step]:,.4g}"


def _blocks(rows: list[Row], settings: RunConfig) -> Iterator[str]:
    """Yield the chart of how far each block moves in an update: some of the blocks, dark where they are deep."""
    measured = {
        row["step"]: row["update_ratio"]
        for row in rows
        if isinstance(row.get("update_ratio"), list)
    }
    blocks = min((len(ratios) for ratios in measured.values()), default=0)
    if not blocks:
        return
    shown = [int(block) for block in spread(range(blocks), MOST_BLOCKS)]
    lines = [
        Line(
            f"block {block}",
            [(step, ratios[block]) for step, ratios in measured.items()],
            f"line depth-{round(3 * place / max(1, len(shown) - 1)) if len(shown) > 1 else 3}",
        )
        for place, block in enumerate(shown)
    ]

    def describe(step: float) -> str:
        ratios = measured[int(step)]
        return f"step {step:,.0f} · " + " · ".join(f"block {b}: {ratios[b]:.2e}" for b in shown)

    picture = chart(
        lines, name="Update to weight, by block", size=SMALL, right=62, ends_at=end_of(rows, settings), log=True,
        describe=describe,
    )  # fmt: skip
    if picture:
        words = "change of a block's matrices in one update, over their size; 0.001 is common"
        yield _figure("Update to weight", words, picture)


def _figure(title: str, words: str, picture: str) -> str:
    head = f"<b>{safe(title)}</b><br>" if title else ""
    return f"<figure><figcaption>{head}<span>{safe(words)}</span></figcaption>{picture}</figure>"


# ----------------------------------------------------------------------------------------------------------- numbers


def end_of(rows: list[Row], settings: RunConfig) -> int:
    """Return the step at which a run ends or has ended: the last of the settings, or where `train.patience` ran out."""
    patience, waited, best = settings.train.patience, 0, math.inf
    for step, loss in points_of(rows, "val_loss"):
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if patience and waited >= patience:
            return int(step)
    return settings.train.steps


def number_in(row: Row, key: str) -> float | None:
    """Return a number of a row; None where it is absent or something else."""
    value = row.get(key)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def points_of(rows: list[Row], key: str) -> list[Point]:
    """Return (step, number) of the rows that have the number."""
    return [(row["step"], value) for row in rows if (value := number_in(row, key)) is not None]


def baselines_in(rows: list[Row]) -> dict[str, float]:
    """Return the bits per byte of each baseline, from the row that has them."""
    found = next((row["baselines"] for row in rows if isinstance(row.get("baselines"), dict)), {})
    return {name: float(known["bits_per_byte"]) for name, known in found.items()}
