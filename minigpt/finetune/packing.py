"""Examples in, batches out: several conversations in a row, none of which sees another.

    examples -> rows, once -> in every epoch in another order -> batches

With rotary positions a score depends on distance alone, so a conversation costs the same in any place of a row. With
learned positions it would not, and each has a row of its own. An epoch takes every row once, in a seeded order; a batch
that reaches past its end goes on with the next epoch. Like `minigpt.data.batches.Batches`, and in its place, this is a
function of (seed, step) and of nothing else.
"""

import bisect
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from minigpt.data.batches import Batch
from minigpt.finetune.targets import Example
from minigpt.loss import IGNORED


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return rows of at most `room`, each as the places of what it holds; all are held once.

    The longest first, each where it leaves the least room: at most 11/9 of the fewest rows (Johnson et al., 1974, "best
    fit decreasing").

    >>> pack([3, 7, 5, 2, 3], 10)
    [[1, 0], [2, 4, 3]]
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # the room in each open row, and its place in `rows`; sorted
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[place]
        assert length <= room, "an example is never longer than a row"
        at = bisect.bisect_left(left, (length, 0))
        if at < len(left):
            free, row = left.pop(at)
            rows[row].append(place)
        else:
            free, row = room, len(rows)
            rows.append([place])
        if free > length:
            bisect.insort(left, (free - length, row))
    return rows


class PackedBatches:
    """The batches of a fine-tuning run, by step.

    Attributes:
        rows: the examples in each, as places in `examples`.
        width: T, positions in a row.
    """

    begin_with = "its rows begin with the conversations"

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        block_size: int,
        batch_size: int,
        packed: bool,
        micro_batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Put the examples into rows, `batch_size` in a step.

        Args:
            examples: none longer than `block_size`.
            block_size: positions of the model.
            batch_size: rows in a step.
            packed: several conversations share a row; only of a model with rotary positions.
            micro_batch_size: rows in one forward pass; None: this process's share of the batch.
            seed: of the order.
            rank, world_size: of so many processes this one takes the rank-th share of each step's rows.
        """
        assert examples, "there is something to learn from"
        assert batch_size % world_size == 0, "each process takes as many rows as any other"
        self.examples = examples
        lengths = [example.length for example in examples]
        self.rows = pack(lengths, block_size) if packed else [[i] for i in range(len(examples))]
        # All rows are as long as the longest need be, so that every batch has the same shape.
        self.width = max(sum(lengths[i] for i in row) for row in self.rows)
        self.packed = packed
        self.batch_size = batch_size
        self.share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.micro_batch_size = micro_batch_size or len(self.share)
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @property
    def windows_per_epoch(self) -> int:
        """How many rows an epoch has."""
        return len(self.rows)

    @property
    def filled(self) -> float:
        """The share of positions that are of a conversation; the rest is padding."""
        used = sum(example.length for example in self.examples)
        return used / (len(self.rows) * self.width)

    def at(self, step: int) -> list[Batch]:
        """Return this process's micro-batches of a step."""
        rows = [self._row(step * self.batch_size + place) for place in self.share]
        size = self.micro_batch_size
        return [self.batch(rows[i : i + size]) for i in range(0, len(rows), size)]

    def starts(self, step: int) -> np.ndarray:
        """Return the number in its file of the first conversation in each row of a step, of all processes."""
        rows = (self._row(step * self.batch_size + place) for place in range(self.batch_size))
        return np.array([self.examples[row[0]].number for row in rows], dtype=np.int64)

    def epoch_at(self, step: int) -> float:
        """Return how many times the conversations have been read before `step`."""
        return step * self.batch_size / len(self.rows)

    def _row(self, number: int) -> list[int]:
        """Return a row by its number, counted from the beginning of the run."""
        epoch, place = divmod(number, len(self.rows))
        return self.rows[self._epoch(epoch)[place]]

    def _make_epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))

    def batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Return the batch of these rows; what is behind a row's last conversation is a document of its own."""
        ids = np.zeros((len(rows), self.width), dtype=np.int64)
        targets = np.full_like(ids, IGNORED)
        documents = np.zeros_like(ids)
        for place, row in enumerate(rows):
            end = 0
            for number, i in enumerate(row):
                example = self.examples[i]
                start, end = end, end + example.length
                ids[place, start:end] = example.ids[:-1]
                targets[place, start:end] = np.where(example.said, example.ids, IGNORED)[1:]
                documents[place, start:end] = number
            documents[place, end:] = len(row)
        # A single conversation at the beginning of a row sees nothing of what follows it anyway.
        parts = (ids, targets, documents) if self.packed else (ids, targets)
        return Batch(*map(torch.from_numpy, parts))
