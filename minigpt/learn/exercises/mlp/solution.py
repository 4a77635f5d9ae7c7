"""Positions in, what an MLP makes of each out: two kinds, and how wide they are."""

import torch.nn.functional as F
from torch import Tensor


def relu2(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return down(relu(up(x))²), (…, C).

    Args:
        x: (…, C).
        up: (F, C).
        down: (C, F).
    """
    return F.linear(F.relu(F.linear(x, up)).square(), down)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return down(silu(gate(x)) · up(x)), (…, C).

    Args:
        x: (…, C).
        gate, up: (F, C).
        down: (C, F).
    """
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def hidden_channels(n_embd: int, multiple: int) -> int:
    """Return F of a SwiGLU that costs as much as an MLP of two matrices with 4 C, rounded up to a multiple."""
    wanted = 8 * n_embd
    return -(-wanted // (3 * multiple)) * multiple
