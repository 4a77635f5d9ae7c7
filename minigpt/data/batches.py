"""Tokens in, batches out: a batch is a function of (seed, step) and of nothing else.

The tokens are cut into windows of `block_size`, shifted by a seeded offset in every epoch. An epoch takes every window
once, in a seeded order; a batch that reaches past its end goes on with the next epoch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from minigpt.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What one forward pass is given.

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

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        block_size: int,
        batch_size: int,
        micro_batch_size: int | None = None,
        seed: int = 0,
        separator: int | None = None,
    ) -> None:
        """Take windows of `block_size` from `tokens`, `batch_size` in a step.

        Args:
            tokens: (tokens,) ids.
            block_size: T, tokens in a window.
            batch_size: windows in a step.
            micro_batch_size: windows in one forward pass; None: the whole batch.
            seed: order and offsets.
            separator: the id that starts a new document; attention then stays inside documents.

        Raises:
            UserError: the text is too short for one window.
        """
        if len(tokens) < block_size + 1:
            raise UserError(
                f"the text to train on has {len(tokens)} tokens, but one window needs "
                f"model.block_size + 1 = {block_size + 1}; use more text or a smaller model.block_size"
            )
        self.tokens = tokens
        self.block_size = block_size
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size or batch_size
        self.seed = seed
        self.separator = separator
        # One window is given up so that every epoch can be shifted by up to T - 1 tokens and keep the same number.
        self.windows_per_epoch = max(1, len(tokens) // block_size - 1)
        self._shifts = min(block_size, len(tokens) - self.windows_per_epoch * block_size)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def starts(self, step: int) -> np.ndarray:
        """Return where each window of a step starts, (batch_size,)."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(numbers, self.windows_per_epoch)
        return np.array(
            [self._epoch(int(e))[p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64
        )

    def at(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step."""
        starts = self.starts(step)
        windows = self.tokens[starts[:, None] + np.arange(self.block_size + 1)].astype(np.int64)
        return [
            make_batch(windows[i : i + self.micro_batch_size], self.separator)
            for i in range(0, self.batch_size, self.micro_batch_size)
        ]

    def epoch_at(self, step: int) -> float:
        """Return how many times the text has been read before `step`."""
        return step * self.batch_size / self.windows_per_epoch

    def _make_epoch(self, epoch: int) -> np.ndarray:
        """Return where the windows of an epoch start, in their order, (windows_per_epoch,)."""
        random = np.random.default_rng((self.seed, epoch))
        offset = random.integers(self._shifts)
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
