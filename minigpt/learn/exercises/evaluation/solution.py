"""A model and a text in, how well it foretells the text out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def windows(ids: Tensor, block_size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs and targets of windows, (up to block_size,) each: every id but the first is a target once."""
    return [
        (ids[start : start + block_size][: len(ids) - 1 - start], ids[start + 1 : start + block_size + 1])
        for start in range(0, len(ids) - 1, block_size)
    ]  # fmt: skip


@torch.no_grad()
def total_nats(model: nn.Module, ids: Tensor, block_size: int) -> float:
    """Return the sum of the losses of all ids but the first, in nats.

    Args:
        model: (1, T) ids -> (1, T, V) logits, for T up to block_size.
        ids: (n,).
        block_size: how many tokens the model can see.
    """
    training = model.training
    model.eval()
    total = 0.0
    for inputs, targets in windows(ids, block_size):
        logits = model(inputs[None])[0]  # (T, V)
        total += F.cross_entropy(logits, targets, reduction="sum").item()
    model.train(training)
    return total


def bits_per_character(model: nn.Module, ids: Tensor, block_size: int, characters: int) -> float:
    """Return the bits that each of the characters costs which the ids but the first stand for."""
    return total_nats(model, ids, block_size) / math.log(2) / characters
