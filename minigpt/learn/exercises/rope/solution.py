"""Queries or keys and their positions in, the same turned by angles that grow with the position out."""

import torch
from torch import Tensor


def frequencies(head_dim: int, theta: float = 10000.0) -> Tensor:
    """Return the angle by which each pair of channels turns from one position to the next, (D/2,)."""
    return theta ** -(torch.arange(0, head_dim, 2) / head_dim)


def rotate(x: Tensor, positions: Tensor, theta: float = 10000.0) -> Tensor:
    """Return `x` with each pair of channels, i and i + D/2, turned by the angle of its position.

    Args:
        x: (B, H, T, D).
        positions: (T,), whole numbers from 0.
        theta: of the frequencies.
    """
    angles = torch.outer(positions.float(), frequencies(x.size(-1), theta))  # (T, D/2)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
