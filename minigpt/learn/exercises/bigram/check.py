"""A bigram model: its shape, its targets, its loss, its training, and what is held out."""

import torch
import torch.nn.functional as F
from torch import nn

from minigpt.learn.rules import Judged, Mistake, check, drawn, filled, names_and_shapes, no_seeds


def _followed(ids, order):
    """Return ids in which each is followed by the next one of an order, but for one time in ten."""
    random = torch.Generator().manual_seed(0)
    text = [order[0]]
    for _ in range(ids):
        jump = torch.rand((), generator=random) < 0.1
        after = order[(order.index(text[-1]) + 1) % len(order)]
        text.append(int(torch.randint(len(order), (), generator=random)) if jump else after)
    return torch.tensor(text)


def _true_loss(model, ids):
    return F.cross_entropy(model(ids[:-1]), ids[1:]).item()


@check()
def parameters(module):
    """the parameters and their shapes"""
    return names_and_shapes(module.Bigram(5, 3))


@check()
def logits(module):
    """the logits for given weights"""
    return filled(module.Bigram(4, 3))(torch.tensor([0, 2, 1]))


@check()
def targets(module):
    """targets are the inputs moved by one"""
    return module.pairs(torch.tensor([5, 6, 7, 8]))


@check()
def a_loss(module):
    """the loss of a text, in nats per token"""
    ids, table = torch.tensor([0, 1, 2, 0, 2]), nn.Embedding(3, 3)
    table.weight.data = 3 * drawn(3, 3)
    return module.loss(table, ids)


@check()
def a_loss_to_start_with(module):
    """a model that knows nothing has a loss of ln V"""
    table = nn.Embedding(7, 7)
    nn.init.zeros_(table.weight)
    return module.loss(table, torch.arange(7))


@check()
def learns(module):
    """after training, the loss on the training part is near what is possible"""
    ids = _followed(300, [0, 3, 1, 4, 2, 5])
    with no_seeds():
        model, _ = module.train_bigram(ids, 6)
    reached = _true_loss(model, ids[:270])
    return Judged("a loss below 0.75" if reached < 0.75 else f"a loss of {reached:.2f}", reached)


@check()
def reports_what_is_held_out(module):
    """what is reported is the loss on the last tenth, which was not trained on"""
    ids = torch.cat((_followed(269, [0, 1, 2, 3, 4, 5]), _followed(29, [0, 2, 4, 1, 5, 3])))
    with no_seeds():
        model, reported = module.train_bigram(ids, 6)
    cut = len(ids) * 9 // 10
    parts = {"the last tenth": ids[cut:], "the training part": ids[:cut], "all of the text": ids}
    near = {name: abs(float(reported) - _true_loss(model, part)) for name, part in parts.items()}
    which = next(
        (f"the loss on {name}" for name, off in near.items() if off < 0.01), "another number"
    )
    knows = "knows it" if _true_loss(model, ids[cut:]) < 3.0 else "does not know it"
    return f"{which}, by a model that {knows}"


MISTAKES = [
    Mistake(
        "no shift",
        """The target of each input is the input itself, which is easy to foretell and worth nothing. The target is the id
        that follows: inputs ids[:-1], targets ids[1:].""",
        {"return ids[:-1], ids[1:]": "return ids[:-1], ids[:-1]"},
        {"return ids[:-1], ids[1:]": "return ids, ids"},
        {"inputs, targets = pairs(ids)": "inputs, targets = ids, ids"},
        {"return ids[:-1], ids[1:]": "return ids[1:], ids[1:]"},
    ),
    Mistake(
        "shifted the wrong way",
        """Inputs and targets are exchanged: the model is asked for the token before. The inputs are ids[:-1], and each is
        asked for what comes next.""",
        {"return ids[:-1], ids[1:]": "return ids[1:], ids[:-1]"},
    ),
    Mistake(
        "shifted by two",
        """A token lies between an input and its target. The target is the very next id.""",
        {"return ids[:-1], ids[1:]": "return ids[:-2], ids[2:]"},
    ),
    Mistake(
        "no nonlinearity",
        """The tanh between the two layers is missing: two linear layers in a row are one.""",
        {".tanh()": ""},
    ),
    Mistake(
        "another nonlinearity",
        """Another function stands between the layers than the tanh that the page names.""",
        {".tanh()": ".relu()"},
        {".tanh()": ".sigmoid()"},
    ),
    Mistake(
        "softmax twice",
        """F.cross_entropy is given probabilities. It takes logits and does the softmax itself; done twice, no loss gets
        near 0.""",
        {
            "F.cross_entropy(model(inputs), targets)": "F.cross_entropy(model(inputs).softmax(-1), targets)"
        },
        {
            "return self.output(self.embedding(ids).tanh())": "return self.output(self.embedding(ids).tanh()).softmax(-1)"
        },
    ),
    Mistake(
        "sum",
        """The loss is the sum over the positions. It is the mean, so that texts of any length compare.""",
        {"targets)": 'targets, reduction="sum")'},
    ),
    Mistake(
        "divided by the ids",
        """The sum is divided by the number of ids, but the first id is no target: n ids have n - 1 targets.""",
        {"targets)": "targets) * len(targets) / len(ids)"},
    ),
    Mistake(
        "bits",
        """The loss is in bits (base 2). Nats are asked for: the natural logarithm, as F.cross_entropy has it.""",
        {"targets)": "targets) / 0.6931471805599453"},
    ),
    Mistake(
        "gradients pile up",
        """Gradients are never cleared, so each step goes along the sum of all gradients so far. Clear them in every step,
        before backward.""",
        {"        optimizer.zero_grad()\n": ""},
    ),
    Mistake(
        "no step",
        """The weights hardly move. Each step needs zero_grad, backward, and optimizer.step(), in this order.""",
        {"        optimizer.step()\n": ""},
        {
            "        step_loss.backward()\n        optimizer.step()": "        optimizer.step()\n        step_loss.backward()",
            "        optimizer.zero_grad()\n": "        optimizer.zero_grad()\n        optimizer.zero_grad()\n",
        },
        {
            "        optimizer.zero_grad()\n        step_loss.backward()": "        step_loss.backward()\n        optimizer.zero_grad()"
        },
    ),
    Mistake(
        "training loss reported",
        """What is reported is the loss on text that the model was trained on. Report it on the last tenth, which it has
        never seen.""",
        {"loss(model, held_out).item()": "loss(model, train).item()"},
        {"loss(model, held_out).item()": "loss(model, ids).item()"},
    ),
    Mistake(
        "held out in name only",
        """The model has seen what is held out: it was trained on the whole text, so its loss there says nothing. Cut the
        last tenth off before training.""",
        {"train, held_out = ids[:cut], ids[cut:]": "train, held_out = ids, ids[cut:]"},
    ),
    Mistake(
        "the first tenth held out",
        """It is the first tenth that is held out, not the last.""",
        {
            "train, held_out = ids[:cut], ids[cut:]": "train, held_out = ids[len(ids) - cut:], ids[:len(ids) - cut]"
        },
    ),
]
