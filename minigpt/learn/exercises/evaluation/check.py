"""Evaluation: windows, the sum of all losses, and bits for each character."""

import torch
import torch.nn.functional as F
from torch import nn

from minigpt.learn.rules import Mistake, check, drawn, look_like_ids


class Model(nn.Module):
    """Foretells from all it sees, with dropout; refuses more than 3 positions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(drawn(7, 7, seed=4))
        self.dropout = nn.Dropout(0.5)
        self.gradients = False

    def forward(self, ids):
        """Return the logits, (1, T, 7)."""
        look_like_ids(ids, 3)
        self.gradients |= torch.is_grad_enabled()
        return self.dropout((F.one_hot(ids, 7).float() @ self.table).cumsum(1))


IDS = torch.tensor([3, 1, 4, 1, 5, 6, 2, 6])


@check()
def cut(module):
    """windows share their border; each id but the first is a target once"""
    return [[inputs.tolist(), targets.tolist()] for inputs, targets in module.windows(IDS, 3)]


@check()
def other_lengths(module):
    """texts of all lengths"""
    return [
        [[inputs.tolist(), targets.tolist()] for inputs, targets in module.windows(IDS[:n], 3)]
        for n in (7, 2, 4, 5)
    ]


@check()
def nats(module):
    """the losses of all tokens, added up"""
    return [module.total_nats(Model().eval(), IDS[:n], 3) for n in (2, 4, 8)]


@check()
def nothing_random(module):
    """a model in training gives the same, and is in training afterwards"""
    model = Model().train()
    nats = module.total_nats(model, IDS, 3)
    return {"nats": nats, "afterwards": "in training" if model.training else "at rest", "gradients": "kept" if model.gradients else "not kept"}  # fmt: skip


@check()
def at_rest(module):
    """a model at rest stays at rest"""
    model = Model().eval()
    module.total_nats(model, IDS, 3)
    return "in training" if model.training else "at rest"


@check()
def bits(module):
    """bits for each character, of which a token may have several"""
    return [module.bits_per_character(Model().eval(), IDS, 3, characters) for characters in (7, 20)]


MISTAKES = [
    Mistake(
        "rest dropped",
        """The last window, which is shorter, is left out, so the end of the text is never measured.""",
        {
            "range(0, len(ids) - 1, block_size)": "range(0, (len(ids) - 1) // block_size * block_size, block_size)"
        },
    ),
    Mistake(
        "borders lost",
        """The first id of each window is never a target: the windows are cut first and shifted then. Windows of inputs follow
        each other, and the last target of one is the first input of the next.""",
        {
            "(ids[start : start + block_size][: len(ids) - 1 - start], ids[start + 1 : start + block_size + 1])": "(ids[start : start + block_size][:-1], ids[start : start + block_size][1:])"
        },
        {"range(0, len(ids) - 1, block_size)": "range(0, len(ids) - 1, block_size + 1)"},
    ),
    Mistake(
        "no shift",
        """The targets are the inputs themselves. The target of each is the id after it.""",
        {
            "ids[start + 1 : start + block_size + 1]": "ids[start : start + block_size][: len(ids) - 1 - start]"
        },
    ),
    Mistake(
        "overlapping",
        """Windows overlap, so that most ids are foretold several times. Each begins where the last one ended.""",
        {"range(0, len(ids) - 1, block_size)": "range(0, len(ids) - 1)"},
    ),
    Mistake(
        "input without a target",
        """The last window has one input more than targets: nothing follows the last id.""",
        {"[: len(ids) - 1 - start]": ""},
    ),
    Mistake(
        "no batch",
        """The model is given (T,) ids, and wants (1, T): a batch of one text. inputs[None] has one dimension more.""",
        {"model(inputs[None])[0]": "model(inputs)"},
    ),
    Mistake(
        "mean of windows",
        """The mean of each window is added up. A window's mean forgets how many tokens it had: take reduction="sum".""",
        {', reduction="sum"': ""},
    ),
    Mistake(
        "mean of all",
        """What comes back is the mean over the tokens. The sum is asked for; it is divided by the characters afterwards.""",
        {"    return total\n": "    return total / (len(ids) - 1)\n"},
    ),
    Mistake(
        "dropout on",
        """The model is measured in training mode, so dropout makes it worse, and another number comes out each time. Call
        model.eval() first.""",
        {"    model.eval()\n": ""},
    ),
    Mistake(
        "left at rest",
        """Afterwards the model is in eval mode, although it was in training. Remember model.training and set it back.""",
        {"    model.train(training)\n": ""},
    ),
    Mistake(
        "left in training",
        """Afterwards the model is in training mode, although it was not before. Remember model.training and set it back.""",
        {"model.train(training)": "model.train()"},
    ),
    Mistake(
        "gradients kept",
        """Everything is remembered for a gradient that nobody will ask for. Use torch.no_grad().""",
        {"@torch.no_grad()\n": ""},
    ),
    Mistake(
        "nats",
        """The result is in nats. A bit is ln 2 nats: divide by math.log(2).""",
        {" / math.log(2)": ""},
    ),
    Mistake(
        "multiplied by ln 2",
        """The nats are multiplied by ln 2; they are divided by it. A bit is 0.69 nats, so there are more bits than nats.""",
        {"/ math.log(2)": "* math.log(2)"},
    ),
    Mistake(
        "per token",
        """The bits are divided by the tokens. Other tokenizers have other tokens; divide by the characters.""",
        {"/ characters": "/ (len(ids) - 1)"},
        {"/ characters": "/ len(ids)"},
    ),
    Mistake(
        "perplexity",
        """What comes out is exponentiated, a perplexity. Bits are asked for.""",
        {
            "return total_nats(model, ids, block_size) / math.log(2) / characters": "return math.exp(total_nats(model, ids, block_size) / characters)"
        },
    ),
]
