"""A model and tokens in; loss, perplexity, bits per byte and per character out. Deterministic: no random choice."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from minigpt.data.batches import make_batch
from minigpt.data.shards import TokenSequence
from minigpt.errors import UserError
from minigpt.loss import IGNORED, TrainStep
from minigpt.ranks import ALONE, Ranks
from minigpt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Likelihood:
    """How well a model foretells a text.

    Attributes:
        loss: nats per token.
        perplexity: exp(loss).
        bits_per_byte, bits_per_char: of the UTF-8 of the text; comparable across tokenizers.
        tokens: how many were foretold.
        seconds: wall time.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    bits_per_char: float
    tokens: int
    seconds: float


class Scale:
    """Turns nats over tokens into bits over the bytes and characters that those tokens stand for."""

    def __init__(self, tokenizer: Tokenizer, targets: np.ndarray) -> None:
        """Count the bytes and characters of `targets`, (tokens,); special tokens stand for none."""
        special = set(tokenizer.specials.values())
        pieces = [b"" if i in special else piece for i, piece in enumerate(tokenizer.pieces)]
        counts = np.bincount(targets, minlength=len(pieces))
        # A character is counted at its first byte: one that is not 10xxxxxx (UTF-8 may be split over tokens).
        starts = [sum((byte & 0xC0) != 0x80 for byte in piece) for piece in pieces]
        self.bytes = int(counts @ np.array([len(piece) for piece in pieces]))
        self.chars = int(counts @ np.array(starts))

    def bits_per_byte(self, nats: float) -> float:
        """Return the bits per byte of a text that cost `nats` in all."""
        return nats / math.log(2) / max(1, self.bytes)

    def bits_per_char(self, nats: float) -> float:
        """Return the bits per character of a text that cost `nats` in all."""
        return nats / math.log(2) / max(1, self.chars)


@torch.no_grad()
def evaluate(
    step: TrainStep,
    tokens: TokenSequence,
    tokenizer: Tokenizer,
    *,
    batch_size: int = 32,
    max_tokens: int | None = None,
    separator: int | None = None,
    context: int | None = None,
    ranks: Ranks = ALONE,
) -> Likelihood:
    """Return how well the model foretells `tokens`, in one pass over windows that do not overlap.

    Every token but the first is foretold once, from what precedes it in its window. With `max_tokens` only some of the
    windows are taken, evenly spread, always the same. Each begins with what the tokenizer puts before a text.

    Args:
        step: the model with its loss.
        tokens: what to foretell.
        tokenizer: of the model.
        batch_size: windows at a time.
        max_tokens: foretell about so many; None: all.
        separator: the id between documents that attention must not look across.
        context: positions of a window; None: the model's block_size.
        ranks: that share the windows; all of them call this and get the same.

    Raises:
        UserError: fewer than two tokens.
    """
    if len(tokens) < 2:
        raise UserError(
            f"the text to measure on comes to {len(tokens)} tokens; at least 2 are needed, so use more text"
        )
    started, training = time.perf_counter(), step.training
    prefix, device = np.array(tokenizer.prefix, dtype=np.int64), step.model.head.weight.device
    length = (context or step.model.config.block_size) - len(prefix)
    if length < 1:
        raise UserError(
            f"a context of {length + len(prefix)} tokens has no room beside the {len(prefix)} that the tokenizer puts "
            "before a text; take a model with a longer one"
        )
    starts = np.arange(0, len(tokens) - 1, length)
    if max_tokens is not None and max_tokens < len(tokens) - 1:
        wanted = max(1, max_tokens // length)
        starts = starts[np.linspace(0, len(starts) - 1, wanted).round().astype(int)]
    step.eval()
    nats, targets = 0.0, []
    portions = [starts[i : i + batch_size] for i in range(0, len(starts), batch_size)]
    # In shards nobody computes alone: who has no portion left takes the last one and does not count it.
    for i in range(math.ceil(len(portions) / ranks.size) * ranks.size):
        windows = [_window(tokens, s, length, prefix) for s in portions[min(i, len(portions) - 1)]]
        batch = make_batch(np.stack(windows), separator)
        batch.targets[:, : len(prefix)] = IGNORED
        if i < len(portions):
            targets.append(batch.targets[batch.targets != IGNORED].numpy())
        if i % ranks.size == ranks.rank:
            batch = batch.to(device)
            found = step(batch.ids.clamp(min=0), batch.targets, batch.documents)[0].item()
            nats += found if i < len(portions) else 0.0
    step.train(training)
    nats = ranks.sum_number(nats)
    foretold = np.concatenate(targets)
    scale, loss = Scale(tokenizer, foretold), nats / len(foretold)
    return Likelihood(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=scale.bits_per_byte(nats),
        bits_per_char=scale.bits_per_char(nats),
        tokens=len(foretold),
        seconds=time.perf_counter() - started,
    )


def _window(tokens: TokenSequence, start: int, length: int, prefix: np.ndarray) -> np.ndarray:
    """Return the prefix and length + 1 tokens; past the end of the text stands -100, which is not counted."""
    window = np.full(len(prefix) + length + 1, IGNORED, dtype=np.int64)
    part = tokens[start : start + length + 1]
    window[: len(prefix)] = prefix
    window[len(prefix) : len(prefix) + len(part)] = part
    return window
