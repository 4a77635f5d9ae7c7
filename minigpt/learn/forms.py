"""A value in, what it is in words out: the value itself in a line, or what kind of thing it is."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minigpt.errors import plain

LONGEST = 300  # characters of anything that is shown
SMALL = 12  # numbers of a tensor that is shown with them
# What in a line stands for more than can be read there: large tensors, objects, and what was given to a module.
HIDDEN = re.compile(r"…|\ban? (tensor \(|generator|function|[A-Z])|\)\(|Sequential\(")


def in_short(value: Any) -> str:
    """Return a value as a person wants to see it in a line."""
    if isinstance(value, Tensor):
        if value.dim() and value.numel() > SMALL:
            return f"a tensor {tuple(value.shape)}"
        return shown(value.detach().double()) if value.dtype != torch.bool else str(value.tolist())
    if isinstance(value, torch.Generator):
        return "a generator"
    if isinstance(value, float):
        return figure(value)
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
    return with_article(type(value).__name__)


def all_shown(call: str) -> bool:
    """Return whether a call, in words, shows all that went into it, so that it can be worked out by hand."""
    return bool(call) and not HIDDEN.search(call)


def with_article(name: str) -> str:
    """Return a name with "a" or "an" before it."""
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def form_of(value: Any) -> str:
    """Return what kind of thing a value is, and of what it is made.

    >>> form_of([([1, 2], torch.zeros(3)), ([3], torch.zeros(1))])
    'a list of 2 tuples'
    >>> form_of(([1, 2], torch.zeros(3)))
    'a tuple of a list of 2 numbers and a tensor (3,)'
    """
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, str) or value is None:
        return _kind(value)
    if not isinstance(value, list | tuple):
        return with_article(_kind(value))
    parts = value[:40]
    if len(parts) == 1 or 1 < len(set(map(_kind, parts))) <= len(parts) <= 3:
        return f"a {_kind(value)} of {' and '.join(map(form_of, parts))}"
    return f"a {_kind(value)} of {len(value)}{_inside(parts)}"


def _inside(parts: Sequence[Any]) -> str:
    """Return what some parts are, with what is in them in turn, as far as they are alike."""
    kinds = set(map(_kind, parts))
    if len(kinds) != 1:
        return ""
    said = f" {kinds.pop()}s"
    if isinstance(parts[0], list | tuple) and len(set(map(len, parts))) == 1 and parts[0]:
        inner = {_kind(part) for some in parts for part in some[:40]}
        said += f" of {len(parts[0])}" + (f" {inner.pop()}s" if len(inner) == 1 else "")
    return said


def _kind(value: Any) -> str:
    """Return the word for what a value is."""
    if value is None:
        return "None"
    names = ((Tensor, "tensor"), (int | float | np.number, "number"), (str, "text"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def figure(number: float) -> str:
    """Return a number with five digits."""
    return f"{number:.5g}" if isinstance(number, float) else str(number)


def shown(x: Tensor, place: int = 0) -> str:
    """Return numbers in brackets, of many those around a place."""
    if x.dim() == 0:
        return f"{x.item():.4g}"
    if x.dim() > 1:
        return "[" + ", ".join(shown(part) for part in x) + "]"
    first = max(0, min(place - 4, len(x) - 8)) if len(x) > 10 else 0
    last = first + 8 if len(x) > 10 else len(x)
    inner = ", ".join(f"{number:.4g}" for number in x[first:last].tolist())
    return f"[{'… ' if first else ''}{inner}{' …' if last < len(x) else ''}]"


def _cut(text: str) -> str:
    return plain(text, LONGEST)
