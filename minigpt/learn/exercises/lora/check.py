"""LoRA: a fresh adapter, what is trained, what comes out, and merging."""

import torch
from torch import nn

from minigpt.learn.rules import Mistake, check, drawn, filled


def _lora(module, rank=2, alpha=6.0, bias=True):
    return module.LoraLinear(filled(nn.Linear(4, 3, bias=bias)), rank, alpha)


def _used(module, **options):
    layer = _lora(module, **options)
    with torch.no_grad():
        layer.A.copy_(drawn(*layer.A.shape, seed=1))
        layer.B.copy_(drawn(*layer.B.shape, seed=2))
    return layer


@check()
def parameters(module):
    """A is (rank, inputs) and B is (outputs, rank)"""
    layer, other = _lora(module), _lora(module, rank=3, alpha=1.5)
    shapes = {"A": list(layer.A.shape), "B": list(layer.B.shape)}
    return shapes | {"scale of 6 / 2": layer.scale, "scale of 1.5 / 3": other.scale}


@check()
def fresh(module):
    """a fresh adapter changes nothing"""
    layer, x = _lora(module), drawn(2, 4)
    same = torch.allclose(layer(x), layer.base(x), atol=1e-6)
    return {
        "results": "as before" if same else "others",
        "B": "zero" if (layer.B == 0).all() else "not zero",
    }


@check()
def can_learn(module):
    """only A and B are trained, and a fresh adapter has a gradient"""
    layer = _lora(module)
    layer(drawn(2, 4)).square().sum().backward()
    trained = sorted(name for name, p in layer.named_parameters() if p.requires_grad)
    gradients = [p.grad for p in (layer.A, layer.B)]
    moves = any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients)
    return {"trained": trained, "something can move": moves}


@check()
def random(module):
    """A is random, of size 1 / √inputs"""
    layer = module.LoraLinear(nn.Linear(10000, 2), 4, 1.0)
    size = layer.A.std().item() * 100
    return (
        "as it should be"
        if 0.8 < size < 1.25
        else f"its numbers are {size:.2g} times as large as 1 / √inputs"
    )


@check()
def changed(module):
    """base(x) + alpha / rank · B A x"""
    return [
        _used(module)(drawn(2, 4)),
        _used(module, rank=3, alpha=1.5, bias=False)(drawn(2, 5, 4)),
    ]


@check()
def merged(module):
    """merged, it is a plain layer that gives the same"""
    x, said = drawn(2, 4), []
    for bias in (True, False):
        plain = _used(module, bias=bias).merged()
        said.append([type(plain).__name__, plain(x)])
    return said


@check()
def stays(module):
    """merging leaves the adapter as it was"""
    layer, x = _used(module), drawn(2, 4)
    layer.merged()
    return layer(x)


MISTAKES = [
    Mistake(
        "B random",
        """A fresh adapter changes the results: B is not zero. With B = 0 tuning begins at the model as it was.""",
        {"torch.zeros(base.out_features, rank)": "torch.randn(base.out_features, rank)"},
        {"torch.zeros(base.out_features, rank)": "0.01 * torch.randn(base.out_features, rank)"},
    ),
    Mistake(
        "both zero",
        """A and B are both zero: then the gradient of each, which goes through the other, is zero, and nothing ever moves. A is
        random.""",
        {"torch.randn(rank, base.in_features)": "torch.zeros(rank, base.in_features)"},
    ),
    Mistake(
        "A zero, B random",
        """It is A that is zero, and B is random. That would work as well, but adapters are stored the other way round: B is
        zero.""",
        {
            "torch.randn(rank, base.in_features)": "torch.zeros(rank, base.in_features)",
            "torch.zeros(base.out_features, rank)": "torch.randn(base.out_features, rank)",
        },
    ),
    Mistake(
        "size of A",
        """The numbers of A do not have a standard deviation of 1 / √inputs, so what A makes of an input is not of its size.""",
        {" / base.in_features**0.5)": ")"},
        {"base.in_features**0.5": "base.in_features"},
        {"base.in_features**0.5": "rank**0.5"},
        {"torch.randn(rank, base.in_features)": "(2 * torch.rand(rank, base.in_features) - 1)"},
    ),
    Mistake(
        "not frozen",
        """The layer itself is trained, too: freeze its weight and its bias, requires_grad_(False).""",
        {"base.requires_grad_(False)": "base"},
    ),
    Mistake(
        "bias not frozen",
        """The bias of the layer is trained, too. Freeze all of it.""",
        {
            "self.base = base.requires_grad_(False)": "self.base = base\n        base.weight.requires_grad_(False)"
        },
    ),
    Mistake(
        "shapes exchanged",
        """The shapes of A and B are exchanged. A comes first and makes `rank` numbers of the inputs, (rank, inputs); B makes
        the outputs of those, (outputs, rank).""",
        {
            "torch.randn(rank, base.in_features) / base.in_features**0.5": "torch.randn(base.in_features, rank) / base.in_features**0.5",
            "torch.zeros(base.out_features, rank)": "torch.zeros(rank, base.out_features)",
        },
        {"self.A = nn": "self.B = nn", "self.B = nn": "self.A = nn"},
    ),
    Mistake(
        "scale alpha",
        """The change is multiplied by alpha, and should be by alpha / rank.""",
        {"self.scale = alpha / rank": "self.scale = alpha"},
    ),
    Mistake(
        "scale alpha times rank",
        """The change is multiplied by alpha · rank, or by rank / alpha. It is alpha / rank.""",
        {"self.scale = alpha / rank": "self.scale = alpha * rank"},
        {"self.scale = alpha / rank": "self.scale = rank / alpha"},
    ),
    Mistake(
        "scale a whole number",
        """alpha is divided by rank with //, which leaves nothing of 1.5 / 3. Divide with /.""",
        {"self.scale = alpha / rank": "self.scale = alpha // rank"},
    ),
    Mistake(
        "scale by a root",
        """The change is multiplied by alpha / √rank, which another paper proposes. Here it is alpha / rank.""",
        {"self.scale = alpha / rank": "self.scale = alpha / rank**0.5"},
    ),
    Mistake(
        "scale forgotten",
        """The scale is not used in forward.""",
        {"self.base(x) + self.scale * F": "self.base(x) + F"},
    ),
    Mistake(
        "scaled all",
        """The result of the layer itself is scaled, too. Only the change is.""",
        {
            "self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)": "self.scale * (self.base(x) + F.linear(F.linear(x, self.A), self.B))"
        },
    ),
    Mistake(
        "layer forgotten",
        """Only the change comes out. It is added to what the layer gives.""",
        {"self.base(x) + self.scale": "self.scale"},
    ),
    Mistake(
        "merged without scale",
        """Merging forgets the scale: W + alpha / rank · B A.""",
        {"+= self.scale * (self.B": "+= (self.B"},
    ),
    Mistake(
        "merged without the change",
        """The merged layer lacks the change.""",
        {"        plain.weight.data += self.scale * (self.B @ self.A).detach()\n": ""},
    ),
    Mistake(
        "bias lost",
        """The merged layer has lost the bias.""",
        {
            "bias=self.base.bias is not None": "bias=False",
            "self.base.state_dict()": '{"weight": self.base.weight}',
        },
    ),
    Mistake(
        "merged in place",
        """Merging changes the layer that the adapter stands on, so the change counts twice from then on. Make a new layer.""",
        {
            "        return plain": "        self.base.weight.data += self.scale * (self.B @ self.A).detach()\n        return plain"
        },
    ),
]
