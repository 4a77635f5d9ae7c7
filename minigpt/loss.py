"""A batch in, its loss out: the one module that is compiled, wrapped and sharded."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.loss_scale import LossScale
from minigpt.model.casting import Cast
from minigpt.model.transformer import GPT

IGNORED = -100  # a target that is not counted
# Numbers: 128 MB in fp32. Larger logits are made chunk by chunk and never exist whole.
LOGITS_AT_ONCE = 1 << 25


class TrainStep(nn.Module):
    """The model with its loss around it: ids and targets in, the summed loss in nats and the number of targets out.

    Attributes:
        model: in it.
        cast: brings the stream into the precision of the run, where that is low.
        loss_scale: what its gradients are scaled with inside, where the run is in fp16.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model
        self.cast: Cast | None = None
        self.loss_scale: LossScale | None = None

    def forward(
        self, ids: Tensor, targets: Tensor, documents: Tensor | None = None, summed: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the summed loss in nats over the counted targets, and their number.

        Args:
            ids: (B, T).
            targets: (B, T); -100 is not counted.
            documents: (B, T), the document of each position, or None.
            summed: False: the loss of each counted target in their order, (counted,), for an evaluation. It is asked
                for here, for weights in shards come together for this call alone.
        """
        hidden = self.model.hidden(ids, documents=documents).flatten(0, 1)  # (B * T, C)
        if not summed:
            counted = (targets != IGNORED).flatten()
            return losses_of(
                self.model.head, hidden[counted], targets.flatten()[counted]
            ), counted.sum()
        loss_sum = next_token_loss(self.model.head, hidden, targets.flatten())
        return loss_sum, (targets != IGNORED).sum()


def next_token_loss(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy in nats; over a large vocabulary in chunks, whose logits never exist together.

    Args:
        head: (N, C) -> (N, V).
        hidden: (N, C).
        targets: (N,); -100 is not counted.
    """
    rows = _rows_at_once(head)
    if rows >= len(targets):
        return _cross_entropy(head, hidden, targets)
    if torch.is_grad_enabled():
        return _ChunkedLoss.apply(hidden, head.weight, targets, rows)
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.stack([_cross_entropy(head, h, t) for h, t in chunks]).sum()


@torch.no_grad()
def losses_of(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each target in nats, (N,), for what `next_token_loss` takes; without a gradient."""
    rows = _rows_at_once(head)
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat(
        [
            F.cross_entropy(head(h).float(), t, ignore_index=IGNORED, reduction="none")
            for h, t in chunks
        ]
    )


def _rows_at_once(head: nn.Linear) -> int:
    return max(1, LOGITS_AT_ONCE // head.weight.size(0))


def _cross_entropy(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, ignore_index=IGNORED, reduction="sum")


class _ChunkedLoss(torch.autograd.Function):
    """The gradient of a sum is known with it: taken in the forward pass, no logits need be kept or made twice.

    As in Hsu et al. (2024), "Liger Kernel", section 3.2. What torch has for it, `F.linear_cross_entropy` in chunks,
    took three to nine times as long on a CPU, and rounds the sum to bf16: docs/experiments.md. The loss scale of fp16
    comes after it; what vanishes before are chances below 1e-7.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        """Return the summed loss of (N, C) through (V, C), so many rows at a time."""
        total = hidden.new_zeros((), dtype=torch.float32)
        into_hidden, into_weight = (
            torch.zeros_like(x) if wanted else None
            for x, wanted in zip((hidden, weight), ctx.needs_input_grad, strict=False)
        )
        low = weight.to(hidden.dtype)
        for start in range(0, len(targets), rows):
            part, target = hidden[start : start + rows], targets[start : start + rows]
            scores = F.linear(part, low).float().log_softmax(dim=1)  # (rows, V)
            counted = (target != IGNORED).unsqueeze(1)
            target = target.clamp(min=0).unsqueeze(1)
            chances = scores.gather(1, target)  # logarithms of them
            total -= (chances * counted).sum()
            # Of the logits: softmax, less 1 at the target.
            gradient = scores.exp_().scatter_(1, target, chances.expm1())
            gradient = gradient.mul_(counted).to(hidden.dtype)
            if into_hidden is not None:
                into_hidden[start : start + rows] = gradient @ low
            if into_weight is not None:
                into_weight += gradient.T @ part
        ctx.save_for_backward(into_hidden, into_weight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # ty: ignore[incompatible-method-override]
        """Return the gradients of `hidden` and of the weight."""
        into_hidden, into_weight = ctx.saved_tensors
        if into_hidden is not None:
            into_hidden = (into_hidden.float() * gradient).to(into_hidden.dtype)
        if into_weight is not None:
            into_weight.mul_(gradient)  # nobody else has it
        return into_hidden, into_weight, None, None
