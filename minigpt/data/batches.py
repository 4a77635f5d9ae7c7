"""Tokens in, batches out: a batch is a function of (seed, step) and of nothing else.

The tokens are cut into windows of `block_size`, shifted by a seeded offset in every epoch. An epoch takes every window
once, in a seeded order; a batch that reaches past its end goes on with the next epoch. The first epoch of a stream is
read as it comes.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from minigpt.data.shards import TokenSequence
from minigpt.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What one forward pass is given: ids and the id that follows each.

    Attributes:
        ids: (B, T) int64.
        targets: (B, T) int64, the id that follows each; -100 is not counted.
        documents: (B, T) int64, the number of the document in its row, or None: attention sees the whole row.
    """

    ids: Tensor
    targets: Tensor
    documents: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on `device`."""
        documents = None if self.documents is None else self.documents.to(device)
        return Batch(self.ids.to(device), self.targets.to(device), documents)


class Batches:
    """The batches of a training run, by step."""

    begin_with = "its windows start at the tokens"

    def __init__(
        self,
        tokens: TokenSequence,
        *,
        block_size: int,
        batch_size: int,
        micro_batch_size: int | None = None,
        seed: int = 0,
        separator: int | None = None,
        streamed: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Take windows of `block_size` from `tokens`, `batch_size` in a step.

        Args:
            tokens: ids, on the disk or in memory.
            block_size: T, tokens in a window.
            batch_size: windows in a step.
            micro_batch_size: windows in one forward pass; None: this process's share of the batch.
            seed: order and offsets.
            separator: the id that starts a new document; attention then stays inside documents.
            streamed: the first epoch is read in order, and how long it is shows at its end.
            rank, world_size: of so many processes this one takes the rank-th share of each step's windows.

        Raises:
            UserError: the text is too short for one window.
        """
        if not tokens.reach(block_size + 1):
            raise UserError(
                f"the text to train on has {len(tokens)} tokens, but one window needs "
                f"model.block_size + 1 = {block_size + 1}; use more text or a smaller model.block_size"
            )
        self.tokens = tokens
        self.block_size = self.width = block_size
        self.batch_size = batch_size
        assert batch_size % world_size == 0, "each process takes as many windows as any other"
        self.share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.micro_batch_size = micro_batch_size or len(self.share)
        self.seed = seed
        self.separator = separator
        self.streamed = streamed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @cached_property
    def windows_per_epoch(self) -> int:
        """How many windows a shuffled epoch has; of a stream, asked only once it has ended."""
        # One window is given up so that every epoch can be shifted by up to T - 1 tokens and keep the same number.
        return max(1, len(self.tokens) // self.block_size - 1)

    def starts(self, step: int) -> np.ndarray:
        """Return where each window of a step starts, of all processes, (batch_size,)."""
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self._start(number) for number in numbers], dtype=np.int64)

    def _start(self, number: int) -> int:
        """Return where a window starts, counted from the beginning of the run."""
        in_order = 0
        if self.streamed:
            if self.tokens.reach((number + 1) * self.block_size + 1):
                return number * self.block_size
            in_order = self._windows_in_order
        epoch, place = divmod(number - in_order, self.windows_per_epoch)
        return int(self._epoch(epoch)[place])

    @property
    def _windows_in_order(self) -> int:
        return (len(self.tokens) - 1) // self.block_size

    def at(self, step: int) -> list[Batch]:
        """Return this process's micro-batches of a step."""
        starts = self.starts(step)[self.share]
        windows = np.stack([self.tokens[s : s + self.block_size + 1] for s in starts.tolist()])
        windows = windows.astype(np.int64)
        return [
            make_batch(windows[i : i + self.micro_batch_size], self.separator)
            for i in range(0, len(windows), self.micro_batch_size)
        ]

    def epoch_at(self, step: int) -> float:
        """Return how many times the text has been read before `step`; 0 until a stream has once come to its end."""
        done = step * self.batch_size
        if not self.streamed:
            return done / self.windows_per_epoch
        if len(self.tokens) > done * self.block_size:
            return 0.0
        return 1 + (done - self._windows_in_order) / self.windows_per_epoch

    def _make_epoch(self, epoch: int) -> np.ndarray:
        """Return where the windows of an epoch start, in their order, (windows_per_epoch,)."""
        random = np.random.default_rng((self.seed, epoch))
        shifts = min(self.block_size, len(self.tokens) - self.windows_per_epoch * self.block_size)
        offset = random.integers(shifts)
        return offset + self.block_size * random.permutation(self.windows_per_epoch)


def make_batch(windows: np.ndarray, separator: int | None = None) -> Batch:
    """Return a batch from windows of T + 1 tokens: the targets are the inputs moved by one.

    Args:
        windows: (B, T + 1).
        separator: the id that starts a new document, to keep attention inside documents.
    """
    tokens = torch.from_numpy(windows)
    ids, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    documents = None if separator is None else (ids == separator).cumsum(1)
    return Batch(ids, targets, documents)
