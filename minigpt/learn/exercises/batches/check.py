"""Batches: targets moved by one, every window once an epoch, and nothing but the seed and the step."""

import random

import torch

from minigpt.learn.rules import Mistake, check

IDS = torch.arange(100, 153)  # 53 ids: with T = 4 there are 13 windows


def _starts(module, steps, seed=1, batch_size=2):
    batches = [
        module.batch_at(IDS, step, block_size=4, batch_size=batch_size, seed=seed)[0]
        for step in steps
    ]
    return [int(start) - 100 for batch in batches for start in batch[:, 0]]


@check()
def one_window(module):
    """the target of a position is the id after it"""
    return module.window(torch.tensor([7, 3, 9, 4, 1, 8]), 0, 4)


@check()
def later_windows(module):
    """a window begins where it is asked to"""
    return [module.window(IDS, start, 3) for start in (3, 49)]


@check()
def windows(module):
    """the last window, too, has a target for each position"""
    return [module.count_windows(length, 4) for length in (5, 8, 9, 12, 13, 53, 4)]


@check()
def order_of_an_epoch(module):
    """an epoch has all windows"""
    return [sorted(module.epoch_order(windows, 3, 0)) for windows in (1, 5, 13)]


@check()
def orders_differ(module):
    """another epoch and another seed have another order, and the same have the same"""
    orders = {}
    for key in ((1, 0), (1, 1), (2, 0), (2, 1), (1, 0)):
        random.seed(len(orders))
        torch.manual_seed(len(orders))
        order = [int(number) for number in module.epoch_order(40, *key)]
        orders.setdefault(key, []).append(order)
    (first, again), (second,), (other,), (both,) = orders.values()
    pairs = {
        "an epoch again": (first, again),
        "epochs 0 and 1": (first, second),
        "seeds 1 and 2, epoch 0": (first, other),
        "seeds 1 and 2, epoch 1": (second, both),
        "seed 1, epoch 1 and seed 2, epoch 0": (second, other),
        "the text and an epoch": (list(range(40)), first),
    }
    return {name: "the same" if a == b else "another order" for name, (a, b) in pairs.items()}


@check()
def shapes(module):
    """a batch is (B, T) int64, targets moved by one"""
    inputs, targets = module.batch_at(IDS, 3, block_size=4, batch_size=2, seed=0)
    moved = [int(x) for x in (targets - inputs).flatten()]
    return {
        "shapes": [list(inputs.shape), list(targets.shape)],
        "dtype": str(inputs.dtype),
        "target - input": moved,
    }


@check()
def each_once(module):
    """13 windows in batches of 2: an epoch has each window once, and the next goes on in the middle of a batch"""
    starts = _starts(module, range(13))
    again = "the same order" if starts[:13] == starts[13:] else "another order"
    return {"first epoch": sorted(starts[:13]), "second epoch": sorted(starts[13:]), "in": again}


@check()
def other_seeds(module):
    """another seed gives other batches"""
    one, other = (_starts(module, range(6), seed=seed) for seed in (1, 2))
    return "the same" if one == other else "others"


@check()
def by_step_alone(module):
    """the batch of a step is the same whatever was asked for before"""
    return (
        "the same"
        if _starts(module, [5, 0, 5])[:2] == _starts(module, [0, 1, 5])[4:]
        else "different"
    )


MISTAKES = [
    Mistake(
        "no shift",
        """The targets are the inputs themselves. A model then learns to copy, and its loss falls to nothing. The target of a
        position is the id after it.""",
        {"return piece[:-1], piece[1:]": "return piece[:-1], piece[:-1]"},
        {"return piece[:-1], piece[1:]": "return piece[1:], piece[1:]"},
    ),
    Mistake(
        "shifted by two",
        """An id lies between an input and its target. The target is the very next id.""",
        {
            "piece = ids[start : start + block_size + 1]\n    return piece[:-1], piece[1:]": "piece = ids[start : start + block_size + 2]\n    return piece[:-2], piece[2:]"
        },
    ),
    Mistake(
        "shifted the wrong way",
        """Inputs and targets are exchanged: each position is asked for the id before it.""",
        {"return piece[:-1], piece[1:]": "return piece[1:], piece[:-1]"},
    ),
    Mistake(
        "one too short",
        """A window of T ids is cut and then shifted, so that T - 1 positions are left. Take T + 1 ids: the last target is the
        id behind the window.""",
        {"start + block_size + 1": "start + block_size"},
    ),
    Mistake(
        "rolled round",
        """The target of the last position is the first id of the window. It is the id behind the window: take T + 1 ids.""",
        {"return piece[:-1], piece[1:]": "return piece[:-1], piece[:-1].roll(-1)"},
    ),
    Mistake(
        "one window too many",
        """Where T divides n, the last window has no target for its last position. (n - 1) // T have.""",
        {"(length - 1) // block_size": "length // block_size"},
    ),
    Mistake(
        "one window too few",
        """A window that fits, with a target for each position, is left out. There are (n - 1) // T.""",
        {"(length - 1) // block_size": "max(0, (length - 2) // block_size)"},
        {"(length - 1) // block_size": "max(0, length // block_size - 1)"},
    ),
    Mistake(
        "overlapping windows",
        """Windows that overlap are counted: one for each id that can be a beginning. They begin at 0, T, 2T, ….""",
        {"(length - 1) // block_size": "max(0, length - block_size)"},
    ),
    Mistake(
        "drawn with replacement",
        """Windows are drawn one by one, so that in an epoch a third is never seen and others are seen twice. Shuffle their
        numbers instead.""",
        {
            'random.Random(f"{seed}/{epoch}").shuffle(order)': 'order = random.Random(f"{seed}/{epoch}").choices(order, k=windows)'
        },
    ),
    Mistake(
        "every epoch alike",
        """Every epoch has the same order. Seed the generator with the epoch as well.""",
        {"{seed}/{epoch}": "{seed}"},
    ),
    Mistake(
        "seed ignored",
        """Every seed gives the same order, so that a run cannot be repeated with other data order.""",
        {"{seed}/{epoch}": "{epoch}"},
        {"epoch_order(windows, seed, epoch)": "epoch_order(windows, 42, epoch)"},
    ),
    Mistake(
        "one number for two pairs",
        """Seed and epoch are made into one number which other seeds and epochs give as well: where they are added, epoch 1 of
        seed 1 is epoch 0 of seed 2; where they are multiplied, all seeds have the same epoch 0. Use them as a pair.""",
        {'f"{seed}/{epoch}"': "seed + epoch"},
        {'f"{seed}/{epoch}"': "seed * epoch"},
        {'f"{seed}/{epoch}"': "seed * (epoch + 1)"},
    ),
    Mistake(
        "global randomness",
        """The order depends on the global random state, so a run that goes on after a kill has other batches than it would have
        had. Use a generator of its own, seeded with (seed, epoch).""",
        {'random.Random(f"{seed}/{epoch}").shuffle(order)': "random.shuffle(order)"},
        {
            'random.Random(f"{seed}/{epoch}").shuffle(order)': "order = torch.randperm(windows).tolist()"
        },
    ),
    Mistake(
        "not shuffled",
        """The windows come in the order of the text, in every epoch.""",
        {'    random.Random(f"{seed}/{epoch}").shuffle(order)\n': ""},
    ),
    Mistake(
        "starts not multiplied",
        """The number of a window is taken for its beginning. Window i begins at i T.""",
        {"[inside] * block_size": "[inside]"},
    ),
    Mistake(
        "epochs forgotten",
        """Every epoch in batch_at is epoch 0. Divide the place by the number of windows: the quotient is the epoch, the rest
        the place in it.""",
        {
            "epoch, inside = divmod(place, windows)": "epoch, inside = divmod(place, windows)[0] * 0, place % windows"
        },
    ),
    Mistake(
        "end of the epoch dropped",
        """The windows at the end of an epoch that do not fill a batch are left out. Places go on into the next epoch.""",
        {
            "epoch, inside = divmod(place, windows)": "epoch, inside = divmod(place, windows // batch_size * batch_size)"
        },
    ),
]
