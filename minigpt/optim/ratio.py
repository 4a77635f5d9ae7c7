"""A model before and after an update in; how far each of its blocks moved out.

Healthy training moves a block's matrices by about a thousandth of their size in a step; far more is a learning rate
that tears them apart, far less is one that leaves them standing.
"""

import torch
from torch import Tensor, nn

from minigpt.ranks import ALONE, Ranks, own_part


class UpdateRatio:
    """Compares the matrices of each block with what they were at `remember`."""

    def __init__(self, blocks: nn.ModuleList, ranks: Ranks = ALONE) -> None:
        self._blocks = blocks
        self._ranks = ranks
        self._before: list[list[Tensor]] | None = None

    def remember(self) -> None:
        """Keep a copy of the matrices, of what this rank holds of them, until `measure`."""
        self._before = [[part.clone() for part in _matrices(block)] for block in self._blocks]

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
        device = next(self._blocks.parameters()).device
        sizes, changes = [], []
        for block, before in zip(self._blocks, self._before, strict=True):
            sizes.append(_norm(before, device))
            for old, new in zip(before, _matrices(block), strict=True):
                old.sub_(new)
            changes.append(_norm(before, device))
        self.forget()
        norms = torch.stack(sizes + changes)
        if self._ranks.shards is not None:
            norms = self._ranks.sum_shards(norms.square()).sqrt()
        size, change = norms.chunk(2)
        found = change / size.clamp(min=1e-30)
        return [float(f"{r:.4g}") for r in found.tolist()] if found.isfinite().all() else None


def _matrices(block: nn.Module) -> list[Tensor]:
    return [own_part(p.detach()) for p in block.parameters() if p.requires_grad and p.dim() >= 2]


def _norm(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return the norm of all numbers together, a tensor on their device: nobody waits for it yet."""
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack([torch.linalg.vector_norm(t, dtype=torch.float32) for t in tensors]).norm()
