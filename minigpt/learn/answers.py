"""What came out and what should have come out in; where they differ, in words, out."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minigpt.learn.forms import figure, in_short, shown
from minigpt.learn.rules import Judged

FEW = 24  # numbers that are shown in full
MOST = 3  # entries of a dictionary that are shown where more differ
SHORT = 100  # characters of a list that is shown whole
SORTS = (Tensor, dict, list | tuple, int | float)  # what is of one sort can be compared


@dataclass(frozen=True)
class Difference:
    """Where an answer is not what it should be.

    Attributes:
        expected, received: the part that differs, in short.
        remark: what can be said of the answer as a whole.
        place: of a list or a dictionary, which of its parts differs first.
        is_of_form: it is another sort of thing, or a tensor of another shape or type.
    """

    expected: str
    received: str
    remark: str = ""
    place: int | None = None
    is_of_form: bool = False


def difference(expected: Any, received: Any, within: float) -> Difference | None:
    """Return the first difference, or None.

    Lists and tuples are the same, and so are numbers and tensors of one; floating-point types do not matter.
    """
    if isinstance(expected, Judged):
        expected, received = expected.as_what, received.as_what
    expected, received = _number(expected), _number(received)
    if _sort(expected) is not _sort(received):
        remark = _way_out(expected, received, within)
        return Difference(_named(expected), _named(received), remark, is_of_form=True)
    if isinstance(expected, Tensor):
        return _of_tensors(expected, received, within)
    if isinstance(expected, dict):
        return _of_dicts(expected, received, within)
    if isinstance(expected, list | tuple):
        return _of_lists(expected, received, within)
    if isinstance(expected, int | float) and isinstance(received, int | float):
        if expected == received or abs(expected - received) <= within * (1 + abs(expected)):
            return None
        return Difference(figure(expected), figure(received))
    if type(expected) is type(received) and expected == received:
        return None
    return Difference(in_short(expected), in_short(received))


def _number(value: Any) -> Any:
    """Return a number for a tensor, an array or a scalar of one number without dimensions."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _sort(value: Any) -> Any:
    """Return what sort of thing a value is."""
    return next((sort for sort in SORTS if isinstance(value, sort)), type(value))


def _named(value: Any) -> str:
    """Return a value with the word for what it is."""
    if isinstance(value, Tensor):
        few = value.dim() and value.numel() <= MOST * MOST
        return f"a tensor of shape {tuple(value.shape)}" + (f", {in_short(value)}" if few else "")
    for kind, word in ((list, "a list"), (tuple, "a tuple"), (dict, "a dictionary")):
        if isinstance(value, kind):
            return f"{word}, {in_short(value)}"
    return in_short(value)


def _way_out(expected: Any, received: Any, within: float) -> str:
    """Return what is to be done with a value of the wrong sort, where that can be seen."""
    if received is None:
        return "nothing comes back: is there a return at its end?"
    if isinstance(received, list | tuple):
        right = [i for i, part in enumerate(received, 1) if not difference(expected, part, within)]
        if right:
            return f"{len(received)} values came back, and number {right[0]} is right: return that one alone"
    if isinstance(expected, Tensor) and isinstance(received, list | tuple):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            if not difference(expected, torch.tensor(received), within):
                return "the numbers are right: make a tensor of them, torch.tensor(…)"
    if isinstance(received, Tensor):
        numbers = received.tolist()
        if not difference(expected, numbers, within):
            return "the numbers are right: make a list of them, .tolist()"
        if received.numel() == 1 and not difference(expected, received.item(), within):
            return "the number is right: take it out of the tensor, .item()"
    return ""


def _of_tensors(expected: Tensor, received: Tensor, within: float) -> Difference | None:
    if expected.shape != received.shape:
        same = expected.numel() == received.numel()
        same = same and not difference(expected.flatten(), received.flatten(), within)
        remark = "the numbers are right, in another shape" if same else ""
        shapes = [f"shape {tuple(x.shape)}" for x in (expected, received)]
        return Difference(shapes[0], shapes[1], remark, is_of_form=True)
    if _kind(expected) != _kind(received):
        words = [f"a tensor of {_kind(x)}, {x.dtype}" for x in (expected, received)]
        return Difference(words[0], words[1], is_of_form=True)
    expected, received = expected.double(), received.double()
    close = _close(expected, received, within)
    if close.all():
        return None
    place = (~close).nonzero()[0].tolist()
    remark = f"of {close.numel():,} numbers {int((~close).sum()):,} differ"
    if expected.numel() <= FEW:
        parts = [shown(expected), shown(received)]
    else:
        at = "".join(f"{i}, " for i in place[:-1])
        parts = [
            f"[{at}:] = {shown(x[tuple(place[:-1])], place[-1])}" for x in (expected, received)
        ]
        remark += f", the first at {place}"
    relation = _relation(expected, received)
    return Difference(parts[0], parts[1], f"{remark}; {relation}" if relation else remark)


def _of_dicts(expected: dict, received: dict, within: float) -> Difference | None:
    if expected.keys() != received.keys():
        missing = [key for key in expected if key not in received]
        more = [key for key in received if key not in expected]
        says = [
            f"{word} {', '.join(map(str, keys))}"
            for word, keys in (("without", missing), ("with", more))
            if keys
        ]
        return Difference(", ".join(map(str, expected)), " and ".join(says))
    found = {key: difference(value, received[key], within) for key, value in expected.items()}
    differ = [(key, one) for key, one in found.items() if one is not None][:MOST]
    if not differ:
        return None
    right = ", ".join(f"{key}: {one.expected}" for key, one in differ)
    wrong = ", ".join(f"{key}: {one.received}" for key, one in differ)
    key, first = differ[0]
    place = list(expected).index(key)
    return Difference(right, wrong, first.remark, place, first.is_of_form)


def _of_lists(expected: list | tuple, received: list | tuple, within: float) -> Difference | None:
    simple = all(isinstance(part, int | float | str) for part in [*expected, *received])
    each = (difference(one, other, within) for one, other in zip(expected, received, strict=False))
    place, found = next(((i, d) for i, d in enumerate(each) if d), (None, None))
    if found is None and len(expected) == len(received):
        return None
    count = (
        f"{len(expected)} {'was' if len(expected) == 1 else 'were'} wanted, {len(received)} came"
    )
    counted = count if len(expected) != len(received) else ""
    if simple or found is None or place is None:
        return Difference(in_short(expected), in_short(received), counted, place)
    remark = "; ".join(filter(None, (counted, found.remark)))
    parts = [in_short(value[place]) for value in (expected, received)]
    if isinstance(expected[place], list | tuple) and max(map(len, parts)) <= SHORT:
        return replace(found, expected=parts[0], received=parts[1], remark=remark, place=place)
    return replace(found, remark=remark, place=place)


def _kind(x: Tensor) -> str:
    if x.dtype == torch.bool:
        return "true and false"
    return "real numbers" if x.is_floating_point() else "whole numbers"


def _close(expected: Tensor, received: Tensor, within: float) -> Tensor:
    same = expected == received  # infinities, too
    near = (expected - received).abs() <= within * (1 + expected.abs())
    return same | near | (expected.isnan() & received.isnan())


# What can be seen of an answer as a whole, whatever the exercise.
RELATIONS: list[tuple[str, Callable[[Tensor, Tensor], bool]]] = [
    ("it holds NaN, which is what 0/0 and inf - inf give", lambda e, r: bool(r.isnan().any() and not e.isnan().any())),
    ("it holds infinite numbers", lambda e, r: bool(r.isinf().any() and not e.isinf().any())),
    ("each has the wrong sign", lambda e, r: _all_close(-e, r)),
    ("the last two dimensions are exchanged", lambda e, r: _are_transposed(e, r)),
    ("the numbers are right and stand in another order", lambda e, r: _all_close(_sorted(e), _sorted(r))),
    ("all are zero", lambda e, r: bool((r == 0).all())),
]  # fmt: skip


def _relation(expected: Tensor, received: Tensor) -> str:
    """Return what the answer is to the right one, or nothing."""
    for words, holds in RELATIONS:
        if holds(expected, received):
            return words
    large = expected.abs() > 1e-6
    if large.any() and expected.isfinite().all():
        factors = received[large] / expected[large]
        if factors.numel() > 1 and _all_close(factors, factors[0].expand_as(factors)):
            return f"each is {factors[0].item():.4g} times what it should be"
    return ""


def _all_close(one: Tensor, other: Tensor) -> bool:
    return bool(_close(one, other, 1e-4).all())


def _are_transposed(one: Tensor, other: Tensor) -> bool:
    return one.dim() > 1 and one.mT.shape == other.shape and _all_close(one.mT, other)


def _sorted(x: Tensor) -> Tensor:
    return x.flatten().sort().values
