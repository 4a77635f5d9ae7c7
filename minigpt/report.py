"""A run directory in, one HTML file out: what the run did, to be read by anybody, anywhere, without a network.

It works for a run that is under way or was broken off, too: what is not there yet is left out. Every number that is
drawn stands in `metrics.jsonl`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minigpt import __version__, config
from minigpt.config import RunConfig
from minigpt.curves import Row, baselines_in, end_of, loss_chart, number_in, points_of, small_charts
from minigpt.drawing import bar, spread
from minigpt.errors import UserError
from minigpt.files import read_json, replace_text
from minigpt.model.size import parameter_count
from minigpt.page import fill_page, safe
from minigpt.rundir import RunDir
from minigpt.verdict import beside_baselines, verdict

REPORT = "report.html"
MOST_SAMPLES = 7
SAMPLE_CHARACTERS = 1200
SAMPLES_BYTES = 1 << 24  # of samples.txt that are read
PARTS = ("updates", "evaluation", "sampling", "saving")


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
    replace_text(path, page(name, directory.config, rows, samples, facts, judged(rows)))
    return path


def judged(rows: list[Row]) -> str:
    """Return how a run stands, in sentences."""
    sentence = verdict(rows).sentence.removeprefix("verdict: ")
    words = sentence[:1].upper() + sentence[1:]
    best = min((bits for _, bits in points_of(rows, "val_bits_per_byte")), default=math.inf)
    if math.isfinite(best) and (said := beside_baselines(best, baselines_in(rows))):
        words += f". At its best it {said}"
    return words


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
        _header(name, settings, rows, facts or {}),
        f'<p class="verdict">{safe(verdict)}</p>' if verdict else "",
        pictures(rows, settings),
        _samples(samples),
        _settings(settings),
        _data(facts or {}),
        f"<footer>minigpt {__version__}. Every number drawn here stands in <code>metrics.jsonl</code>.</footer>",
    ]
    return fill_page(name, "\n".join(part for part in parts if part))


# ---------------------------------------------------------------------------------------------------------- sections


def _header(name: str, settings: RunConfig, rows: list[Row], facts: dict[str, Any]) -> str:
    shape, far = shape_in_words(settings), how_far(rows, settings)
    shown = "".join(
        f"<div><dt>{safe(label)}</dt><dd>{safe(value)}</dd></div>"
        for value, label in figures(rows, settings, facts)
    )
    return (
        f"<h1>{safe(name)}</h1>\n"
        f'<p class="soft">{safe(shape)}<br>trained on {safe(settings.data.source)}; {safe(far)}</p>\n'
        + (f'<dl class="figures">{shown}</dl>' if shown else "")
    )


def shape_in_words(settings: RunConfig) -> str:
    """Return how large the model of a run is."""
    model = settings.model
    shape = f"{model.n_layer} layers, {model.n_head} heads, {model.n_embd} channels, context {model.block_size:,}"
    return f"{parameter_count(model):,} parameters: {shape}" if model.vocab_size else shape


def how_far(rows: list[Row], settings: RunConfig) -> str:
    """Return which step a run has reached."""
    step, steps = rows[-1]["step"] if rows else 0, settings.train.steps
    if not rows:
        return "nothing logged yet"
    if steps and step >= steps:
        return f"{step:,} steps, finished"
    ended = ", ended by train.patience" if step >= end_of(rows, settings) else ""
    return f"step {step:,} of {steps:,}{ended}"


def figures(
    rows: list[Row], settings: RunConfig, facts: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the numbers that a person asks for first, (value, label)."""
    evaluated = [
        row for row in rows if number_in(row, "val_loss") and number_in(row, "val_bits_per_byte")
    ]
    if evaluated:
        best = min(evaluated, key=lambda row: row["val_loss"])
        held, measured = _tokens_held_out(facts), settings.train.eval_tokens
        part = f", {_amount(measured)} of {_amount(held)} tokens" if measured < held else ""
        yield (
            f"{best['val_bits_per_byte']:.3f}",
            f"bits per byte held out, at best (step {best['step']:,}{part})",
        )
        bigram = baselines_in(rows).get("bigram")
        if bigram:
            yield f"{bigram:.3f}", "bits per byte of the guess from the last token"
    if not rows:
        return
    last = rows[-1]
    if tokens := number_in(last, "tokens"):
        epoch = number_in(last, "epoch")
        yield _amount(tokens), "tokens trained on" + (f" ({epoch:.2f} epochs)" if epoch else "")
    if seconds := _spent(rows)[0]:
        yield duration(seconds), "in updates"
        if tokens:
            yield _amount(tokens / seconds), "tokens per second, on average"
    if memory := number_in(last, "peak_memory_bytes"):
        yield f"{memory / 1e9:.2f} GB", "peak memory"
    if skipped := sum(number_in(row, "skipped") or 0 for row in rows):
        yield f"{skipped:,}", "updates left out: not finite"
    if overflowed := sum(number_in(row, "overflowed") or 0 for row in rows):
        yield f"{overflowed:,}", "updates left out: too large for fp16"
    spikes = [row for row in rows if number_in(row, "spike_z") and number_in(row, "spike_step")]
    if spikes:
        highest = max(spikes, key=lambda row: row["spike_z"])
        which = "" if len(spikes) == 1 else f" of {len(spikes)}"
        yield (
            f"step {highest['spike_step']:,}",
            f"highest{which} spike{'s' * bool(which)} of the loss",
        )


def pictures(rows: list[Row], settings: RunConfig) -> str:
    """Return the charts of a run, as HTML: its loss, what drives it, where the time went."""
    small = '<div class="small">' + "".join(small_charts(rows, settings)) + "</div>"
    return "\n".join(part for part in (loss_chart(rows, settings), small, _times(rows)) if part)


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
    shown = "".join(
        f"<span>step {step:,}</span><pre>{safe(text)}</pre>" for step, text in some_of(samples)
    )
    return f'<h2>What it wrote</h2>\n<div class="samples">{shown}</div>'


def some_of(samples: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return a few of the texts, evenly spread over the run, none too long."""
    texts = dict(samples)
    return [
        (int(step), text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else ""))
        for step in spread(list(texts), MOST_SAMPLES)
        for text in [texts[int(step)]]
    ]


def settings_of(settings: RunConfig) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return the settings that are not as by default, (name, here, default), and the others, (name, value)."""
    different = config.changes(RunConfig(), settings)
    changed = [(name, shown(now), shown(before)) for name, (before, now) in different.items()]
    others = [
        (f"{section}.{key}", shown(value))
        for section, values in config.to_dict(settings).items()
        for key, value in values.items()
        if f"{section}.{key}" not in different
    ]
    return changed, others


def _settings(settings: RunConfig) -> str:
    changed, others = settings_of(settings)
    first = "".join(
        f"<tr><td><code>{name}</code></td><td><code>{safe(here)}</code></td>"
        f'<td class="soft"><code>{safe(default)}</code></td></tr>'
        for name, here, default in changed
    )
    rest = "".join(
        f"<tr><td><code>{name}</code></td><td><code>{safe(value)}</code></td></tr>"
        for name, value in others
    )
    table = f'<div class="scroll"><table><tr><th>setting</th><th>here</th><th>default</th></tr>{first}</table></div>'
    return (
        f"<h2>Settings</h2>\n{table if first else '<p>All as by default.</p>'}"
        f'<details><summary>the others, as by default</summary><div class="scroll"><table>{rest}</table></div>'
        "</details>"
    )


def _data(facts: dict[str, Any]) -> str:
    lines = [
        f'<tr><td>{name}</td><td class="wide">{safe(said(facts[key]))}</td></tr>'
        for key, name, said in (
            ("source", "source", _counted), ("train", "trained on", _counted), ("val", "held out", _counted),
            ("vocab_size", "ids", _counted), ("duplicates", "in both parts", _in_both),
            ("fingerprint", "fingerprint", _counted),
        )
        if key in facts
    ]  # fmt: skip
    return f"<h2>What it was trained on</h2>\n<table>{''.join(lines)}</table>" if lines else ""


# ----------------------------------------------------------------------------------------------------------- numbers


def _spent(rows: list[Row]) -> list[float]:
    """Return the seconds spent in each of PARTS."""
    last = rows[-1] if rows else {}
    keys = ("seconds", *(f"{name}_seconds" for name in PARTS[1:]))
    return [number_in(last, key) or 0.0 for key in keys]


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


def shown(value: Any) -> str:
    """Return a setting as a person writes it."""
    if isinstance(value, str | tuple):
        return json.dumps(value, ensure_ascii=False)
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
    )


def _counted(value: Any) -> str:
    """Return a fact of `data.json` in words: {"tokens": 5000, "documents": 1} as `5,000 tokens, 1 document`."""
    if isinstance(value, dict):
        counts = {
            key: known for key, known in value.items() if isinstance(known, int | float) and known
        }
        words = (
            f"{known:,} {key.removesuffix('s') if known == 1 else key}"
            for key, known in counts.items()
        )
        return ", ".join(words) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _in_both(found: Any) -> str:
    """Return in words what the text to train on and the held-out text have in common."""
    if not isinstance(found, dict):
        return str(found)
    exact, near = number_in(found, "exact") or 0, number_in(found, "near") or 0
    words = f"{exact:,} documents word for word, {near:,} nearly"
    if (exact or near) and found.get("dropped") is True:
        words += ", left out of training"
    seen, length = number_in(found, "held_out_sequences_seen"), number_in(found, "sequence_length")
    if seen is not None and length:
        words += f"; {seen:.1%} of the held-out sequences of {length:,} tokens"
    return words


def _tokens_held_out(facts: dict[str, Any]) -> float:
    """Return how many tokens `data.json` says are held out; 0 where it does not."""
    counts = facts.get("val")
    return (number_in(counts, "tokens") or 0) if isinstance(counts, dict) else 0
