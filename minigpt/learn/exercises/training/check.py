"""A training loop: who decays, the schedule, one update, and several."""

import torch
from torch import nn

from minigpt.learn.rules import Judged, Mistake, check, filled

IDS = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 1]])


def _model():
    """A table of logits with a gain and a bias: the smallest model that has all kinds of parameters."""
    return filled(nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.Linear(3, 4)), 1.0)


def _weights(model):
    return dict(model.named_parameters())


@check()
def decay(module):
    """matrices decay; gains and biases do not"""
    model = _model()
    optimizer = module.make_optimizer(model, 0.01, 0.1)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    return {name: decays.get(id(p), "in no group") for name, p in model.named_parameters()}


@check()
def betas(module):
    """it is AdamW with betas (0.9, 0.95) and the learning rate"""
    optimizer = module.make_optimizer(_model(), 0.01, 0.1)
    group = optimizer.param_groups[0]
    return [type(optimizer).__name__, group["betas"], group["lr"]]


@check()
def warm_up(module):
    """the rate rises in a line, from lr / warmup at update 1 to lr at update warmup"""
    return {
        f"update {i}": module.learning_rate(i, lr=1.0, min_lr=0.1, warmup=4, steps=12)
        for i in (1, 2, 3, 4)
    }


@check()
def cosine(module):
    """then it falls along half a cosine, to min_lr at the last update"""
    return {
        f"update {i}": module.learning_rate(i, lr=1.0, min_lr=0.1, warmup=4, steps=12)
        for i in (5, 6, 8, 10, 11, 12)
    }


@check()
def one_update(module):
    """one update with plain SGD: the loss and the norm before, and the weights after"""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss, norm = module.update(model, optimizer, IDS, IDS.roll(-1, 1))
    return {"loss": loss, "norm": norm} | _weights(model)


@check()
def large_gradients(module):
    """gradients above a norm of 1 are scaled to it, all by the same factor"""
    model = _model()
    with torch.no_grad():
        model[2].weight.mul_(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss, norm = module.update(model, optimizer, IDS, IDS.roll(-1, 1))
    return {"loss": loss, "norm": norm} | _weights(model)


@check()
def two_updates(module):
    """the second update goes along its own gradient alone"""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    said = [module.update(model, optimizer, IDS[:, : 2 + n], IDS[:, 1 : 3 + n]) for n in (0, 1)]
    return {"loss and norm": said} | _weights(model)


@check()
def several(module):
    """training: each update at its own rate"""
    model = _model()
    groups = [{"params": [p for p in model.parameters() if p.dim() == n]} for n in (2, 1)]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    batches = [
        (ids, ids.roll(-1, 1)) for ids in (IDS, IDS.flip(0), IDS.flip(1), IDS.T.contiguous(), IDS)
    ]
    losses = module.train(model, optimizer, batches, lr=1.0, min_lr=0.1, warmup=2, steps=5)
    return {"losses": losses} | _weights(model)


@check()
def learns(module):
    """with AdamW a small batch is learnt by heart"""
    model = nn.Sequential(nn.Embedding(6, 16), nn.LayerNorm(16), nn.Linear(16, 6))
    filled(model)
    ids = torch.arange(6).repeat(2, 2)
    optimizer = module.make_optimizer(model, 0.1, 0.01)
    losses = module.train(
        model, optimizer, [(ids, (ids + 1) % 6)] * 40, lr=0.1, min_lr=0.01, warmup=5, steps=40
    )
    reached = float(losses[-1])
    return Judged("a loss below 0.1" if reached < 0.1 else f"a loss of {reached:.2f}", reached)


MISTAKES = [
    Mistake(
        "decay on norms and biases",
        """Gains of norms and biases decay, too. Pulled to zero they only do harm: only parameters of two or more dimensions
        decay.""",
        {
            '{"params": vectors, "weight_decay": 0.0}': '{"params": vectors, "weight_decay": weight_decay}'
        },
        {"p.dim() >= 2": "p.dim() >= 1", "p.dim() < 2": "p.dim() < 1"},
        {
            "[p for p in parameters if p.dim() >= 2]": '[p for n, p in model.named_parameters() if "bias" not in n]',
            "[p for p in parameters if p.dim() < 2]": '[p for n, p in model.named_parameters() if "bias" in n]',
        },
    ),
    Mistake(
        "no decay of embeddings",
        """Embeddings do not decay. Some leave them out, but here every parameter of two or more dimensions decays.""",
        {
            "[p for p in parameters if p.dim() >= 2]": "[m.weight for m in model.modules() if isinstance(m, nn.Linear)]",
            "[p for p in parameters if p.dim() < 2]": "[p for p in parameters if all(p is not q for q in matrices)]",
        },
    ),
    Mistake(
        "decay the wrong way round",
        """Vectors decay and matrices do not. It is the other way round.""",
        {"p.dim() >= 2": "p.dim() < 2", "p.dim() < 2]": "p.dim() >= 2]"},
    ),
    Mistake(
        "no decay",
        """Nothing decays. Matrices get the weight_decay that is passed in.""",
        {'"weight_decay": weight_decay': '"weight_decay": 0.0'},
    ),
    Mistake(
        "parameters left out",
        """Some parameters are in no group, so that nothing ever trains them.""",
        {'        {"params": vectors, "weight_decay": 0.0},\n': ""},
    ),
    Mistake(
        "other betas",
        """The betas are not (0.9, 0.95); torch's own are (0.9, 0.999), which remember a thousand steps of gradient sizes.""",
        {", betas=(0.9, 0.95)": ""},
    ),
    Mistake(
        "warm-up from zero",
        """The warm-up is off by one: update 1 has a rate of 0 and does nothing. Updates are counted from 1, and update i has
        lr i / warmup.""",
        {"lr * update / warmup": "lr * (update - 1) / warmup"},
        {
            "if update < warmup": "if update <= warmup",
            "lr * update / warmup": "lr * (update - 1) / warmup",
        },
    ),
    Mistake(
        "warm-up too slow",
        """Update `warmup` has not yet reached lr: divide by warmup, not by warmup + 1.""",
        {
            "if update < warmup": "if update <= warmup",
            "lr * update / warmup": "lr * update / (warmup + 1)",
        },
    ),
    Mistake(
        "warm-up too fast",
        """The rate reaches lr before update `warmup`.""",
        {"lr * update / warmup": "lr * (update + 1) / warmup"},
    ),
    Mistake(
        "no warm-up",
        """There is no warm-up: the first updates have the full rate.""",
        {
            "if update < warmup": "if False",
            "done = (update - warmup)": "done = max(0, update - warmup)",
        },
    ),
    Mistake(
        "warm-up from min_lr",
        """The warm-up begins at min_lr. It begins at 0: update i has lr i / warmup.""",
        {"lr * update / warmup": "min_lr + (lr - min_lr) * update / warmup"},
    ),
    Mistake(
        "cosine over all steps",
        """The cosine runs over all updates, as if there had been no warm-up, so the rate jumps at its end. It begins at update
        `warmup`.""",
        {"(update - warmup) / (steps - warmup)": "update / steps"},
    ),
    Mistake(
        "cosine off by one",
        """The schedule is off by one: the last update does not have min_lr. It falls from lr at update `warmup` to min_lr at
        update `steps`.""",
        {"(update - warmup) / (steps - warmup)": "(update - warmup) / (steps - warmup + 1)"},
        {"(update - warmup) / (steps - warmup)": "(update - 1 - warmup) / (steps - warmup)"},
        {"(update - warmup) / (steps - warmup)": "max(0, update - 1 - warmup) / (steps - warmup)"},
        {"(update - warmup) / (steps - warmup)": "(update - warmup) / (steps - warmup - 1)"},
    ),
    Mistake(
        "min_lr ignored",
        """The rate falls to 0. It falls to min_lr.""",
        {"min_lr + (lr - min_lr) *": "lr *"},
    ),
    Mistake(
        "min_lr added",
        """min_lr is added on top: the rate begins above lr. What the cosine scales is lr - min_lr.""",
        {"(lr - min_lr) *": "lr *"},
    ),
    Mistake(
        "a whole cosine",
        """The cosine goes down and up again. Half of it is enough: cos(π · done).""",
        {"math.pi * done": "2 * math.pi * done"},
    ),
    Mistake(
        "linear",
        """The rate falls in a line and not along half a cosine.""",
        {"(1 + math.cos(math.pi * done)) / 2": "(1 - done)"},
    ),
    Mistake(
        "gradients pile up",
        """Gradients are never cleared, so that each update goes along the sum of all gradients so far. Clear them in every
        update.""",
        {"    optimizer.zero_grad()\n": ""},
    ),
    Mistake(
        "nothing moves",
        """The weights stay as they were: optimizer.step() is missing, or the gradients are cleared between backward and
        step.""",
        {"    optimizer.step()\n": ""},
        {
            "    optimizer.zero_grad()\n": "",
            "    optimizer.step()": "    optimizer.zero_grad(set_to_none=False)\n    optimizer.step()",
        },
        {
            "    optimizer.zero_grad()\n": "",
            "    optimizer.step()": "    optimizer.zero_grad()\n    optimizer.step()",
        },
    ),
    Mistake(
        "clipped before backward",
        """Clipping comes before backward, when there is nothing to clip yet, and what the step takes is not clipped.""",
        {
            "    loss.backward()\n    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)": "    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    loss.backward()"
        },
    ),
    Mistake(
        "not clipped",
        """The gradients are not clipped, or only after the step. Between backward and step, scale them to a norm of 1 where it
        is more.""",
        {"model.parameters(), 1.0)": 'model.parameters(), float("inf"))'},
        {
            "    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()": "    optimizer.step()\n    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
        },
    ),
    Mistake(
        "clipped one by one",
        """Each parameter's gradient is clipped by its own norm, which bends the direction. The norm is that of all gradients
        together, and all are scaled by one factor.""",
        {
            "norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)": "norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()\n    for p in model.parameters():\n        nn.utils.clip_grad_norm_([p], 1.0)"
        },
    ),
    Mistake(
        "clipped by value",
        """Single numbers of the gradient are cut off, which bends its direction. Scale all by one factor: clip_grad_norm_.""",
        {
            "norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)": 'norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))\n    nn.utils.clip_grad_value_(model.parameters(), 1.0)'
        },
        {
            "norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)": 'norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))\n    nn.utils.clip_grad_value_(model.parameters(), 0.1)'
        },
    ),
    Mistake(
        "always scaled",
        """Gradients that are smaller than 1 are scaled up to it. Clipping only ever makes them smaller.""",
        {
            "norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)": 'norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))\n    for p in model.parameters():\n        p.grad /= norm'
        },
    ),
    Mistake(
        "norm after clipping",
        """The norm that is returned was taken after clipping, so it never shows a batch that was odd. clip_grad_norm_ returns
        the norm before.""",
        {"return loss.item(), norm.item()": "return loss.item(), min(1.0, norm.item())"},
    ),
    Mistake(
        "exchanged",
        """Loss and norm are exchanged. The loss comes first.""",
        {"return loss.item(), norm.item()": "return norm.item(), loss.item()"},
    ),
    Mistake(
        "loss after the step",
        """The loss that is returned was taken after the step, on a batch that the model has just seen.""",
        {
            "    return loss.item(), norm.item()": "    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())\n    return loss.item(), norm.item()"
        },
    ),
    Mistake(
        "sum",
        """The loss is the sum over the positions. It is the mean, so that its size does not depend on the batch.""",
        {"targets.flatten())": 'targets.flatten(), reduction="sum")'},
    ),
    Mistake(
        "rate never set",
        """The learning rate of the optimiser stays what it was. Set group["lr"] of each group before each update.""",
        {'group["lr"] = learning_rate': "_ = learning_rate"},
    ),
    Mistake(
        "rate of one group",
        """Only one group of the optimiser is given the new rate, and there are two: matrices and vectors. Set group["lr"] of
        each group.""",
        {"for group in optimizer.param_groups:": "for group in optimizer.param_groups[:1]:"},
        {"for group in optimizer.param_groups:": "for group in optimizer.param_groups[1:]:"},
    ),
    Mistake(
        "updates counted from 0",
        """The updates are counted from 0, so each has the rate of the one before it, and the first a rate of 0.""",
        {"enumerate(batches, 1)": "enumerate(batches)"},
    ),
    Mistake(
        "rate set too late",
        """The rate is set after the update, so each update has the rate of the one before it.""",
        {
            '        for group in optimizer.param_groups:\n            group["lr"] = learning_rate(number, lr=lr, min_lr=min_lr, warmup=warmup, steps=steps)\n        losses.append(update(model, optimizer, inputs, targets)[0])': '        losses.append(update(model, optimizer, inputs, targets)[0])\n        for group in optimizer.param_groups:\n            group["lr"] = learning_rate(number, lr=lr, min_lr=min_lr, warmup=warmup, steps=steps)'
        },
    ),
]
