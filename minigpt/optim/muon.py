"""Gradients of matrices in, orthogonal updates of them out: Muon (Jordan et al., 2024); the rest is left to AdamW.

The mean gradient of a matrix is mostly a few strong directions. Muon keeps all its directions and makes them equally
strong: of U S V^T it takes U V^T, found with products alone (Newton-Schulz), which is what accelerators do best. Of
several processes each does so with its share of the matrices; all else is done where the numbers lie.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from minigpt.optim.owners import share_out
from minigpt.ranks import ALONE, Ranks, own_part

# Of the polynomial a s + b s^3 + c s^5 that takes singular values in (0, 1] to about 1 when it is applied again and
# again; steep at 0 rather than exact at 1: Jordan et al. (2024), "Muon", the section on tuning the coefficients.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7
ADAMW_EPS = 1e-8

# The gradients of the first steps soon point elsewhere, and less of them is kept: modded-nanogpt, Jordan et al. (2024).
MOMENTUM_AT_FIRST = 0.85
MOMENTUM_WARMUP_STEPS = 300


def orthogonalize_one(matrix: Tensor) -> Tensor:
    """Return U S' V^T for a matrix U S V^T, singular values S' of about 1: plainly, to test the fast way by."""
    a, b, c = COEFFICIENTS
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize_one(matrix.T).T  # the products are of the shorter side
    x = matrix / max(matrix.norm().item(), SMALLEST_NORM)  # no singular value is above the norm
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the same for a stack of matrices (N, rows, columns), each product one for all of them, in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        square = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def update_scale(rows: int, columns: int, scale: str = "rms") -> float:
    """Return what an orthogonal update is multiplied with, so that one learning rate suits matrices of all shapes.

    rms: each entry moves by about 0.2 of the learning rate, as AdamW's entries do (Liu et al., 2025, "Muon is Scalable
    for LLM Training", section 2.2). spectral: what comes out of the matrix moves by the same share, whatever its shape
    (Jordan et al., 2024).
    """
    if scale == "rms":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def momentum_at(update: Tensor, momentum: float, warmup_steps: int) -> Tensor:
    """Return the momentum of an update, counted from 1: from 0.85, or less, in a line up to `momentum`."""
    lowest = min(MOMENTUM_AT_FIRST, momentum)
    return lowest + (momentum - lowest) * (update / max(1, warmup_steps)).clamp(max=1.0)


def _stacked(states: list[dict[str, Tensor]]) -> Tensor:
    """Return the mean gradients, own parts, as one tensor that they are views of: made so when they are not yet."""
    buffers = [own_part(state["momentum_buffer"]) for state in states]
    base = buffers[0]._base
    if base is None or len(base) != len(states) or any(b._base is not base for b in buffers):
        base = torch.stack(buffers)
        for state, buffer in zip(states, base, strict=True):
            state["momentum_buffer"] = _in_place_of(state["momentum_buffer"], buffer)
    return base


def _in_place_of(whole: Tensor, part: Tensor) -> Tensor:
    """Return a tensor that is spread as `whole` is, with this part of it here."""
    if own_part(whole) is whole:
        return part
    from torch.distributed.tensor import DTensor  # takes half a second

    assert isinstance(whole, DTensor)
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride()
    )


class Muon(torch.optim.Optimizer):
    """Muon on the groups whose "optimizer" is "muon", fused AdamW on those where it is "adamw"."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        momentum_warmup_steps: int = MOMENTUM_WARMUP_STEPS,
        nesterov: bool = True,
        scale: str = "rms",
        dtype: torch.dtype = torch.float32,
        betas: tuple[float, float] = (0.9, 0.99),
        ranks: Ranks = ALONE,
    ) -> None:
        """Take the groups over.

        Args:
            groups: each with its "params" and "optimizer"; what else it holds takes the place of the arguments below.
            lr: the learning rate.
            momentum: decay of the mean gradient under Muon, after its warm-up.
            momentum_warmup_steps: updates until then.
            nesterov: mixes the gradient into the mean once more.
            scale: of the update, "rms" or "spectral".
            dtype: of the products of Newton-Schulz.
            betas: AdamW's.
            ranks: who trains these weights together.
        """
        super().__init__(
            groups, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "nesterov": nesterov, "betas": betas}
        )  # fmt: skip
        self.momentum_warmup_steps, self.scale, self.dtype = momentum_warmup_steps, scale, dtype
        self.shards, self.copies = ranks.shards, ranks.copies

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            gradients = {p: p.grad for p in group["params"] if p.grad is not None}
            if group["optimizer"] == "adamw":
                self._adamw(group, gradients)
                continue
            alike = defaultdict(dict)
            for matrix, gradient in gradients.items():
                alike[matrix.shape][matrix] = gradient
            for same_shape in alike.values():
                self._muon(group, same_shape)

    def _muon(self, group: dict[str, Any], gradients: dict[Tensor, Tensor]) -> None:
        """Update matrices of one shape: momentum, Newton-Schulz, decoupled decay (Liu et al., 2025, section 2.2)."""
        rows, columns = next(iter(gradients)).shape
        # Newton-Schulz takes and returns the dtype of its products: nothing is lost when they travel in it.
        updates = share_out(
            self._directions(group, gradients).to(self.dtype),
            rows,
            lambda whole: orthogonalize(whole, self.dtype),
            self.shards,
            self.copies,
        )
        matrices = [own_part(matrix) for matrix in gradients]
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * update_scale(rows, columns, self.scale)
        torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate)

    def _directions(self, group: dict[str, Any], gradients: dict[Tensor, Tensor]) -> Tensor:
        """Return the mean gradients, stacked (N, own rows, columns); Nesterov's let the newest one weigh once more."""
        for matrix in gradients:
            if not self.state[matrix]:
                # The count is a tensor beside the matrix, so that no step waits for the device.
                self.state[matrix] = {
                    "step": torch.zeros((), device=matrix.device),
                    "momentum_buffer": torch.zeros_like(matrix),
                }
        states = [self.state[matrix] for matrix in gradients]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        momentum = momentum_at(
            torch.stack(steps), group["momentum"], self.momentum_warmup_steps
        ).view(-1, 1, 1)
        newest = torch.stack([own_part(gradient) for gradient in gradients.values()])
        means = _stacked(states).lerp_(newest, 1 - momentum)
        return newest.lerp_(means, momentum) if group["nesterov"] else means

    def _adamw(self, group: dict[str, Any], gradients: dict[Tensor, Tensor]) -> None:
        """Update parameters as `torch.optim.AdamW` does, with a state of the same form."""
        for parameter in gradients:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in gradients]
        adamw(
            [own_part(parameter) for parameter in gradients],
            [own_part(gradient) for gradient in gradients.values()],
            [own_part(state["exp_avg"]) for state in states],
            [own_part(state["exp_avg_sq"]) for state in states],
            [],  # of AMSGrad
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=ADAMW_EPS,
            maximize=False,
        )
