"""A model and tokens in; loss, perplexity, bits per byte and per character out. Deterministic: no random choice."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import torch

from minigpt.data.batches import Batch, make_batch
from minigpt.data.shards import TokenSequence
from minigpt.errors import UserError
from minigpt.evaluate.clusters import Sums, Tally, standard_error
from minigpt.loss import IGNORED, TrainStep
from minigpt.ranks import ALONE, Ranks
from minigpt.tokenizer import Tokenizer

T = TypeVar("T")
SLICE_BYTES = 128  # of text: what two models with different tokenizers are compared on, several of them together


@dataclass(frozen=True)
class Likelihood:
    """How well a model foretells a text.

    Attributes:
        loss: nats per token.
        perplexity: exp(loss).
        bits_per_byte, bits_per_char: of the UTF-8 of the text; comparable across tokenizers.
        tokens: how many were foretold.
        seconds: wall time.
        loss_stderr, bits_per_byte_stderr: standard errors, by stretches of as many tokens as a window has
            (`clusters.py`); None where there is only one.
        text_bytes: of the text, with the first token, which is not foretold.
        windows: what each of those stretches comes to.
        slices: the same of each 128 bytes of the text; a token counts where its bytes begin.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    bits_per_char: float
    tokens: int
    seconds: float
    loss_stderr: float | None
    bits_per_byte_stderr: float | None
    text_bytes: int = field(repr=False)
    windows: Sums = field(repr=False)
    slices: Sums = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """Return the numbers by name, without the sums that they come from."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.repr}


class Scale:
    """Turns nats over tokens into bits over the bytes and characters that those tokens stand for."""

    def __init__(self, tokenizer: Tokenizer, targets: np.ndarray) -> None:
        """Count the bytes and characters of `targets`, (tokens,)."""
        sizes, characters = sizes_of(tokenizer)
        counts = np.bincount(targets, minlength=len(sizes))
        self.bytes, self.chars = int(counts @ sizes), int(counts @ characters)

    def bits_per_byte(self, nats: float) -> float:
        """Return the bits per byte of a text that cost `nats` in all."""
        return nats / math.log(2) / max(1, self.bytes)

    def bits_per_char(self, nats: float) -> float:
        """Return the bits per character of a text that cost `nats` in all."""
        return nats / math.log(2) / max(1, self.chars)


def sizes_of(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes and the characters of each id, (V,) each; special tokens stand for none."""
    special = set(tokenizer.specials.values())
    pieces = [b"" if i in special else piece for i, piece in enumerate(tokenizer.pieces)]
    # A character is counted at its first byte: one that is not 10xxxxxx (UTF-8 may be split over tokens).
    starts = [sum((byte & 0xC0) != 0x80 for byte in piece) for piece in pieces]
    return np.array([len(piece) for piece in pieces]), np.array(starts)


def evaluate(
    step: TrainStep,
    tokens: TokenSequence,
    tokenizer: Tokenizer,
    *,
    batch_size: int = 32,
    max_tokens: int | None = None,
    separator: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    ranks: Ranks = ALONE,
) -> Likelihood:
    """Return how well the model foretells `tokens`, in one pass over windows.

    Every token but the first is foretold once. Windows do not overlap, and a token is foretold from what precedes it
    in its window; with a `stride` each window begins so many tokens after the last one, and only what no window before
    has foretold is counted, from nearly a whole context (as on the page on perplexity of `transformers`): closer to
    how the model is used, and context / stride times as slow. With `max_tokens` only some of the windows are taken,
    evenly spread, always the same. Each begins with what the tokenizer puts before a text.

    Args:
        step: the model with its loss.
        tokens: what to foretell.
        tokenizer: of the model.
        batch_size: windows at a time.
        max_tokens: foretell about so many; None: all.
        separator: the id between documents that attention must not look across.
        context: positions of a window; None: the model's block_size.
        stride: tokens from one window to the next; None: the context.
        ranks: that share the windows; all of them call this and get the same.

    Raises:
        UserError: fewer than two tokens, or a stride that would leave tokens out.
    """
    if len(tokens) < 2:
        raise UserError(
            f"the text to measure on comes to {len(tokens)} tokens; at least 2 are needed, so use more text"
        )
    started, prefix = time.perf_counter(), np.array(tokenizer.prefix, dtype=np.int64)
    context = context or step.model.config.block_size
    length = context - len(prefix)
    if length < 1:
        raise UserError(
            f"a context of {context} tokens has no room beside the {len(prefix)} that the tokenizer puts "
            "before a text; take a model with a longer one"
        )
    if stride is not None and not 1 <= stride <= context:
        raise UserError(
            f"--stride is {stride}, but windows are {context} tokens long; pass 1 to {context}, for a longer one would "
            "leave tokens out"
        )
    stride = min(stride or length, length)
    # The first window foretells its length, each further one a stride.
    starts = stride * np.arange(1 + max(0, math.ceil((len(tokens) - 1 - length) / stride)))
    if max_tokens is not None and max_tokens < len(tokens) - 1:
        wanted = max(1, max_tokens // stride)
        starts = starts[np.linspace(0, len(starts) - 1, wanted).round().astype(int)]
    sizes, characters = sizes_of(tokenizer)
    windows, slices, chars, offset = Tally(), Tally(), 0, int(sizes[tokens[:1]].sum())
    portions = [starts[i : i + batch_size] for i in range(0, len(starts), batch_size)]

    def batch_of(begins: np.ndarray) -> Batch:
        windows = np.stack([_window(tokens, s, length, prefix) for s in begins])
        batch = make_batch(windows, separator)
        batch.targets[:, : len(prefix)] = IGNORED
        overlapping = torch.from_numpy(begins > 0)
        batch.targets[overlapping, : len(prefix) + length - stride] = IGNORED
        return batch

    for begins, batch, nats in in_portions(step, portions, batch_of, ranks):
        counted = (batch.targets != IGNORED).numpy()[:, len(prefix) :]
        places = (begins[:, None] + np.arange(length))[counted]  # of the targets in the text
        targets = batch.targets[batch.targets != IGNORED].numpy()
        ends = offset + sizes[targets].cumsum()
        windows.add(places // length, nats, sizes[targets])
        slices.add((ends - sizes[targets]) // SLICE_BYTES, nats, sizes[targets])
        chars += int(characters[targets].sum())
        offset = int(ends[-1])
    return likelihood_of(windows, slices, chars, offset, started, ranks)


@torch.no_grad()
def in_portions(
    step: TrainStep, portions: Sequence[T], batch_of: Callable[[T], Batch], ranks: Ranks
) -> Iterator[tuple[T, Batch, np.ndarray]]:
    """Yield each portion of what is held out with its batch and the nats of each counted target, (counted,) fp64.

    Of the portions of other ranks the nats are 0, so that sums over all ranks are true.

    Args:
        step: the model with its loss; in eval mode meanwhile.
        portions: the same on all ranks.
        batch_of: makes the batch of one.
        ranks: that share the work.
    """
    training, device = step.training, step.model.head.weight.device
    step.eval()
    # In shards nobody computes alone: who has no portion left takes the last one and does not count it.
    for i in range(math.ceil(len(portions) / ranks.size) * ranks.size):
        portion = portions[min(i, len(portions) - 1)]
        batch = batch_of(portion)
        is_own = i % ranks.size == ranks.rank
        losses = _losses(step, batch.to(device)) if is_own else None
        if i < len(portions):
            count = int((batch.targets != IGNORED).sum())
            yield portion, batch, np.zeros(count) if losses is None else losses
    step.train(training)


def _losses(step: TrainStep, batch: Batch) -> np.ndarray:
    """Return the loss of each counted target in nats, (counted,)."""
    losses, _ = step(batch.ids.clamp(min=0), batch.targets, batch.documents, False)
    return losses.double().cpu().numpy()


def _shared(tally: Tally, ranks: Ranks) -> Sums:
    """Return what all ranks have tallied: each knows every token, and the nats of its own windows."""
    nats, tokens, sizes = tally.sums()
    return Sums(ranks.sum_numbers(nats), tokens, sizes)


def likelihood_of(
    by_window: Tally, by_slice: Tally, chars: int, text_bytes: int, started: float, ranks: Ranks
) -> Likelihood:
    """Return what the tallies of all ranks come to; arguments as the attributes of `Likelihood`."""
    windows, slices = (_shared(tally, ranks) for tally in (by_window, by_slice))
    nats, tokens, sizes = (float(x.sum()) for x in (windows.nats, windows.tokens, windows.bytes))
    loss, bits = nats / tokens, nats / math.log(2)
    return Likelihood(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=bits / max(1.0, sizes),
        bits_per_char=bits / max(1, chars),
        tokens=int(tokens),
        seconds=time.perf_counter() - started,
        loss_stderr=standard_error(windows.nats, windows.tokens),
        bits_per_byte_stderr=standard_error(windows.nats / math.log(2), windows.bytes),
        text_bytes=text_bytes,
        windows=windows,
        slices=slices,
    )


def _window(tokens: TokenSequence, start: int, length: int, prefix: np.ndarray) -> np.ndarray:
    """Return the prefix and length + 1 tokens; past the end of the text stands -100, which is not counted."""
    window = np.full(len(prefix) + length + 1, IGNORED, dtype=np.int64)
    part = tokens[start : start + length + 1]
    window[: len(prefix)] = prefix
    window[len(prefix) : len(prefix) + len(part)] = part
    return window
