"""The same batch in each process in, the same step in each out: that of one process with the whole batch."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100


def same_start(model: nn.Module) -> None:
    """Give every process the weights of rank 0."""
    for parameter in model.parameters():
        dist.broadcast(parameter.data, src=0)


def own_rows(batch: Tensor) -> Tensor:
    """Return the rows of a batch that this process takes, (rows, T): row i belongs to rank i mod world_size."""
    return batch[dist.get_rank() :: dist.get_world_size()]


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> float:
    """Do one step on a batch, together; return the loss of the whole batch, the mean over the targets that count.

    Args:
        model: (B, T) ids -> (B, T, V) logits, with the same weights in each process.
        optimizer: of its parameters.
        inputs, targets: (B, T), the whole batch, the same in each process; a target of -100 does not count.
    """
    counted = (targets != IGNORED).sum()
    inputs, targets = own_rows(inputs), own_rows(targets)
    logits = model(inputs).flatten(0, 1)
    loss = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    loss = loss / counted
    optimizer.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item()
