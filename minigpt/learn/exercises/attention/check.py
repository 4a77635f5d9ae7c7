"""Attention: scaled, normalised over the keys, masked."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


@check()
def one_head(module):
    """two queries over four keys"""
    shapes = ((2, 3), (4, 3), (4, 3))
    query, key, value = (drawn(1, 1, *shapes[i], seed=i).round(decimals=1) for i in range(3))
    return module.attend(2 * query, key, value)


@check()
def many_heads(module):
    """the same as F.scaled_dot_product_attention, with more keys than queries and several heads"""
    return module.attend(drawn(2, 4, 3, 8), drawn(2, 4, 5, 8, seed=1), drawn(2, 4, 5, 8, seed=2))


@check()
def masked(module):
    """what the mask hides gets no weight, and the rest adds up to 1"""
    mask = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    shapes = ((3, 0), (4, 1), (4, 2))
    return module.attend(*(drawn(2, 2, n, 4, seed=seed) for n, seed in shapes), mask)


@check()
def large_scores(module):
    """scores of thousands give no NaN, and the mask hides them as well"""
    large = [1000 * drawn(1, 2, 3, 4, seed=seed) for seed in range(3)]
    mask = torch.tensor([[0, 1, 0], [1, 1, 0], [1, 0, 1]]).bool()
    return [module.attend(*large), module.attend(*large, mask)]


MISTAKES = [
    Mistake(
        "not transposed",
        """The keys are not transposed. (T, D) times (S, D) does not go; (T, D) times (D, S) gives a score of each query with
        each key: key.transpose(-2, -1).""",
        {"key.transpose(-2, -1)": "key"},
    ),
    Mistake(
        "scale",
        """The scores are not divided by √D. A dot product over D channels has a variance of D; without the root the
        softmax puts nearly all weight on one key. Divide by query.size(-1) ** 0.5.""",
        {" / query.size(-1) ** 0.5": ""},
    ),
    Mistake(
        "scale by D",
        """The scores are divided by D and not by its root: all weights come out nearly equal. The variance of a dot
        product is D, so its size is √D.""",
        {" ** 0.5": ""},
    ),
    Mistake(
        "scale by another size",
        """The scores are divided by the root of the wrong dimension. D is the number of channels of a query, the last
        dimension; how many queries, keys or heads there are does not matter.""",
        {"query.size(-1)": "query.size(-2)"},
        {"query.size(-1)": "key.size(-2)"},
        {"query.size(-1)": "(query.size(1) * query.size(-1))"},
    ),
    Mistake(
        "softmax dimension",
        """The softmax is taken over the wrong dimension. Scores are (B, H, T, S), and for each query the weights over
        the S keys add up to 1: that is the last dimension, dim=-1.""",
        {"softmax(dim=-1)": "softmax(dim=-2)"},
        {"softmax(dim=-1)": "softmax(dim=1)"},
        {"softmax(dim=-1)": "softmax(dim=0)"},
    ),
    Mistake(
        "softmax twice",
        """The softmax is taken twice. Weights that add up to 1 are made nearly equal by a second one.""",
        {"softmax(dim=-1)": "softmax(dim=-1).softmax(dim=-1)"},
    ),
    Mistake(
        "no softmax",
        """The values are weighted with the scores themselves. The softmax makes positive weights of them that add up
        to 1.""",
        {".softmax(dim=-1)": ""},
    ),
    Mistake(
        "mask inverted",
        """The mask is read the wrong way round: it is true where a query may look, and what is false is to be hidden.
        masked_fill hides where its mask is true, so it wants ~mask.""",
        {"~mask": "mask"},
    ),
    Mistake(
        "mask ignored",
        """Positions that the mask hides still get weight. Their scores become minus infinity before the softmax.""",
        {"if mask is not None": "if False"},
    ),
    Mistake(
        "mask with zero",
        """A hidden score is set to 0, but exp(0) = 1 is a weight like any other. Only minus infinity becomes 0 in the
        softmax.""",
        {'float("-inf")': "0.0"},
    ),
    Mistake(
        "mask with a number too small",
        """A hidden score is set to -100, or some such number, and a score may well be less than that. Only minus infinity is
        below all of them.""",
        {'float("-inf")': "-100.0"},
        {'float("-inf")': "-1000.0"},
        {'float("-inf")': "-10000.0"},
    ),
    Mistake(
        "mask added",
        """The mask is added to the scores: true counts as 1. It is bool here, and says what stays; what is false becomes minus
        infinity.""",
        {'scores.masked_fill(~mask, float("-inf"))': "scores + mask"},
    ),
    Mistake(
        "mask after softmax",
        """Weights are set to 0 after the softmax, so what is left no longer adds up to 1. Hide the scores before it.""",
        {
            "if mask is not None": "if False",
            "softmax(dim=-1)": "softmax(dim=-1) * (1 if mask is None else mask)",
        },
    ),
    Mistake(
        "overflow",
        """exp of a large score is infinite, and inf / inf is NaN. torch.softmax takes the largest score off first, which
        changes nothing else; use it, or do the same.""",
        {"scores.softmax(dim=-1)": "scores.exp() / scores.exp().sum(-1, keepdim=True)"},
    ),
    Mistake(
        "keys for values",
        """What is handed over are the keys. They only decide how much of each value is taken.""",
        {"weights @ value": "weights @ key"},
    ),
]
