"""Two processes: the same start, each row once, and the step of one process."""

import torch
import torch.distributed as dist
from torch import nn

from minigpt.learn.rules import Mistake, check, filled

INPUTS = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 2], [2, 3, 3, 1]])
FULL = torch.tensor([[1, 2, 3, 0], [2, 1, 0, 2], [1, 0, 2, 2], [3, 3, 1, 0]])
UNEVEN = torch.tensor([[1, 2, 3, 0], [-100, -100, -100, 2], [1, 0, 2, -100], [-100, -100, 1, -100]])


def _step(module, targets, steps=1):
    model = filled(nn.Sequential(nn.Embedding(4, 4)), 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = [float(module.update(model, optimizer, INPUTS, targets)) for _ in range(steps)]
    return {"loss": losses, "weights": model[0].weight}


@check(processes=2)
def rows(module):
    """row i is taken by rank i mod 2"""
    return [module.own_rows(INPUTS), module.own_rows(torch.arange(10).view(5, 2))]


@check(processes=2)
def start(module):
    """both have the weights of rank 0"""
    model = filled(nn.Linear(2, 2), 1.0 + dist.get_rank())
    module.same_start(model)
    return dict(model.named_parameters())


@check(processes=2)
def even(module):
    """the step of one process, where everything counts"""
    return _step(module, FULL)


@check(processes=2)
def uneven(module):
    """the step of one process, where one has few targets that count"""
    return _step(module, UNEVEN)


@check(processes=2)
def steps(module):
    """three steps"""
    return _step(module, UNEVEN, 3)


MISTAKES = [
    Mistake(
        "halves",
        """Each process takes a half of the batch in one piece. That would do as well; here row i is asked for by rank
        i mod 2: batch[rank::world_size].""",
        {
            "batch[dist.get_rank() :: dist.get_world_size()]": "batch.chunk(dist.get_world_size())[dist.get_rank()]"
        },
    ),
    Mistake(
        "all rows",
        """Each process takes all rows, so nothing is gained: they do the same work twice.""",
        {"batch[dist.get_rank() :: dist.get_world_size()]": "batch"},
    ),
    Mistake(
        "the same rows",
        """Both processes take the same rows, and the others are never seen. Begin at the rank.""",
        {"batch[dist.get_rank() :: dist.get_world_size()]": "batch[:: dist.get_world_size()]"},
    ),
    Mistake(
        "each its own start",
        """The processes begin with different weights. Rank 0 hands its own out: dist.broadcast(…, src=0).""",
        {"dist.broadcast(parameter.data, src=0)": "pass"},
    ),
    Mistake(
        "start of rank 1",
        """The weights are those of rank 1; rank 0 hands its own out.""",
        {"src=0": "src=1"},
    ),
    Mistake(
        "weights averaged",
        """The weights are added up or averaged: an average of random weights is smaller than any of them. Rank 0 hands its own
        out.""",
        {
            "dist.broadcast(parameter.data, src=0)": "dist.all_reduce(parameter.data)\n        parameter.data /= 2"
        },
        {"dist.broadcast(parameter.data, src=0)": "dist.all_reduce(parameter.data)"},
    ),
    Mistake(
        "gradients apart",
        """Each process steps along its own gradient, so the copies drift apart. Add up the gradients before the step.""",
        {"        dist.all_reduce(parameter.grad)": "        pass"},
        {
            "    for parameter in model.parameters():\n        dist.all_reduce(parameter.grad)\n    optimizer.step()": "    optimizer.step()\n    for parameter in model.parameters():\n        dist.all_reduce(parameter.grad)"
        },
    ),
    Mistake(
        "averaged once too often",
        """The gradients are averaged, although the loss is divided by the targets of all processes already: each step is half
        of what it should be. Add them up.""",
        {
            "        dist.all_reduce(parameter.grad)": "        dist.all_reduce(parameter.grad)\n        parameter.grad /= dist.get_world_size()"
        },
    ),
    Mistake(
        "mean of means",
        """Each process divides by its own targets, and then the gradients are averaged: where one has few that count, they weigh
        more. Divide by the targets that count in all processes, and add up.""",
        {
            "loss = loss / counted": "loss = loss / (targets != IGNORED).sum() / dist.get_world_size()"
        },
    ),
    Mistake(
        "means added up",
        """Each process takes the mean over its own targets, and the gradients are added up: twice as large a step as it should
        be.""",
        {"loss = loss / counted": "loss = loss / (targets != IGNORED).sum()"},
    ),
    Mistake(
        "never divided",
        """The loss is a sum. Divide by the targets that count in all processes.""",
        {"    loss = loss / counted\n": ""},
    ),
    Mistake(
        "everything counted",
        """Targets of -100 are counted in what is divided by.""",
        {"(targets != IGNORED).sum()": "targets.numel()"},
    ),
    Mistake(
        "own loss returned",
        """Each process returns the loss of its own rows. Add up the parts: it is the loss of the whole batch.""",
        {"    dist.all_reduce(total)\n": ""},
    ),
    Mistake(
        "gradients pile up",
        """Gradients are never cleared, so each step goes along the sum of all so far.""",
        {"    optimizer.zero_grad()\n": ""},
    ),
]
