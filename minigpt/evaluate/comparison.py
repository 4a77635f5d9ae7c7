"""Several models and one text in; their measurements, the difference of each to the first, and a table out."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import UserError
from minigpt.evaluate.difference import difference
from minigpt.evaluate.measure import Measured, Text, measured, tokens_of
from minigpt.verdict import beside_baselines

HASHED_AT_ONCE = 1 << 20  # tokens
SURE = 1.96  # standard errors that a difference is beyond by chance in one of twenty cases
PAIRS = {"windows": "windows of the same tokens", "bytes": "stretches of the same bytes"}


def compare(
    runs: Sequence[Path | str], text: Text | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Return the facts of each run as `measure` does; from the second on with its `difference` to the first.

    Args:
        runs: at least one.
        text: to measure on; None: what the runs have held out, which must be the same.
        **options: of `measured`.

    Raises:
        UserError: the runs have held out different texts; or what `measured` raises.
    """
    if text is None:
        _check_text(runs)
    return beside_the_first(runs, (measured(run, text, **options) for run in runs))


def beside_the_first(
    runs: Sequence[Path | str], measurements: Iterable[Measured]
) -> list[dict[str, Any]]:
    """Return the facts of the measurements of runs on one text, all but the first with the difference to that."""
    results, first = [], None
    for found in measurements:
        if first is None:
            first = found.likelihood
            results.append(found.facts)
        else:
            to = {"to": str(runs[0])} | difference(first, found.likelihood)
            results.append(found.facts | {"difference": to})
    return results


def _check_text(runs: Sequence[Path | str]) -> None:
    """Refuse runs that have held out different texts."""
    if len(runs) == 1:
        return
    known: dict[str, str] = {}  # texts by the fingerprint of their tokens
    for run in runs:
        tokens = tokens_of(run)
        if tokens.fingerprint in known:
            continue
        pieces, content = tokens.tokenizer.pieces, hashlib.sha256()
        for start in range(0, len(tokens.val), HASHED_AT_ONCE):
            part = tokens.val[start : start + HASHED_AT_ONCE].tolist()
            content.update(b"".join([pieces[i] for i in part]))
        known[tokens.fingerprint] = content.hexdigest()
        if len(set(known.values())) > 1:
            raise UserError(
                f"{runs[0]} and {run} have held out different texts, so their figures cannot be compared; pass one "
                "text for all with --data"
            )


def as_table(names: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    """Return measurements as a table in plain text, each followed by its baselines, and sentences on what they say.

    Args:
        names: of the runs.
        results: of `compare`, in their order.
    """
    head = ("", "loss", "", "perplexity", "bits/byte", "", "bits/char", "tokens", "seconds")
    head += ("to the first", "") if len(results) > 1 else ()
    rows: list[tuple[str, ...]] = [head]
    shown: list[dict[str, Any]] = []
    sentences: list[str] = []
    for name, found in zip(names, results, strict=True):
        counts = (f"{found['tokens']:,}", f"{found['seconds']:.1f}")
        rows.append((name, *_figures(found), *counts, *_difference(found)))
        if decoded := found.get("decoded"):
            own = (f"  decoded in {decoded['precision']}", *_figures(decoded))
            rows.append((*own, "", f"{decoded['seconds']:.1f}"))
        # Those of one text and one tokenizer are the same, whatever the model.
        known = found["baselines"]
        if known not in shown:
            rows += [(f"  {baseline}", *_figures(one)) for baseline, one in known.items()]
            shown.append(known)
        bits = {baseline: one["bits_per_byte"] for baseline, one in known.items()}
        if said := beside_baselines(found["bits_per_byte"], bits):
            sentences.append(f"{name} {said}")
        if "difference" in found:
            sentences.append(f"{name} {_said(found['difference'])}")
    rows = [row + ("",) * (len(head) - len(row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines + [""] * bool(sentences) + sentences)


def _figures(found: dict[str, Any]) -> tuple[str, ...]:
    """Return the figures of a model or of a baseline as cells: loss, ±, perplexity, bits per byte, ±, per character."""
    loss = (f"{found['loss']:.4f}", _error(found.get("loss_stderr")))
    perplexity = found["perplexity"] if "perplexity" in found else np.exp(found["loss"])
    bits = (f"{found['bits_per_byte']:.4f}", _error(found.get("bits_per_byte_stderr")))
    return *loss, f"{perplexity:.2f}", *bits, f"{found['bits_per_char']:.4f}"


def _difference(found: dict[str, Any]) -> tuple[str, ...]:
    known = found.get("difference")
    return () if known is None else (
        f"{known['bits_per_byte']:+.4f}", _error(known["bits_per_byte_stderr"]),
    )  # fmt: skip


def _error(value: float | None) -> str:
    return "" if value is None else f"± {value:.4f}"


def _said(known: dict[str, Any]) -> str:
    """Return how much better or worse a model is than the first, and how the standard error is paired."""
    gain, error = known["bits_per_byte"], known["bits_per_byte_stderr"]
    beyond = error is not None and abs(gain) > SURE * error
    verdict = (
        "no better or worse than" if not beyond else "worse than" if gain > 0 else "better than"
    )
    how = (
        "not paired, for its tokenizer or the other one's does not give the bytes of the text back"
    )
    if known["paired_by"] is not None:
        how = f"paired by {known['pairs']:,} {PAIRS[known['paired_by']]}"
    return f"is {verdict} {known['to']}, as far as this text can tell (standard error {how})"
