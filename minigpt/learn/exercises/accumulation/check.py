"""Accumulation: the same gradient, however a batch is cut."""

import torch
from torch import nn

from minigpt.learn.rules import Mistake, check, filled

INPUTS = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 2], [2, 3, 3, 1]])
TARGETS = torch.tensor(
    [[1, 2, 3, 0], [-100, -100, -100, 2], [-100, 0, 2, 2], [-100, -100, -100, -100]]
)


def _pieces(*rows):
    return [(INPUTS[list(some)], TARGETS[list(some)]) for some in rows]


def _found(module, *rows, model=None):
    model = model or filled(nn.Sequential(nn.Embedding(4, 4)), 1.0)
    loss = module.accumulate(model, _pieces(*rows))
    return {"loss": loss, "gradient": model[0].weight.grad}


@check()
def counted(module):
    """the targets that count, of all pieces"""
    return [
        module.count_targets(_pieces(*rows))
        for rows in (([0],), ([1], [2]), ([3],), ([0, 1], [2, 3]))
    ]


@check()
def one_piece(module):
    """one piece in which everything counts"""
    return _found(module, [0])


@check()
def equal_pieces(module):
    """two equal pieces"""
    return _found(module, [0], [0])


@check()
def unequal_pieces(module):
    """pieces with four targets, one and three"""
    return _found(module, [0], [1], [2])


@check()
def empty_piece(module):
    """a piece in which nothing counts"""
    return _found(module, [1, 2], [3], [0])


@check()
def twice(module):
    """what was there before does not matter"""
    model = filled(nn.Sequential(nn.Embedding(4, 4)), 1.0)
    _found(module, [0], model=model)
    return _found(module, [1], [2], model=model)


@check()
def frees(module):
    """each piece goes backward before the next begins"""
    table, order = filled(nn.Embedding(4, 4), 1.0), []
    model = nn.Sequential(table)
    model.register_forward_pre_hook(lambda *_: order.append("forward"))
    table.weight.register_hook(lambda gradient: order.append("backward"))
    module.accumulate(model, _pieces([0], [2]))
    return order


MISTAKES = [
    Mistake(
        "mean of means",
        """The mean is taken in each piece, and then of the pieces, so a target in a piece with few of them weighs more. Add up the
        losses of all pieces, and divide by the targets of all.""",
        {
            ', reduction="sum")': ")",
            "(loss / counted).backward()": "(loss / len(batches)).backward()",
            "return total / counted": "return total / len(batches)",
        },
        {
            ', reduction="sum")': ")",
            "(loss / counted).backward()": "(loss / len(batches)).backward()",
            "total += loss.item()": "total += loss.item() * int((targets != IGNORED).sum())",
        },
    ),
    Mistake(
        "means added up",
        """The mean of each piece is added up and never divided: the gradient grows with the number of pieces.""",
        {
            ', reduction="sum")': ")",
            "(loss / counted).backward()": "loss.backward()",
            "return total / counted": "return total / len(batches)",
        },
        {
            ', reduction="sum")': ")",
            "(loss / counted).backward()": "loss.backward()",
            "return total / counted": "return total",
        },
    ),
    Mistake(
        "never divided",
        """The losses are added up and not divided: the gradient grows with the batch. Divide by the targets of all pieces.""",
        {"(loss / counted).backward()": "loss.backward()"},
    ),
    Mistake(
        "divided by the pieces",
        """The sum is divided by the number of pieces, and should be by the number of targets that count in all of them.""",
        {"(loss / counted).backward()": "(loss / len(batches)).backward()"},
    ),
    Mistake(
        "divided by its own",
        """Each piece is divided by its own number of targets. Count those of all pieces first.""",
        {
            "(loss / counted).backward()": "(loss / max(1, int((targets != IGNORED).sum()))).backward()"
        },
    ),
    Mistake(
        "everything counted",
        """Targets of -100 are counted, too. They are not part of the loss, so they are no part of what it is divided by.""",
        {"int((targets != IGNORED).sum())": "targets.numel()"},
    ),
    Mistake(
        "zero for empty",
        """A target of id 0 is not counted. Only -100 is left out.""",
        {"targets != IGNORED": "targets > 0"},
    ),
    Mistake(
        "last piece alone",
        """Gradients are cleared in each piece, so only the last one is left. Clear them once, before the first.""",
        {
            "    model.zero_grad()\n": "",
            "        logits = model(inputs)": "        model.zero_grad()\n        logits = model(inputs)",
        },
    ),
    Mistake(
        "not cleared",
        """What was there before is still in the gradient. Clear it before the first piece.""",
        {"    model.zero_grad()\n": ""},
    ),
    Mistake(
        "cleared at the end",
        """The gradients are cleared at the end, and nothing is left for the optimiser.""",
        {"    return total / counted": "    model.zero_grad()\n    return total / counted"},
    ),
    Mistake(
        "one backward at the end",
        """All losses are added up, and there is one backward at the end: all graphs are kept until then, and nothing is saved.
        Go backward in each piece.""",
        {
            "        (loss / counted).backward()\n        total += loss.item()\n    return total / counted": "        total = total + loss / counted\n    total.backward()\n    return total.item()"
        },
    ),
    Mistake(
        "loss of the last piece",
        """What comes back is the loss of one piece, not of the whole batch.""",
        {"return total / counted": "return loss.item() / max(1, int((targets != IGNORED).sum()))"},
    ),
    Mistake(
        "loss is a sum",
        """The loss that comes back is a sum; it is the mean over the targets that count.""",
        {"return total / counted": "return total"},
    ),
]
