"""A linear layer in, the same with a small change beside it, which alone is trained, out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraLinear(nn.Module):
    """(…, inputs) -> (…, outputs): base(x) + alpha / rank · B A x.

    Attributes:
        base: the layer, frozen.
        A: (rank, inputs), random: normal with a standard deviation of 1 / √inputs.
        B: (outputs, rank), zero.
        scale: alpha / rank.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer gives, and the change."""
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)

    def merged(self) -> nn.Linear:
        """Return a plain layer that gives the same; this one, and the one it was made of, stay as they are."""
        plain = nn.Linear(
            self.base.in_features, self.base.out_features, bias=self.base.bias is not None
        )
        plain.load_state_dict(self.base.state_dict())
        plain.weight.data += self.scale * (self.B @ self.A).detach()
        return plain
