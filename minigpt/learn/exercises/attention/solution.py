"""Queries, keys and values in, for each query a mean of the values out."""

from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return what each query gets from the values, (B, H, T, D).

    Args:
        query: (B, H, T, D).
        key: (B, H, S, D).
        value: (B, H, S, D).
        mask: (T, S), true where a query may look; None: everywhere.
    """
    scores = query @ key.transpose(-2, -1) / query.size(-1) ** 0.5  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)
    return weights @ value
