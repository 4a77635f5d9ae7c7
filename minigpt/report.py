"""A run directory in, one HTML file out: what the run did, to be read by anybody, anywhere, without a network.

It works for a run that is under way or was broken off, too: what is not there yet is left out. Every number that is
drawn stands in `metrics.jsonl`.
"""

import html
import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from minigpt import __version__, config
from minigpt.config import RunConfig
from minigpt.drawing import Level, Line, Point, bar, chart, spread
from minigpt.errors import UserError
from minigpt.files import read_json, replace_text
from minigpt.model.size import parameter_count
from minigpt.rundir import RunDir
from minigpt.verdict import verdict

REPORT = "report.html"
MOST_SAMPLES = 7
MOST_BLOCKS = 4  # lines in the chart of blocks: the first, the last, and some between
SAMPLE_CHARACTERS = 1200
SAMPLES_BYTES = 1 << 24  # of samples.txt that are read
PARTS = ("updates", "evaluation", "sampling", "saving")
DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

Row = dict[str, Any]


def write_report(run: Path | str, out: Path | None = None) -> Path:
    """Write the report of a run and return where it is.

    Args:
        run: a run directory.
        out: the file; None: `report.html` in the run directory.

    Raises:
        UserError: `run` is no run, or what it has written is damaged.
    """
    directory = RunDir.open(run)
    path = out or directory.path / REPORT
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"the report cannot be written to {path}; pass the name of a file in a folder that exists"
        )
    rows = read_rows(directory.path / "metrics.jsonl")
    samples = read_samples(directory.path / "samples.txt")
    data = directory.path / "data.json"
    facts = read_json(data) if data.is_file() else {}
    name = directory.path.resolve().name
    sentence = verdict(rows).sentence.removeprefix("verdict: ")
    judged = sentence[:1].upper() + sentence[1:]
    replace_text(path, page(name, directory.config, rows, samples, facts, judged))
    return path


def read_rows(path: Path) -> list[Row]:
    """Return the objects of `metrics.jsonl`, without a last line that is still being written.

    Raises:
        UserError: another line is damaged.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, TypeError, KeyError):
            if number < len(lines) - 1:
                raise UserError(
                    f"line {number} of {path} is no row of metrics; restore or remove it"
                ) from None
    return rows


def read_samples(path: Path) -> list[tuple[int, str]]:
    """Return the first text of each step in `samples.txt`, (step, text)."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        text = file.read(SAMPLES_BYTES).decode("utf-8", errors="replace")
    found: dict[int, str] = {}
    for part in ("\n" + text).split("\n--- step ")[1:]:
        step, _, drawn = part.partition("\n")
        if step.isdecimal():
            found.setdefault(int(step), drawn.strip("\n"))
    return list(found.items())


# -------------------------------------------------------------------------------------------------------------- page


def page(
    name: str,
    settings: RunConfig,
    rows: list[Row],
    samples: Sequence[tuple[int, str]] = (),
    facts: dict[str, Any] | None = None,
    verdict: str = "",
) -> str:
    """Return the report as HTML.

    Args:
        name: of the run.
        settings: as resolved.
        rows: of `metrics.jsonl`.
        samples: (step, text).
        facts: what the run was trained on, as `data.json` has it.
        verdict: sentences to begin with.
    """
    parts = [
        _header(name, settings, rows),
        f'<p class="verdict">{_safe(verdict)}</p>' if verdict else "",
        _loss(rows, settings),
        '<div class="small">' + "".join(_small_charts(rows, settings)) + "</div>",
        _times(rows),
        _samples(samples),
        _settings(settings),
        _data(facts or {}),
        f"<footer>minigpt {__version__}. Every number drawn here stands in <code>metrics.jsonl</code>.</footer>",
    ]
    return fill_page(name, "\n".join(part for part in parts if part))


def fill_page(title: str, body: str) -> str:
    """Return a whole page with the style of the house around a body of HTML."""
    template = (resources.files("minigpt") / "templates" / "page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=_safe(title), body=body)


def visible(text: str) -> str:
    """Return a text in which what has no shape has one: control characters as pictures, turns of direction as �.

    >>> visible("a\\x00b\\tc\\x1b[0m")
    'a␀b\\tc␛[0m'
    """
    return "".join(_shape(character) for character in text)


def _shape(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    if character in DIRECTIONS or unicodedata.category(character) in ("Cc", "Cs", "Cn"):
        return "\ufffd"
    return character


def _safe(text: object) -> str:
    return html.escape(visible(str(text)))


# ---------------------------------------------------------------------------------------------------------- sections


def _header(name: str, settings: RunConfig, rows: list[Row]) -> str:
    model, steps = settings.model, settings.train.steps
    shape = f"{model.n_layer} layers, {model.n_head} heads, {model.n_embd} channels, context {model.block_size:,}"
    if model.vocab_size:
        shape = f"{parameter_count(model):,} parameters: {shape}"
    step = rows[-1]["step"] if rows else 0
    far = f"{step:,} steps, finished" if steps and step >= steps else f"step {step:,} of {steps:,}"
    if not rows:
        far = "nothing logged yet"
    figures = "".join(
        f"<div><dt>{_safe(label)}</dt><dd>{_safe(value)}</dd></div>"
        for value, label in _figures(rows)
    )
    return (
        f"<h1>{_safe(name)}</h1>\n"
        f'<p class="soft">{_safe(shape)}<br>trained on {_safe(settings.data.source)}; {_safe(far)}</p>\n'
        + (f'<dl class="figures">{figures}</dl>' if figures else "")
    )


def _figures(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """Yield the numbers that a person asks for first, (value, label)."""
    evaluated = [
        row for row in rows if _number(row, "val_loss") and _number(row, "val_bits_per_byte")
    ]
    if evaluated:
        best = min(evaluated, key=lambda row: row["val_loss"])
        yield (
            f"{best['val_bits_per_byte']:.3f}",
            f"bits per byte held out, at best (step {best['step']:,})",
        )
        bigram = _baselines(rows).get("bigram")
        if bigram:
            yield f"{bigram:.3f}", "bits per byte of the guess from the last token"
    if not rows:
        return
    last = rows[-1]
    if tokens := _number(last, "tokens"):
        epoch = _number(last, "epoch")
        yield _amount(tokens), "tokens trained on" + (f" ({epoch:.2f} epochs)" if epoch else "")
    if seconds := _spent(rows)[0]:
        yield duration(seconds), "in updates"
        if tokens:
            yield _amount(tokens / seconds), "tokens per second, on average"
    if memory := _number(last, "peak_memory_bytes"):
        yield f"{memory / 1e9:.2f} GB", "peak memory"


def _loss(rows: list[Row], settings: RunConfig) -> str:
    held = _points(rows, "val_bits_per_byte")
    scale = next(
        (row["val_bits_per_byte"] / row["val_loss"] for row in reversed(rows) if _number(row, "val_loss")
         and _number(row, "val_bits_per_byte")),
        None,
    )  # fmt: skip
    train = [(step, value * (scale or 1)) for step, value in _points(rows, "train_loss")]
    if not train and not held:
        return ""
    levels = [Level(f"{name} {bits:.2f}", bits) for name, bits in _baselines(rows).items()]
    by_step = {row["step"]: row for row in rows}

    def describe(step: float) -> str:
        row = by_step[int(step)]
        words = [f"step {step:,.0f}"]
        if bits := _number(row, "val_bits_per_byte"):
            words.append(
                f"held-out {bits:.4f} bits per byte ({row.get('val_loss', 0):.4f} nats per token)"
            )
        if loss := _number(row, "train_loss"):
            words.append(f"training {loss:.4f} nats per token")
        return " · ".join(words)

    lines = [
        Line(f"training {train[-1][1]:.2f}" if train else "", train, "line train"),
        Line(f"held-out {held[-1][1]:.2f}" if held else "", held, "line held", dots=True),
    ]
    pictures = [
        (style, chart(
            lines, name="Loss over steps", size=size, right=right, levels=levels, ends_at=settings.train.steps,
            describe=describe,
        ))
        for style, size, right in (("broad", (880, 400), 104), ("narrow", (350, 300), 98))
    ]  # fmt: skip
    unit = "bits per byte" if scale else "nats per token"
    words = f"{unit}, over steps; less is better"
    if scale:
        words += f". Here 1 nat per token is {scale:.3f} bits per byte"
    drawn = "".join(f'<div class="{style}">{picture}</div>' for style, picture in pictures)
    return f"<h2>Loss</h2>\n{_figure('', words, drawn)}"


def _small_charts(rows: list[Row], settings: RunConfig) -> Iterator[str]:
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
        points = _points(rows, key)
        values = dict(points)
        described = _describer(key.replace("_", " "), values)
        picture = chart(
            [Line("", points)], name=title, size=(380, 180), ends_at=settings.train.steps, describe=described,
            **options,
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
        lines, name="Update to weight, by block", size=(380, 180), right=62, ends_at=settings.train.steps, log=True,
        describe=describe,
    )  # fmt: skip
    if picture:
        words = "change of a block's matrices in one update, over their size; 0.001 is common"
        yield _figure("Update to weight", words, picture)


def _times(rows: list[Row]) -> str:
    spent = list(zip(PARTS, _spent(rows), strict=True))
    total = sum(seconds for _, seconds in spent)
    if not total:
        return ""
    lines = "".join(
        f'<tr><td><i class="part-{number}"></i>{name}</td><td class="number">{duration(seconds)}</td>'
        f'<td class="number">{100 * seconds / total:.1f} %</td></tr>'
        for number, (name, seconds) in enumerate(spent)
    )
    return f"<h2>Where the time went</h2>\n{bar(spent, name='Where the time went')}<table>{lines}</table>"


def _samples(samples: Sequence[tuple[int, str]]) -> str:
    if not samples:
        return ""
    texts = dict(samples)
    shown = []
    for step in spread(list(texts), MOST_SAMPLES):
        text = texts[int(step)]
        text = text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else "")
        shown.append(f"<span>step {step:,}</span><pre>{_safe(text)}</pre>")
    return f'<h2>What it wrote</h2>\n<div class="samples">{"".join(shown)}</div>'


def _settings(settings: RunConfig) -> str:
    different = config.changes(RunConfig(), settings)
    first = "".join(
        f"<tr><td><code>{name}</code></td><td><code>{_safe(_shown(now))}</code></td>"
        f'<td class="soft"><code>{_safe(_shown(before))}</code></td></tr>'
        for name, (before, now) in different.items()
    )
    rest = "".join(
        f"<tr><td><code>{section}.{key}</code></td><td><code>{_safe(_shown(value))}</code></td></tr>"
        for section, values in config.to_dict(settings).items()
        for key, value in values.items()
        if f"{section}.{key}" not in different
    )
    table = f'<div class="scroll"><table><tr><th>setting</th><th>here</th><th>default</th></tr>{first}</table></div>'
    return (
        f"<h2>Settings</h2>\n{table if first else '<p>All as by default.</p>'}"
        f'<details><summary>the others, as by default</summary><div class="scroll"><table>{rest}</table></div>'
        "</details>"
    )


def _data(facts: dict[str, Any]) -> str:
    lines = [
        f'<tr><td>{name}</td><td class="wide">{_safe(_counted(facts[key]))}</td></tr>'
        for key, name in (
            ("source", "source"), ("train", "trained on"), ("val", "held out"), ("vocab_size", "ids"),
            ("duplicates", "in both parts"), ("fingerprint", "fingerprint"),
        )
        if key in facts
    ]  # fmt: skip
    return f"<h2>What it was trained on</h2>\n<table>{''.join(lines)}</table>" if lines else ""


def _figure(title: str, words: str, picture: str) -> str:
    head = f"<b>{_safe(title)}</b><br>" if title else ""
    return f"<figure><figcaption>{head}<span>{_safe(words)}</span></figcaption>{picture}</figure>"


# ----------------------------------------------------------------------------------------------------------- numbers


def _number(row: Row, key: str) -> float | None:
    """Return a number of a row; None where it is absent or something else."""
    value = row.get(key)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def _points(rows: list[Row], key: str) -> list[Point]:
    return [(row["step"], value) for row in rows if (value := _number(row, key)) is not None]


def _baselines(rows: list[Row]) -> dict[str, float]:
    """Return the bits per byte of each baseline, from the row that has them."""
    found = next((row["baselines"] for row in rows if isinstance(row.get("baselines"), dict)), {})
    return {name: float(known["bits_per_byte"]) for name, known in found.items()}


def _spent(rows: list[Row]) -> list[float]:
    """Return the seconds spent in each of PARTS."""
    last = rows[-1] if rows else {}
    keys = ("seconds", *(f"{name}_seconds" for name in PARTS[1:]))
    return [_number(last, key) or 0.0 for key in keys]


def _amount(value: float) -> str:
    """Return a large number in three digits.

    >>> [_amount(value) for value in (950, 27_654, 1_385_472)]
    ['950', '27.7 k', '1.39 M']
    """
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them.

    >>> [duration(seconds) for seconds in (0.25, 72, 5000, 200_000)]
    ['0.2 s', '1 min 12 s', '1 h 23 min', '2 d 7 h']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in (
        (86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
    ):  # fmt: skip
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {smaller_name}"
    return f"{whole} s"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
    )


def _counted(value: Any) -> str:
    """Return a fact of `data.json` in words: {"tokens": 5000, "documents": 3} as `5,000 tokens, 3 documents`."""
    if isinstance(value, dict):
        counts = {
            key: known for key, known in value.items() if isinstance(known, int | float) and known
        }
        return (
            ", ".join(f"{known:,} {key.replace('_', ' ')}" for key, known in counts.items())
            or "none"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)
