"""Grouped heads: who uses which key, one key for all, causality, and what is kept."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


def _three(heads, keys, new, total, size=8):
    shapes = ((heads, new), (keys, total), (keys, total))
    return [drawn(2, h, n, size, seed=seed) for seed, (h, n) in enumerate(shapes)]


@check()
def groups(module):
    """query head h uses key/value head h // (H/K)"""
    value = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    return module.attend(torch.ones(1, 6, 1, 1), torch.ones(1, 2, 1, 1), value).flatten()


@check()
def two_groups(module):
    """two groups of two query heads"""
    return module.attend(*_three(4, 2, 3, 3))


@check()
def multi_query(module):
    """one key/value head for all"""
    return module.attend(*_three(4, 1, 3, 3))


@check()
def each_its_own(module):
    """with K = H it is what it always was"""
    return module.attend(*_three(3, 3, 4, 4))


@check()
def after_others(module):
    """two new positions after three"""
    return module.attend(*_three(6, 3, 2, 5))


@check()
def large_scores(module):
    """scores of thousands, seen and hidden"""
    query, key, value = _three(4, 2, 3, 3, size=4)
    return module.attend(100 * query, 100 * key, value)


@check()
def kept(module):
    """a cache holds keys and values of every layer"""
    return {
        f"{n}": int(module.kept_numbers(*n))
        for n in ((1, 1, 64, 1), (12, 12, 64, 1024), (12, 3, 64, 1024))
    }


MISTAKES = [
    Mistake(
        "in turns",
        """Query heads take key heads in turns, 0 1 0 1; the groups are neighbours, 0 0 1 1. repeat_interleave does that,
        repeat and tile do not.""",
        {"x.repeat_interleave(group, dim=1)": "x.repeat(1, group, 1, 1)"},
    ),
    Mistake(
        "first key for all",
        """All query heads use the first key/value head. Each group has its own.""",
        {"x.repeat_interleave(group, dim=1)": "x[:, :1]"},
    ),
    Mistake(
        "keys averaged",
        """The keys and values of all heads are averaged. They stay apart; each serves its own group.""",
        {"x.repeat_interleave(group, dim=1)": "x.mean(1, keepdim=True)"},
    ),
    Mistake(
        "values not grouped",
        """Keys and values are not repeated alike: value head h // (H/K) goes with key head h // (H/K).""",
        {
            "(x.repeat_interleave(group, dim=1) for x in (key, value))": "(key.repeat_interleave(group, dim=1), value.repeat(1, group, 1, 1))"
        },
        {
            "(x.repeat_interleave(group, dim=1) for x in (key, value))": "(key.repeat(1, group, 1, 1), value.repeat_interleave(group, dim=1))"
        },
    ),
    Mistake(
        "not repeated",
        """H query heads do not fit K key heads. Repeat each H // K times, or give the queries one more dimension.""",
        {"(x.repeat_interleave(group, dim=1) for x in (key, value))": "(key, value)"},
    ),
    Mistake(
        "scale by the group",
        """The scores are not divided by √D: D is the last dimension of a query, whatever the number of heads.""",
        {" / query.size(-1) ** 0.5": ""},
        {"query.size(-1) ** 0.5": "(query.size(-1) * group) ** 0.5"},
        {"query.size(-1) ** 0.5": "(query.size(-1) * key.size(1)) ** 0.5"},
    ),
    Mistake(
        "not causal",
        """Positions see what comes after them.""",
        {'.masked_fill(hidden, float("-inf"))': ""},
    ),
    Mistake(
        "hidden by a small number",
        """A hidden score is set to -100, or some such number, and a score may well be less than that. Only minus infinity is
        below all of them.""",
        {'float("-inf")': "-100.0"},
        {'float("-inf")': "-1000.0"},
    ),
    Mistake(
        "seen forgotten",
        """The queries are treated as the first of the S positions. They are the last: the diagonal of the mask moves by
        S - T.""",
        {".tril(total - new)": ".tril()"},
    ),
    Mistake(
        "keys alone",
        """Only one of keys and values is counted. Both are kept.""",
        {"2 * n_layer": "n_layer"},
    ),
    Mistake(
        "one layer",
        """One layer is counted. Each layer keeps its own keys and values.""",
        {"2 * n_layer *": "2 *"},
    ),
]
