"""Rotary positions: frequencies, one pair, all pairs, lengths, and scores that depend on distance."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


@check()
def angles(module):
    """the frequencies fall from 1 to nearly 1 / theta"""
    return [module.frequencies(8), module.frequencies(4, 100.0)]


@check()
def one_pair(module):
    """a pair of channels is turned by its position in radians"""
    return module.rotate(
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[None, None], torch.arange(3)
    )


@check()
def many_pairs(module):
    """channel i goes with channel i + D/2"""
    return module.rotate(drawn(1, 1, 3, 4).round(decimals=1), torch.arange(3))


@check()
def in_the_middle(module):
    """positions are those that are passed in, for all texts and heads"""
    return module.rotate(drawn(2, 3, 4, 8), torch.tensor([7, 8, 9, 30]), 500.0)


@check()
def lengths(module):
    """lengths stay"""
    x = drawn(1, 2, 5, 8)
    return (module.rotate(x, torch.arange(5) + 100).norm(dim=-1) / x.norm(dim=-1)).flatten()


@check(within=1e-3)
def distance(module):
    """a score depends on the distance alone"""
    query, key = drawn(1, 1, 1, 8), drawn(1, 1, 1, 8, seed=1)
    scores = [
        (module.rotate(query, torch.tensor([p + 3])) * module.rotate(key, torch.tensor([p]))).sum()
        for p in (0, 5, 50)
    ]
    return {"5 positions on": scores[1] - scores[0], "50 positions on": scores[2] - scores[0]}


MISTAKES = [
    Mistake(
        "exponent not divided by D",
        """The exponent of theta is not divided by D, so that all pairs but the first hardly turn. It is -2i/D.""",
        {"torch.arange(0, head_dim, 2) / head_dim": "torch.arange(0, head_dim, 2).float()"},
    ),
    Mistake(
        "exponent i / D",
        """The exponent is -i/D, half of what it should be: with D/2 pairs it is -2i/D, so that it runs from 0 to nearly -1.""",
        {"torch.arange(0, head_dim, 2) / head_dim": "torch.arange(head_dim // 2) / head_dim"},
    ),
    Mistake(
        "whole exponents",
        """The exponent is divided with //, and nothing is left of 2i/D: all pairs turn alike. Divide with /.""",
        {"torch.arange(0, head_dim, 2) / head_dim": "torch.arange(0, head_dim, 2) // head_dim"},
    ),
    Mistake(
        "exponent positive",
        """The frequencies grow to theta and should fall to 1 / theta: the exponent is negative.""",
        {"theta ** -(": "theta ** ("},
    ),
    Mistake(
        "one for each channel",
        """There is a frequency for each channel; there is one for each pair, D/2 of them.""",
        {"torch.arange(0, head_dim, 2)": "torch.arange(0, head_dim)"},
    ),
    Mistake(
        "theta ignored",
        """theta is always 10000; it is an argument.""",
        {"return theta **": "return 10000.0 **"},
        {"frequencies(x.size(-1), theta)": "frequencies(x.size(-1))"},
    ),
    Mistake(
        "turned the other way",
        """Pairs are turned the other way. Scores would be the same, but no weights of others would fit:
        (a cos - b sin, b cos + a sin).""",
        {
            "first * cos - second * sin, second * cos + first * sin": "first * cos + second * sin, second * cos - first * sin"
        },
    ),
    Mistake(
        "a sign lost",
        """One of the two signs is wrong, so that it is no rotation: lengths change. (a cos - b sin, b cos + a sin).""",
        {"first * cos - second * sin": "first * cos + second * sin"},
        {"second * cos + first * sin": "second * cos - first * sin"},
    ),
    Mistake(
        "neighbours",
        """Neighbours, channels 2i and 2i + 1, are taken as pairs: the layout of the paper. Here, as in Llama, channel i goes
        with channel i + D/2.""",
        {
            "first, second = x.chunk(2, dim=-1)": "first, second = x[..., ::2], x[..., 1::2]",
            "torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)": "torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)",
        },
        {"first, second = x.chunk(2, dim=-1)": "first, second = x[..., ::2], x[..., 1::2]"},
    ),
    Mistake(
        "halves with the angles of neighbours",
        """Two layouts are mixed: channels are paired by halves, and each angle is there twice in a row, as neighbours want it.
        With halves it is torch.cat((angles, angles), dim=-1).""",
        {
            "frequencies(x.size(-1), theta))": "frequencies(x.size(-1), theta)).repeat_interleave(2, dim=-1)",
            "torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)": "x * cos + torch.cat((-second, first), dim=-1) * sin",
        },
    ),
    Mistake(
        "degrees",
        """The angles are taken as degrees. They are in radians.""",
        {"angles.cos(), angles.sin()": "angles.deg2rad().cos(), angles.deg2rad().sin()"},
    ),
    Mistake(
        "places for positions",
        """The places 0 to T - 1 are taken for the positions. In the middle of a text they are others: use what is passed in.""",
        {"positions.float()": "torch.arange(x.size(2)).float()"},
    ),
    Mistake(
        "from one",
        """Position 0 is turned already: the positions are moved by one.""",
        {"positions.float()": "positions.float() + 1"},
    ),
]
