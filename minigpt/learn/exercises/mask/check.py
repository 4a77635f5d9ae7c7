"""The causal mask: by hand, for any size, after others, and in use."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


@check()
def four_by_hand(module):
    """four positions, by hand"""
    return torch.as_tensor(module.by_hand()).int().tolist()


@check()
def four_made(module):
    """four positions, made"""
    return module.causal_mask(4)


@check()
def after_others(module):
    """new positions after others see those, too"""
    return [module.causal_mask(new, seen).int().tolist() for new, seen in ((2, 2), (1, 3), (3, 1))]


@check()
def weights(module):
    """weights over what may be seen add up to 1, and the rest has none"""
    return module.causal_weights(drawn(3, 3).round(decimals=1))


@check()
def weights_after_others(module):
    """the same for many heads, with positions seen before"""
    return module.causal_weights(drawn(2, 3, 2, 5))


@check()
def small_scores(module):
    """scores far below zero: what may not be seen is below all of them"""
    return module.causal_weights(drawn(4, 4, seed=2) - 20000)


MISTAKES = [
    Mistake(
        "transposed",
        """The triangle lies on the wrong side: each position sees itself and what comes after it. Rows are queries and
        columns are keys; query i sees the columns up to i, the lower left.""",
        {
            "[1, 0, 0, 0],": "[1, 1, 1, 1],",
            "[1, 1, 0, 0],": "[0, 1, 1, 1],",
            "[1, 1, 1, 0],": "[0, 0, 1, 1],",
            "        [1, 1, 1, 1],": "        [0, 0, 0, 1],",
        },
        {"tril(seen)": "triu(seen)"},
    ),
    Mistake(
        "not itself",
        """No position sees itself, and the first sees nothing at all: the softmax over nothing is NaN. The diagonal
        belongs to the mask; a position knows its own token, the one after it is what it foretells.""",
        {
            "[1, 0, 0, 0],": "[0, 0, 0, 0],",
            "[1, 1, 0, 0],": "[1, 0, 0, 0],",
            "[1, 1, 1, 0],": "[1, 1, 0, 0],",
            "        [1, 1, 1, 1],": "        [1, 1, 1, 0],",
        },
        {"tril(seen)": "tril(seen - 1)"},
    ),
    Mistake(
        "one ahead",
        """Each position sees the one after it, which is just what it is to foretell. Training would look wonderful, and
        the model could write nothing. The mask is one place too far to the right.""",
        {
            "[1, 0, 0, 0],": "[1, 1, 0, 0],",
            "[1, 1, 0, 0],": "[1, 1, 1, 0],",
            "[1, 1, 1, 0],": "[1, 1, 1, 1],",
        },
        {"tril(seen)": "tril(seen + 1)"},
    ),
    Mistake(
        "inverted",
        """The mask is true where a position may not look. Here true means may look, as in
        F.scaled_dot_product_attention.""",
        {
            "[1, 0, 0, 0],": "[0, 1, 1, 1],",
            "[1, 1, 0, 0],": "[0, 0, 1, 1],",
            "[1, 1, 1, 0],": "[0, 0, 0, 1],",
            "        [1, 1, 1, 1],": "        [0, 0, 0, 0],",
        },
        {"return torch.ones": "return ~torch.ones", "~causal_mask": "causal_mask"},
    ),
    Mistake(
        "seen forgotten",
        """The new positions are treated as the first of the text. Query i stands at place seen + i, so the diagonal moves
        to the right by what was seen.""",
        {"tril(seen)": "tril()"},
        {"causal_mask(new, total - new)": "torch.ones(new, total).tril().bool()"},
    ),
    Mistake(
        "hidden by zero",
        """A hidden score is set to 0, and exp(0) = 1 is a weight like any other. Only minus infinity gets none.""",
        {'float("-inf")': "0.0"},
        {'masked_fill(hidden, float("-inf"))': "mul(~hidden)"},
    ),
    Mistake(
        "hidden by a small number",
        """A hidden score is set to -100, or some such number, and a score may well be less than that. Only minus infinity is
        below all of them.""",
        {'float("-inf")': "-100.0"},
        {'float("-inf")': "-1000.0"},
        {'float("-inf")': "-10000.0"},
    ),
    Mistake(
        "0 / 0",
        """exp of a score far below zero is 0, and 0 / 0 is NaN. torch.softmax takes the largest score off first, which changes
        nothing else; use it, or do the same.""",
        {
            'scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)': "scores.exp() * ~hidden / (scores.exp() * ~hidden).sum(-1, keepdim=True)"
        },
    ),
    Mistake(
        "not bool",
        """The mask is right, but a tensor of numbers. A mask of true and false is asked for, dtype=torch.bool: ~mask and
        masked_fill want one, and F.scaled_dot_product_attention adds a mask of numbers to the scores.""",
        {
            "dtype=torch.bool).tril(seen)": "dtype=torch.float).tril(seen)",
            "~causal_mask(": "0 == causal_mask(",
        },
        {
            "dtype=torch.bool).tril(seen)": "dtype=torch.int).tril(seen)",
            "~causal_mask(": "0 == causal_mask(",
        },
        {
            "dtype=torch.bool).tril(seen)": "dtype=torch.long).tril(seen)",
            "~causal_mask(": "0 == causal_mask(",
        },
    ),
    Mistake(
        "hidden too late",
        """Weights are set to 0 after the softmax: what is left adds up to less than 1, and all the less the earlier the
        position. Hide the scores before it.""",
        {
            'scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)': "scores.softmax(dim=-1) * ~hidden"
        },
    ),
    Mistake(
        "softmax dimension",
        """The softmax is taken over the queries. The weights of one query over the keys add up to 1: dim=-1.""",
        {"softmax(dim=-1)": "softmax(dim=-2)"},
    ),
    Mistake(
        "softmax twice",
        """The softmax is taken twice. Weights that add up to 1 are made nearly equal by a second one.""",
        {"softmax(dim=-1)": "softmax(dim=-1).softmax(dim=-1)"},
        {
            'scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)': "(scores.softmax(dim=-1) * ~hidden).softmax(dim=-1)"
        },
    ),
    Mistake(
        "read inverted",
        """What may be seen is hidden, and what may not is seen: masked_fill hides where its mask is true.""",
        {"~causal_mask": "causal_mask"},
    ),
]
