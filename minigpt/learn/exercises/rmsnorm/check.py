"""RMSNorm and LayerNorm: values, the place of eps, the gain, and 16 bits."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


@check()
def one_position(module):
    """a position of four channels"""
    return module.rms_norm(torch.tensor([1.0, -2.0, 4.0, 3.0]), torch.ones(4))


@check()
def many(module):
    """each position by itself, each channel with its gain"""
    return module.rms_norm(5 * drawn(2, 3, 6) + 1, 1 + drawn(6, seed=1))


@check()
def zeros(module):
    """zeros stay zeros"""
    return module.rms_norm(torch.zeros(2, 3), torch.ones(3))


@check()
def small(module):
    """eps stands inside the root"""
    return module.rms_norm(torch.tensor([0.1, -0.2, 0.2]), torch.ones(3), 0.03)


@check()
def layer_norm(module):
    """LayerNorm takes the mean off first"""
    return module.layer_norm(5 * drawn(2, 6) + 3, 1 + drawn(6, seed=1))


@check()
def layer_norm_of_little(module):
    """LayerNorm has its eps inside the root, too, and equal numbers become zeros"""
    x = torch.tensor([[0.1, -0.2, 0.2], [2.0, 2.0, 2.0]])
    return module.layer_norm(x, torch.ones(3), 0.03)


@check(within=2e-3)
def sixteen_bits(module):
    """float16 in, float16 out, and no overflow between"""
    x = torch.tensor([300.0, -400.0, 500.0, 20.0], dtype=torch.float16)
    said = {}
    for name in ("rms_norm", "layer_norm"):
        y = getattr(module, name)(x, torch.ones(4))
        said[name] = [str(y.dtype), y]
    return said


MISTAKES = [
    Mistake(
        "mean taken off",
        """The mean is taken off first. That is LayerNorm; RMSNorm leaves the mean where it is.""",
        {"    size = (wide": "    wide = wide - wide.mean(dim=-1, keepdim=True)\n    size = (wide"},
        {
            "    size = (wide.square()": "    size = ((wide - wide.mean(dim=-1, keepdim=True)).square()"
        },
    ),
    Mistake(
        "sum for mean",
        """The squares are added up, not averaged: each position comes out with length 1, smaller by √C. It is the mean of the
        squares.""",
        {".square().mean(": ".square().sum("},
    ),
    Mistake(
        "no root",
        """It is divided by the mean square itself. Take the root.""",
        {" + eps).sqrt()": " + eps)"},
    ),
    Mistake(
        "mean of sizes",
        """It is divided by the mean of the absolute values. Root mean square: square, average, root, in this order.""",
        {
            "(wide.square().mean(dim=-1, keepdim=True) + eps).sqrt()": "wide.abs().mean(dim=-1, keepdim=True) + eps"
        },
    ),
    Mistake(
        "eps outside",
        """eps is added after the root. It stands inside, beside the mean square.""",
        {" + eps).sqrt()": ").sqrt() + eps"},
        {
            "rms_norm(wide - wide.mean(dim=-1, keepdim=True), gain, eps).to(x.dtype)": "((wide - wide.mean(-1, keepdim=True)) / (wide.std(-1, keepdim=True, correction=0) + eps) * gain).to(x.dtype)"
        },
    ),
    Mistake(
        "no eps",
        """Without eps a position of zeros is 0 / 0, NaN; in LayerNorm one of equal numbers as well.""",
        {" + eps).sqrt()": ").sqrt()"},
        {
            "rms_norm(wide - wide.mean(dim=-1, keepdim=True), gain, eps).to(x.dtype)": "((wide - wide.mean(-1, keepdim=True)) / wide.std(-1, keepdim=True, correction=0) * gain).to(x.dtype)"
        },
    ),
    Mistake(
        "eps ignored",
        """eps is an argument; another number is used.""",
        {" + eps).sqrt()": " + 1e-6).sqrt()"},
        {"dim=-1, keepdim=True), gain, eps)": "dim=-1, keepdim=True), gain)"},
        {"dim=-1, keepdim=True), gain, eps)": "dim=-1, keepdim=True), gain, 1e-5)"},
    ),
    Mistake(
        "wrong dimension",
        """The mean is not over the channels alone: each position is normalised by itself, over the last dimension.""",
        {"wide.square().mean(dim=-1, keepdim=True)": "wide.square().mean()"},
        {"wide.square().mean(dim=-1, keepdim=True)": "wide.square().mean(dim=0, keepdim=True)"},
        {"wide.square().mean(dim=-1, keepdim=True)": "wide.square().mean(dim=-2, keepdim=True)"},
    ),
    Mistake(
        "no gain",
        """The gain is missing: each channel is multiplied with its own.""",
        {" * gain.float()": ""},
    ),
    Mistake(
        "one plus gain",
        """It is multiplied with 1 + gain, as Gemma stores it. Here the gain itself is the factor.""",
        {" * gain.float()": " * (1 + gain.float())"},
    ),
    Mistake(
        "overflow",
        """In float16 the squares of 300 and more are infinite, and x / inf is 0. Compute in float32: x.float() first.""",
        {"    wide = x.float()\n    size": "    wide = x\n    size"},
    ),
    Mistake(
        "left wide",
        """float16 comes in and float32 goes out. The result has the dtype of what came in.""",
        {"gain.float()).to(x.dtype)": "gain.float())", "gain, eps).to(x.dtype)": "gain, eps)"},
        {"gain, eps).to(x.dtype)": "gain, eps)"},
        {"gain.float()).to(x.dtype)": "gain.float())"},
    ),
    Mistake(
        "mean left on",
        """layer_norm leaves the mean where it is; that is RMSNorm.""",
        {"wide - wide.mean(dim=-1, keepdim=True), gain": "wide, gain"},
    ),
    Mistake(
        "C - 1",
        """The variance in layer_norm is divided by C - 1 (torch's var does that by itself). Divide by C: correction=0.""",
        {
            "rms_norm(wide - wide.mean(dim=-1, keepdim=True), gain, eps).to(x.dtype)": "((wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, keepdim=True) + eps).sqrt() * gain).to(x.dtype)"
        },
    ),
]
