"""Rotary positions: queries and keys are turned by an angle that grows with their place (Su et al., 2021).

The score of two tokens then depends on their distance alone. Channel i turns with channel i + D/2, the layout of Llama.
"""

import torch
from torch import Tensor, nn


def rotary_frequencies(head_dim: int, theta: float) -> Tensor:
    """Return the angle by which each pair of channels turns from one position to the next, (D/2,)."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


class Rotary(nn.Module):
    """The cosines and sines of every position."""

    cos: Tensor
    sin: Tensor

    def __init__(self, frequencies: Tensor, block_size: int) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(block_size).float(), frequencies)  # (block_size, D/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the positions from `start` on, (length, D/2) each."""
        return self.cos[start : start + length], self.sin[start : start + length]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `x`, (B, H, T, D), with each pair of channels turned by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    # Cosines and sines are in fp32, so the products are.
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
