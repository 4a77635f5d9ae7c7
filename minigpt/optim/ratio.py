"""A model before and after an update in; how far each of its blocks moved out.

Healthy training moves a block's matrices by about a thousandth of their size in a step; far more is a learning rate
that tears them apart, far less is one that leaves them standing.
"""

import torch
from torch import Tensor, nn


class UpdateRatio:
    """Compares the matrices of each block with what they were at `remember`."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks = blocks
        self._before: list[list[Tensor]] | None = None

    def remember(self) -> None:
        """Keep a copy of the matrices, until `measure`."""
        self._before = [[p.detach().clone() for p in _matrices(block)] for block in self._blocks]

    def forget(self) -> None:
        """Drop what is remembered: the update did not come."""
        self._before = None

    @torch.no_grad()
    def measure(self) -> list[float] | None:
        """Return the norm of the change over the norm before it, one number a block.

        None where nothing was remembered, or where a weight is no number any more. Four digits, and 0 for a block
        without matrices to train.
        """
        if self._before is None:
            return None
        ratios = []
        for block, before in zip(self._blocks, self._before, strict=True):
            size = _norm(before)
            for old, new in zip(before, _matrices(block), strict=True):
                old.sub_(new)
            ratios.append(_norm(before) / size.clamp(min=1e-30))
        self.forget()
        found = torch.stack(ratios)
        return [float(f"{r:.4g}") for r in found.tolist()] if found.isfinite().all() else None


def _matrices(block: nn.Module) -> list[Tensor]:
    return [p for p in block.parameters() if p.requires_grad and p.dim() >= 2]


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all numbers together, a tensor on their device: nobody waits for it yet."""
    if not tensors:
        return torch.zeros(())
    return torch.stack([torch.linalg.vector_norm(t, dtype=torch.float32) for t in tensors]).norm()
