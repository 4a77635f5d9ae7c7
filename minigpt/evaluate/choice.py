"""A model and multiple-choice questions in; how often what it holds likeliest is right, out.

A choice scores the sum of the log-probabilities of its tokens after the question, as in lm-evaluation-harness (Gao et
al., 2024), in the tokens of which question and choice are cut as there. What the choices of a question have in common
is computed once: they stand in one row, each a branch that sees the stem and itself.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minigpt.errors import UserError, plain
from minigpt.evaluate.tasks import Item, Task
from minigpt.inference.decoder import Decoder
from minigpt.interop.loading import load_both
from minigpt.loss import LOGITS_AT_ONCE
from minigpt.model.transformer import GPT
from minigpt.progress import bar
from minigpt.runtime import pick_device
from minigpt.tokenizer import Tokenizer

TOKENS_AT_ONCE = {"cpu": 2048}  # what its caches hold; on any other device:
MORE_AT_ONCE = 1 << 14
PAIRS_AT_ONCE = 1 << 23  # of tokens of which one may look at the other: the mask of a batch


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often a model is right.

    Attributes:
        items: how many questions.
        acc: the share where the right choice is the likeliest.
        acc_stderr: its standard error; None for a single item.
        acc_norm, acc_norm_stderr: the same where log-likelihoods are divided by the characters of the choice.
        chance: what guessing comes to.
        seconds: wall time.
    """

    items: int
    acc: float
    acc_stderr: float | None
    acc_norm: float
    acc_norm_stderr: float | None
    chance: float
    seconds: float


class Scored(NamedTuple):
    """What the model reads for one choice, and what it is asked.

    Attributes:
        ids: to read.
        targets: the tokens that should follow the last of them, one after each.
    """

    ids: list[int]
    targets: list[int]


def measure_tasks(
    run: Path | str, tasks: Sequence[Task], device: str = "auto", precision: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return `Accuracy` as a dictionary for each task by name.

    Args:
        run: what `minigpt.load` takes.
        tasks: to answer.
        device: where.
        precision: fp32, bf16, fp16 or int8; None: fp32. What transformers computes is computed as it is.

    Raises:
        UserError: nothing to load, an item that the model cannot read, or weights that are not numbers.
    """
    model, tokenizer = load_both(run)
    model.to(pick_device(device, "--device"))
    if type(model) is not GPT and precision is not None:
        raise UserError(
            f"{run} is computed by transformers, in its own precision; leave --dtype and --quantize out"
        )
    reader = Decoder(model, precision or "fp32", slots=0) if type(model) is GPT else model
    return {task.name: dataclasses.asdict(answer(reader, tokenizer, task)) for task in tasks}


def answer(reader: GPT | Decoder, tokenizer: Tokenizer, task: Task) -> Accuracy:
    """Return how often the model is right on the items of a task; arguments and errors as `score`."""
    began = time.perf_counter()
    scores = score(reader, tokenizer, task.items, task.name)
    right, right_by_length = [], []
    for item, found in zip(task.items, scores, strict=True):
        if not np.isfinite(found).all():
            raise UserError(
                f"a choice of {item.where} has the log-likelihood {found[~np.isfinite(found)][0]}: the weights are "
                "damaged or diverged"
            )
        right.append(float(found.argmax() == item.answer))
        right_by_length.append(float((found / item.lengths).argmax() == item.answer))
    return Accuracy(
        items=len(scores),
        acc=float(np.mean(right)),
        acc_stderr=standard_error(right),
        acc_norm=float(np.mean(right_by_length)),
        acc_norm_stderr=standard_error(right_by_length),
        chance=float(np.mean([1 / len(item.pairs) for item in task.items])),
        seconds=time.perf_counter() - began,
    )


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of a sample; None for a single value."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


@torch.inference_mode()
def score(
    reader: GPT | Decoder, tokenizer: Tokenizer, items: Sequence[Item], name: str = "the items"
) -> list[np.ndarray]:
    """Return the log-likelihood of each choice of each item, (choices,) float64.

    Args:
        reader: a `Decoder`, which computes a common beginning once; or any model, row by row.
        tokenizer: of the model.
        items: to score.
        name: what the progress is called.

    Raises:
        UserError: a choice without tokens of its own or with more than the model sees, or an unknown character.
    """
    size = reader.config.block_size
    asked = [[_scored(tokenizer, *pair, size, item.where) for pair in item.pairs] for item in items]
    rows = [row_of(choices) for choices in asked]
    # The longest first: rows of one batch are as long as its longest, and memory runs out at once or never.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    scores: list[np.ndarray] = [np.empty(0)] * len(rows)
    with bar(f"scoring {plain(name)}", len(rows), "items") as report:
        done = 0
        for batch in _batches(order, rows, _at_once(reader)):
            choices = [asked[i] for i in batch]
            if isinstance(reader, Decoder):
                found = _read_rows(reader, [rows[i] for i in batch], choices)
            else:
                found = _read_whole(reader, choices)
            for i, values in zip(batch, found, strict=True):
                scores[i] = values
            done += len(batch)
            report(done)
    return scores


def _scored(tokenizer: Tokenizer, context: str, choice: str, size: int, where: str) -> Scored:
    """Return what to read for a choice after a context: as much of the context as the model sees."""
    try:
        before, after = encode_pair(tokenizer, context, choice)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not before:
        raise UserError(
            f"{where} has no context, and the tokenizer has no token that begins a text; write something before the "
            "choices"
        )
    if not after:
        raise UserError(
            f"{where}: the choice {plain(choice.strip(), 40)!r} melts into the last token before it; end the context "
            "with a space"
        )
    if len(after) > size:
        raise UserError(
            f"{where} has a choice of {len(after)} tokens, but the model sees {size}; leave that item out, or take a "
            "model with a longer context"
        )
    return Scored((before + after)[-size - 1 : -1], after)


def encode_pair(tokenizer: Tokenizer, context: str, choice: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a context and those of a choice after it, cut as lm_eval cuts them.

    The choice has the tokens that it has in the whole text: those after as many as the context has by itself. Spaces at
    the end of the context belong to the choice. An empty context is the token that begins a text.
    """
    text = context.rstrip()
    whole = [*tokenizer.prefix, *tokenizer.encode(context + choice)]
    if text:
        before = [*tokenizer.prefix, *tokenizer.encode(text)]
        return before, whole[len(before) :]
    after = whole[len(tokenizer.prefix) :]
    if tokenizer.bos_id is None or (after and after[0] == tokenizer.bos_id):
        return after[:1] if tokenizer.bos_id is not None else [], after[1:]
    return [tokenizer.bos_id], after


class Row(NamedTuple):
    """The choices of an item in one row: first what they have in common, then the rest of each.

    Attributes:
        ids: the tokens.
        places: their positions in the texts.
        branches: 0 for the stem, 1, 2, … for the choices.
        asked: of each choice the indices in the row after which its targets should follow.
    """

    ids: list[int]
    places: list[int]
    branches: list[int]
    asked: list[list[int]]


def row_of(choices: Sequence[Scored]) -> Row:
    """Return the choices of an item in one row."""
    texts = [choice.ids for choice in choices]
    least, most = min(texts), max(texts)
    # What the first and the last of sorted texts have in common all have.
    shortest = min(len(least), len(most))
    stem = next((i for i in range(shortest) if least[i] != most[i]), shortest)
    ids, places, branches = texts[0][:stem], list(range(stem)), [0] * stem
    asked, begun = [], {}
    for number, (text, targets) in enumerate(choices, 1):
        if tuple(text) not in begun:  # choices of one token read the same
            begun[tuple(text)] = len(ids)
            ids += text[stem:]
            places += range(stem, len(text))
            branches += [number] * (len(text) - stem)
        start = begun[tuple(text)]
        indices = [*range(stem), *range(start, start + len(text) - stem)]
        asked.append(indices[len(text) - len(targets) :])
    return Row(ids, places, branches, asked)


def _at_once(reader: GPT | Decoder) -> int:
    """Return how many tokens are read together."""
    device = reader.device if isinstance(reader, Decoder) else reader.head.weight.device
    return TOKENS_AT_ONCE.get(device.type, MORE_AT_ONCE)


def _batches(order: list[int], rows: list[Row], most: int) -> Iterator[list[int]]:
    """Yield the places of rows, sorted by length, that are read together."""
    start = 0
    while start < len(order):
        longest = len(rows[order[start]].ids)
        count = max(1, min(most // longest, PAIRS_AT_ONCE // longest**2))
        yield order[start : start + count]
        start += count


def _read_rows(decoder: Decoder, rows: list[Row], items: list[list[Scored]]) -> list[np.ndarray]:
    """Return the log-likelihoods of the choices of some items, each item a row of a batch."""
    ids, places, branches = (
        torch.tensor(_padded(part, fill), device=decoder.device)
        for part, fill in (
            ([row.ids for row in rows], 0),
            ([row.places for row in rows], 0),
            ([row.branches for row in rows], -1),
        )
    )  # (B, T)
    same = branches[:, :, None] == branches[:, None, :]
    mask = (same | (branches == 0)[:, None, :]).tril().unsqueeze(1)  # (B, 1, T, T)
    stream = decoder.hidden_at(ids, places, mask)
    width, asked = ids.size(1), [index for row in rows for part in row.asked for index in part]
    owner = [n for n, row in enumerate(rows) for part in row.asked for _ in part]
    at = torch.tensor(owner) * width + torch.tensor(asked)
    chosen = stream.flatten(0, 1)[at.to(decoder.device)]  # (targets, C)
    targets = [token for item in items for choice in item for token in choice.targets]
    return _by_item(_log_probabilities(decoder, chosen, targets), items)


def _read_whole(model: GPT, items: list[list[Scored]]) -> list[np.ndarray]:
    """Return what `_read_rows` returns from each text read by itself: for any model, and the oracle of the other."""
    choices = [choice for item in items for choice in item]
    longest, device = max(len(choice.ids) for choice in choices), model.head.weight.device
    count = max(1, min(_at_once(model), LOGITS_AT_ONCE // model.config.vocab_size) // longest)
    found = []
    for start in range(0, len(choices), count):
        part = choices[start : start + count]
        # Nothing looks ahead, so it does not matter what fills a row up.
        ids = torch.tensor(_padded([choice.ids for choice in part], 0), device=device)
        for logits, (text, targets) in zip(model(ids), part, strict=True):
            chances = logits[len(text) - len(targets) : len(text)].float().log_softmax(dim=1)
            found.append(chances.gather(1, torch.tensor(targets, device=device).unsqueeze(1)))
    return _by_item(torch.cat(found).flatten(), items)


def _log_probabilities(decoder: Decoder, stream: Tensor, targets: list[int]) -> Tensor:
    """Return the log-probability of each target after its place in the stream, (targets, C) -> (targets,)."""
    count = max(1, LOGITS_AT_ONCE // decoder.config.vocab_size)
    wanted = torch.tensor(targets, device=stream.device).unsqueeze(1)
    parts = zip(stream.split(count), wanted.split(count), strict=True)
    found = [decoder.head(s).float().log_softmax(dim=1).gather(1, t) for s, t in parts]
    return torch.cat(found).flatten()


def _by_item(chances: Tensor, items: list[list[Scored]]) -> list[np.ndarray]:
    """Return the sums over the tokens of each choice, (choices,) for each item."""
    found, start = [], 0
    values = chances.double().cpu().numpy()
    for item in items:
        ends = start + np.cumsum([len(choice.targets) for choice in item])
        found.append(np.add.reduceat(values[: ends[-1]], [start, *ends[:-1]]))
        start = int(ends[-1])
    return found


def _padded(rows: list[list[int]], fill: int) -> list[list[int]]:
    longest = max(map(len, rows))
    return [row + [fill] * (longest - len(row)) for row in rows]


def as_table(model: str, tasks: dict[str, dict[str, Any]]) -> str:
    """Return the accuracies of a model by task as a table in plain text, headed by its name."""
    rows = [(plain(model), "items", "accuracy", "", "by length", "", "guessing", "seconds")]
    for name, found in tasks.items():
        shown = []
        for key in ("acc", "acc_norm"):
            error = found[f"{key}_stderr"]
            shown += [f"{found[key]:.4f}", "" if error is None else f"± {error:.4f}"]
        ends = (f"{found['chance']:.4f}", f"{found['seconds']:.1f}")
        rows.append((plain(name), f"{found['items']:,}", *shown, *ends))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    )
