"""Ids in, batches of inputs and targets out: a function of the seed and the number of the step."""

import random

import torch
from torch import Tensor


def window(ids: Tensor, start: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and the targets of the window that begins at `start`, (block_size,) each."""
    piece = ids[start : start + block_size + 1]
    return piece[:-1], piece[1:]


def count_windows(length: int, block_size: int) -> int:
    """Return how many windows so many ids have, that do not overlap and have a target for each position."""
    return (length - 1) // block_size


def epoch_order(windows: int, seed: int, epoch: int) -> list[int]:
    """Return the numbers of all windows in the order of an epoch: another one in each, from the seed alone."""
    order = list(range(windows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def batch_at(
    ids: Tensor, step: int, *, block_size: int, batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the inputs and the targets of a step, counted from 0, (batch_size, block_size) each."""
    windows = count_windows(len(ids), block_size)
    inputs, targets = [], []
    for place in range(step * batch_size, (step + 1) * batch_size):
        epoch, inside = divmod(place, windows)
        start = epoch_order(windows, seed, epoch)[inside] * block_size
        one, other = window(ids, start, block_size)
        inputs.append(one)
        targets.append(other)
    return torch.stack(inputs), torch.stack(targets)
