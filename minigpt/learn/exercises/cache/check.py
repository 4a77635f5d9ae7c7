"""A cache: what it keeps, the mask, and that pieces give what the whole gives."""

import torch

from minigpt.learn.rules import Mistake, check, drawn, filled

IDS = torch.tensor([[3, 1, 4, 1, 5, 0], [2, 0, 5, 3, 4, 1]])


def _in_pieces(module, *sizes):
    layer, cache = filled(module.Layer(6, 8, 4, 2), 0.8), module.Cache()
    return torch.cat(
        [module.forward(layer, piece, cache) for piece in IDS.split(list(sizes), dim=1)], dim=1
    )


@check()
def apart(module):
    """two caches know nothing of each other"""
    # The first check: what a class keeps is still there in those that follow.
    one, other = module.Cache(), module.Cache()
    one.write(drawn(1, 1, 2, 2), drawn(1, 1, 2, 2))
    keys, _ = other.write(drawn(1, 1, 1, 2), drawn(1, 1, 1, 2))
    return {"keys of the second": keys.size(2), "its length": other.length}


@check()
def writes(module):
    """keys and values follow each other along the positions"""
    cache, said = module.Cache(), [0]
    for new, seed in ((2, 0), (1, 2)):
        keys, values = cache.write(
            drawn(1, 1, new, 2, seed=seed), drawn(1, 1, new, 2, seed=seed + 1)
        )
        said += [keys, values, cache.length]
    return said


@check()
def many_heads(module):
    """the same with several texts and heads"""
    cache = module.Cache()
    cache.write(drawn(2, 3, 2, 4), drawn(2, 3, 2, 4, seed=1))
    return cache.write(drawn(2, 3, 3, 4, seed=2), drawn(2, 3, 3, 4, seed=3))


@check()
def mask(module):
    """new queries see what was seen, and each other up to themselves"""
    return [module.visible(new, seen).int().tolist() for new, seen in ((3, 0), (1, 3), (2, 2))]


@check()
def whole(module):
    """a whole text at once"""
    return _in_pieces(module, 6)


@check()
def one_by_one(module):
    """token by token"""
    return _in_pieces(module, 1, 1, 1, 1, 1, 1)


@check()
def pieces(module):
    """in pieces of any size"""
    return [_in_pieces(module, 3, 1, 2), _in_pieces(module, 2, 4)]


MISTAKES = [
    Mistake(
        "overwritten",
        """Only the newest keys and values are left: what was kept is overwritten. The new ones follow the old.""",
        {"if self.keys is not None and self.values is not None": "if False"},
    ),
    Mistake(
        "only the new returned",
        """write returns the new keys and values alone. The query is to meet all of them.""",
        {
            "        return key, value\n\n\ndef": "        return key[:, :, -1:], value[:, :, -1:]\n\n\ndef"
        },
    ),
    Mistake(
        "wrong dimension",
        """Old and new are put together along the wrong dimension. Positions are dimension 2 of (B, H, S, D).""",
        {
            "torch.cat((self.keys, key), dim=2)": "torch.cat((self.keys, key), dim=1)",
            "torch.cat((self.values, value), dim=2)": "torch.cat((self.values, value), dim=1)",
        },
        {
            "torch.cat((self.keys, key), dim=2)": "torch.cat((self.keys, key), dim=0)",
            "torch.cat((self.values, value), dim=2)": "torch.cat((self.values, value), dim=0)",
        },
        {
            "torch.cat((self.keys, key), dim=2)": "torch.cat((self.keys, key), dim=-1)",
            "torch.cat((self.values, value), dim=2)": "torch.cat((self.values, value), dim=-1)",
        },
    ),
    Mistake(
        "new before old",
        """The new keys stand before the old ones. They follow them: torch.cat((old, new)).""",
        {"(self.keys, key)": "(key, self.keys)", "(self.values, value)": "(value, self.values)"},
    ),
    Mistake(
        "values forgotten",
        """Keys are kept for values, or the other way round.""",
        {"(self.values, value)": "(self.keys, value)"},
        {
            "self.keys, self.values, self.length = key, value": "self.keys, self.values, self.length = key, key"
        },
    ),
    Mistake(
        "length of the piece",
        """length is how many positions came last. It is how many there are in all.""",
        {
            "        if self.keys is not None and": "        came = key.size(2)\n        if self.keys is not None and",
            "= key, value, key.size(2)": "= key, value, came",
        },
    ),
    Mistake(
        "length never moves",
        """length stays 0, so that every piece seems to be the first.""",
        {"= key, value, key.size(2)": "= key, value, 0"},
    ),
    Mistake(
        "shared",
        """All caches share what they keep: it belongs to the class, or is a default argument, which is made once for
        all calls. One text reads what another has written. Make it in the body of __init__.""",
        {
            "        self.keys: Tensor | None = None\n        self.values: Tensor | None = None\n": "",
            "    def __init__(self) -> None:\n        self.length = 0\n": "    keys = values = None\n\n    def __init__(self) -> None:\n        self.length = 0\n",
            "self.keys, self.values, self.length = key, value": "Cache.keys, Cache.values, self.length = key, value",
        },
        {
            "        self.keys: Tensor | None = None\n        self.values: Tensor | None = None\n": "",
            "    def __init__(self) -> None:\n        self.length = 0\n": "    keys = values = None\n\n    def __init__(self) -> None:\n        self.length = 0\n",
            "        if self.keys is not None and": "        self.length += key.size(2)\n        if self.keys is not None and",
            "self.keys, self.values, self.length = key, value, key.size(2)": "Cache.keys, Cache.values = key, value",
        },
    ),
    Mistake(
        "mask from zero",
        """The new queries are treated as the first positions: they see too little of what was seen. The diagonal moves by
        `seen`.""",
        {".tril(seen)": ".tril()"},
    ),
    Mistake(
        "mask after writing",
        """The mask is made with the length after writing, in which the new positions are counted already. Read cache.length
        before.""",
        {"mask = visible(new, seen)": "mask = visible(new, cache.length)"},
    ),
    Mistake(
        "not causal",
        """Of several new positions the earlier see the later.""",
        {".tril(seen)": ""},
        {"attn_mask=mask": "attn_mask=None"},
    ),
    Mistake(
        "mask off by one",
        """The mask is one place off: new query i sees the keys 0 to seen + i.""",
        {".tril(seen)": ".tril(seen + 1)"},
        {".tril(seen)": ".tril(seen - 1)"},
    ),
    Mistake(
        "is_causal",
        """is_causal=True is right for a whole text alone: with more keys than queries torch puts the triangle at the beginning.
        Pass the mask.""",
        {"attn_mask=mask": "is_causal=True"},
    ),
    Mistake(
        "positions from zero",
        """Each piece begins at position 0 again. The first new position is cache.length, as it was before writing.""",
        {"torch.arange(seen, seen + new)": "torch.arange(new)"},
    ),
    Mistake(
        "positions after writing",
        """The positions are moved by the length after writing, or by one. Read cache.length before.""",
        {"torch.arange(seen, seen + new)": "torch.arange(seen + 1, seen + new + 1)"},
    ),
]
