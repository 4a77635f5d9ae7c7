"""Norms before and after: one part, a stack, and the gradients in it."""

import torch
import torch.nn.functional as F

from minigpt.learn.rules import Mistake, check, drawn

X = drawn(2, 4, seed=9) * 3


def _norm(x):
    return F.rms_norm(x, x.shape[-1:]) * torch.tensor([1.5, 0.5, 1.0, 2.0])


def _parts(count):
    matrices = [drawn(4, 4, seed=seed) for seed in range(count)]
    return [lambda x, matrix=matrix: (x @ matrix).tanh() for matrix in matrices]


@check()
def before(module):
    """a norm before the part"""
    return module.pre_norm(X, _norm, _parts(1)[0])


@check()
def after(module):
    """a norm after the sum"""
    return module.post_norm(X, _norm, _parts(1)[0])


@check()
def post_stack(module):
    """a stack with norms after: the stream before each part, and what comes out"""
    return module.stack(X, _norm, _parts(2), "post")


@check()
def pre_stack(module):
    """a stack with norms before: one more at its end"""
    return module.stack(X, _norm, _parts(3), "pre")


@check(within=1e-3)
def gradients(module):
    """the gradient at the stream before each part"""
    return {
        kind: module.gradient_sizes(X, _norm, _parts(4), kind, drawn(2, 4, seed=20))
        for kind in ("pre", "post")
    }


@check(within=1e-3)
def deep(module):
    """of 24 parts"""
    sizes = {
        kind: module.gradient_sizes(X, _norm, _parts(24), kind, drawn(2, 4, seed=20))
        for kind in ("pre", "post")
    }
    return {kind: [found[0], found[-1]] for kind, found in sizes.items()}


MISTAKES = [
    Mistake(
        "norm added",
        """What is added to is norm(x): the stream itself passes through the norm. Keep x as it is; only the part reads
        norm(x).""",
        {"return x + part(norm(x))": "return norm(x) + part(norm(x))"},
    ),
    Mistake(
        "no residual",
        """The part takes the place of the stream. It is added to it.""",
        {"return x + part(norm(x))": "return part(norm(x))"},
        {"return norm(x + part(x))": "return norm(part(x))"},
    ),
    Mistake(
        "exchanged",
        """Pre and post are exchanged: pre-norm is x + part(norm(x)), post-norm norm(x + part(x)).""",
        {
            "return x + part(norm(x))": "return norm(x + part(x))",
            "return norm(x + part(x))": "return x + part(norm(x))",
        },
        {'pre_norm if kind == "pre" else post_norm': 'post_norm if kind == "pre" else pre_norm'},
    ),
    Mistake(
        "norm of the part",
        """The norm is on what the part gives, before the sum. That is a third way. Pre-norm has it on what the part reads,
        post-norm on the sum.""",
        {"return x + part(norm(x))": "return x + norm(part(x))"},
        {"return norm(x + part(x))": "return x + norm(part(x))"},
    ),
    Mistake(
        "two norms",
        """There is a norm before the part and one after the sum. Post-norm has the one after.""",
        {"return norm(x + part(x))": "return norm(x + part(norm(x)))"},
    ),
    Mistake(
        "no norm",
        """There is no norm.""",
        {"return x + part(norm(x))": "return x + part(x)"},
        {"return norm(x + part(x))": "return x + part(x)"},
    ),
    Mistake(
        "no last norm",
        """A pre-norm stack ends with a norm: nobody has normalised the sum so far.""",
        {'    if kind == "pre":\n': "    if False:\n"},
    ),
    Mistake(
        "last norm for both",
        """A post-norm stack needs no norm at its end: its last part had one.""",
        {'    if kind == "pre":\n': "    if True:\n"},
    ),
    Mistake(
        "last norm appended",
        """What comes out of the last norm stands behind the stream after the last part, one tensor too many. It takes its
        place: what comes out of the whole stack is the last.""",
        {"stream[-1] = norm(stream[-1])": "stream.append(norm(stream[-1]))"},
    ),
    Mistake(
        "stream lost",
        """Each part is given the stream as it was at first. It reads what the parts before it have added to.""",
        {"step(stream[-1], norm, part)": "step(x, norm, part)"},
    ),
    Mistake(
        "one too few",
        """The stream before the first part is missing.""",
        {"    return stream\n": "    return stream[1:]\n"},
    ),
    Mistake(
        "factors forgotten",
        """The factors are not used: the loss is the sum of the output times factors.""",
        {"(stream[-1] * factors).sum()": "stream[-1].sum()"},
    ),
    Mistake(
        "mean for sum",
        """The loss is a mean. It is the sum of the output times factors.""",
        {"(stream[-1] * factors).sum()": "(stream[-1] * factors).mean()"},
    ),
    Mistake(
        "squares",
        """What comes back is the square of the norm. Take the root.""",
        {"gradient.norm().item()": "gradient.square().sum().item()"},
    ),
    Mistake(
        "another size",
        """It is not the norm of the gradient, the root of the sum of all squares.""",
        {"gradient.norm().item()": "gradient.abs().mean().item()"},
        {"gradient.norm().item()": "gradient.abs().max().item()"},
        {"gradient.norm().item()": "gradient.abs().sum().item()"},
    ),
    Mistake(
        "backwards",
        """The sizes stand in the wrong order: the first belongs to the stream before the first part.""",
        {"torch.autograd.grad(loss, stream[:-1])": "torch.autograd.grad(loss, stream[:-1])[::-1]"},
    ),
    Mistake(
        "output too",
        """There is one size too many: the gradient at the output is not asked for.""",
        {"torch.autograd.grad(loss, stream[:-1])": "torch.autograd.grad(loss, stream)"},
    ),
]
