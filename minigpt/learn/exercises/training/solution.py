"""A model and batches in, a better model out."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with betas (0.9, 0.95): parameters of two or more dimensions decay, the others do not."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))


def learning_rate(update: int, *, lr: float, min_lr: float, warmup: int, steps: int) -> float:
    """Return the learning rate of an update, counted from 1 to `steps`."""
    if update < warmup:
        return lr * update / warmup
    done = (update - warmup) / (steps - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * done)) / 2


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> tuple[float, float]:
    """Do one step on a batch; return its loss before the step, and the norm of its gradient before clipping to 1.

    Args:
        model: (B, T) ids -> (B, T, V) logits.
        optimizer: with its learning rate set.
        inputs, targets: (B, T) ids each.
    """
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), norm.item()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    lr: float,
    min_lr: float,
    warmup: int,
    steps: int,
) -> list[float]:
    """Do `steps` updates, one for each batch, each at its learning rate; return their losses."""
    losses = []
    for number, (inputs, targets) in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, lr=lr, min_lr=min_lr, warmup=warmup, steps=steps)
        losses.append(update(model, optimizer, inputs, targets)[0])
    return losses
