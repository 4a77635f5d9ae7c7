"""What came out and what should have come out in; where they differ, in words, out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minigpt.errors import plain
from minigpt.learn.rules import Judged

FEW = 24  # numbers that are shown in full
MOST = 3  # entries of a dictionary that are shown where more differ
SHORT = 100  # characters of a list that is shown whole
LONGEST = 300  # characters of anything that is shown


@dataclass(frozen=True)
class Difference:
    """Where an answer is not what it should be.

    Attributes:
        expected, received: the part that differs, in short.
        remark: what can be said of the answer as a whole.
        place: of a list or a dictionary, which of its parts differs first.
    """

    expected: str
    received: str
    remark: str = ""
    place: int | None = None


def difference(expected: Any, received: Any, within: float) -> Difference | None:
    """Return the first difference, or None.

    Lists and tuples are the same, and so are numbers and tensors of one; floating-point types do not matter.
    """
    if isinstance(expected, Judged):
        expected, received = expected.as_what, received.as_what
    expected, received = _number(expected), _number(received)
    if isinstance(expected, Tensor):
        return _of_tensors(expected, received, within)
    if isinstance(expected, dict):
        return _of_dicts(expected, received, within)
    if isinstance(expected, list | tuple):
        return _of_lists(expected, received, within)
    if isinstance(expected, int | float) and isinstance(received, int | float):
        if expected == received or abs(expected - received) <= within * (1 + abs(expected)):
            return None
        return Difference(_figure(expected), _figure(received))
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


def _of_tensors(expected: Tensor, received: Any, within: float) -> Difference | None:
    if not isinstance(received, Tensor):
        return Difference(f"a tensor of shape {tuple(expected.shape)}", in_short(received))
    if expected.shape != received.shape:
        return Difference(f"shape {tuple(expected.shape)}", f"shape {tuple(received.shape)}")
    kinds = [_kind(expected), _kind(received)]
    if kinds[0] != kinds[1]:
        return Difference(f"a tensor of {kinds[0]}", f"a tensor of {kinds[1]}, {received.dtype}")
    expected, received = expected.double(), received.double()
    close = _close(expected, received, within)
    if close.all():
        return None
    place = (~close).nonzero()[0].tolist()
    remark = f"of {close.numel():,} numbers {int((~close).sum()):,} differ"
    if expected.numel() <= FEW:
        shown = [_shown(expected), _shown(received)]
    else:
        at = "".join(f"{i}, " for i in place[:-1])
        shown = [
            f"[{at}:] = {_shown(x[tuple(place[:-1])], place[-1])}" for x in (expected, received)
        ]
        remark += f", the first at {place}"
    relation = _relation(expected, received)
    return Difference(shown[0], shown[1], f"{remark}; {relation}" if relation else remark)


def _of_dicts(expected: dict, received: Any, within: float) -> Difference | None:
    if not isinstance(received, dict):
        return Difference("a dictionary", in_short(received))
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
    return Difference(right, wrong, differ[0][1].remark, list(expected).index(differ[0][0]))


def _of_lists(expected: list | tuple, received: Any, within: float) -> Difference | None:
    if not isinstance(received, list | tuple):
        return Difference(f"a list, {in_short(expected)}", in_short(received))
    simple = all(isinstance(part, int | float | str) for part in [*expected, *received])
    each = (difference(one, other, within) for one, other in zip(expected, received, strict=False))
    place, found = next(((i, d) for i, d in enumerate(each) if d), (None, None))
    if found is None and len(expected) == len(received):
        return None
    if simple or found is None or place is None:
        remark = "" if found else f"{len(expected)} were wanted, {len(received)} came"
        return Difference(in_short(expected), in_short(received), remark, place)
    parts = [in_short(value[place]) for value in (expected, received)]
    if isinstance(expected[place], list | tuple) and max(map(len, parts)) <= SHORT:
        return Difference(*parts, found.remark, place)
    return replace(found, place=place)


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


def _figure(number: float) -> str:
    return f"{number:.5g}" if isinstance(number, float) else str(number)


def _shown(x: Tensor, place: int = 0) -> str:
    """Return numbers in brackets, of many those around a place."""
    if x.dim() == 0:
        return f"{x.item():.4g}"
    if x.dim() > 1:
        return "[" + ", ".join(_shown(part) for part in x) + "]"
    first = max(0, min(place - 4, len(x) - 8)) if len(x) > 10 else 0
    last = first + 8 if len(x) > 10 else len(x)
    inner = ", ".join(f"{number:.4g}" for number in x[first:last].tolist())
    return f"[{'… ' if first else ''}{inner}{' …' if last < len(x) else ''}]"


def in_short(value: Any) -> str:
    """Return a value as a person wants to see it in a line."""
    if isinstance(value, Tensor):
        if value.dim() and value.numel() > 12:
            return f"a tensor {tuple(value.shape)}"
        return _shown(value.detach().double()) if value.dtype != torch.bool else str(value.tolist())
    if isinstance(value, torch.Generator):
        return "a generator"
    if isinstance(value, float):
        return _figure(value)
    if isinstance(value, list | tuple):
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        inner = ", ".join([*map(in_short, value[:40]), *["…"] * (len(value) > 40)])
        return _cut(f"{opening}{inner}{closing}")
    if isinstance(value, dict):
        return _cut(
            "{" + ", ".join(f"{in_short(k)}: {in_short(v)}" for k, v in value.items()) + "}"
        )
    if value is None or isinstance(value, bool | int | str | bytes):
        return _cut(repr(value))
    if isinstance(value, nn.Sequential):
        parts = ", ".join(f"{name}: {type(part).__name__}" for name, part in value.named_children())
        return f"Sequential({parts})"
    return f"{'an' if type(value).__name__[0] in 'AEIOU' else 'a'} {type(value).__name__}"


def _cut(text: str) -> str:
    return plain(text, LONGEST)
