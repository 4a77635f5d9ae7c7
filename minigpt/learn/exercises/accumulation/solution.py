"""A batch in pieces in, the gradient of the whole batch out."""

import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100


def count_targets(batches: list[tuple[Tensor, Tensor]]) -> int:
    """Return how many targets count in all micro-batches, each (inputs, targets)."""
    return sum(int((targets != IGNORED).sum()) for _, targets in batches)


def accumulate(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Leave the gradient of the whole batch in the model, whatever was there, and return its loss.

    Args:
        model: (B, T) ids -> (B, T, V) logits.
        batches: the micro-batches, (B, T) inputs and targets each; a target of -100 does not count.
    """
    model.zero_grad()
    counted, total = count_targets(batches), 0.0
    for inputs, targets in batches:
        logits = model(inputs).flatten(0, 1)
        loss = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
        (loss / counted).backward()
        total += loss.item()
    return total / counted
