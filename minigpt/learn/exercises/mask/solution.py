"""A number of positions in, who may look where out."""

import torch
from torch import Tensor


def by_hand() -> list[list[int]]:
    """Return the causal mask of four positions as four rows of 0 and 1, a row for each query: written out."""
    return [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]  # fmt: skip


def causal_mask(new: int, seen: int = 0) -> Tensor:
    """Return the mask of `new` queries after `seen` other positions, (new, seen + new) bool; true: may look."""
    return torch.ones(new, seen + new, dtype=torch.bool).tril(seen)


def causal_weights(scores: Tensor) -> Tensor:
    """Return the weights of scores (…, T, S), where the T queries are the last of S positions."""
    new, total = scores.shape[-2:]
    hidden = ~causal_mask(new, total - new)
    return scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
