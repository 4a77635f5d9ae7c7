"""Gradients that fp16 can hold: the loss is taken many times as large backward, and gradients as much smaller after it.

The smallest number of fp16 is 6e-8, and many gradients lie below (Micikevicius et al., 2018, "Mixed Precision
Training", section 3.2). As large as it may be, the factor is found by trying: it doubles after `PATIENCE` sound updates
and halves after one whose gradient was too large.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

FIRST = 2.0**16
LARGEST = 2.0**24
PATIENCE = 2000  # sound updates


class LossScale:
    """The factor of one module that returns a loss and more: nobody outside sees it, gradients have their own size.

    Attributes:
        factor: (), fp32, on the device.
        sound: (), updates since the factor last changed.
    """

    def __init__(self, step: nn.Module) -> None:
        """Scale the losses and gradients of a module that is on its device."""
        device = next(step.parameters()).device
        self.factor = torch.tensor(FIRST, device=device)
        self.sound = torch.tensor(0, device=device)
        step.register_forward_hook(self._grow)
        for parameter in step.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient / self.factor)

    def _grow(self, step: nn.Module, given: Any, returned: tuple[Tensor, ...]) -> Any:
        loss_sum, *others = returned
        return _Scaled.apply(loss_sum, self.factor), *others

    def update(self, overflowed: Tensor) -> Tensor:
        """Take note of an update, whether its gradient was not finite; return whether a smaller factor may help."""
        may_shrink = overflowed & (self.factor > 1)
        self.sound = torch.where(overflowed, 0, self.sound + 1)
        doubled = (2 * self.factor).clamp(max=LARGEST)
        grown = torch.where(self.sound >= PATIENCE, doubled, self.factor)
        self.factor.copy_(torch.where(may_shrink, self.factor / 2, grown))
        self.sound = torch.where(self.sound >= PATIENCE, 0, self.sound)
        return may_shrink

    def state(self) -> dict[str, float]:
        """Return what a checkpoint has to hold."""
        return {"factor": self.factor.item(), "sound": self.sound.item()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned."""
        self.factor.fill_(state["factor"])
        self.sound = torch.full_like(self.sound, int(state["sound"]))


class _Scaled(torch.autograd.Function):
    """Nothing forward; backward the gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: Tensor) -> Tensor:
        """Return the loss as it is."""
        ctx.save_for_backward(factor.clone())
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # ty: ignore[incompatible-method-override]
        """Return the gradient so many times as large."""
        return gradient * ctx.saved_tensors[0], None
