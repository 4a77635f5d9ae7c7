"""Many query heads and few key/value heads in, what each query gathers out."""

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return causal attention, (B, H, T, D); the T queries are the last of S positions.

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D), where K divides H.
        value: like key.
    """
    group = query.size(1) // key.size(1)
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))  # (B, H, S, D)
    scores = query @ key.transpose(-2, -1) / query.size(-1) ** 0.5
    new, total = scores.shape[-2:]
    hidden = ~torch.ones(new, total, dtype=torch.bool).tril(total - new)
    return scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ value


def kept_numbers(n_layer: int, n_kv_head: int, head_dim: int, positions: int) -> int:
    """Return how many numbers a cache of so many positions holds for one text."""
    return 2 * n_layer * n_kv_head * head_dim * positions
