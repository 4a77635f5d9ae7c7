"""A value in, what it is in words out: the value itself in a line, or what kind of thing it is."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minigpt.errors import plain

LONGEST = 300  # characters of anything that is shown
SMALL = 12  # numbers of a tensor that is shown with them
# What in a line stands for more than can be read there: large tensors, objects, and what was given to a module.
HIDDEN = re.compile(r"…|\ban? (tensor \(|generator|function|[A-Z])|\)\(")


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
    'a list of 2 tuples of a list of 2 numbers and a tensor (3,)'
    """
    return _forms(value)[0]


def _forms(value: Any) -> tuple[str, str]:
    """Return what kind of thing a value is, where there is one of it and where there are several."""
    if value is None:
        return "None", "None"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}", "tensors"
    if isinstance(value, int | float | np.number):
        return "a number", "numbers"
    if isinstance(value, str):
        return "text", "texts"
    name = type(value).__name__
    if not isinstance(value, list | tuple):
        return with_article(name), f"{name}s"
    parts = [_forms(part) for part in value[:40]]
    several = {many for _, many in parts}
    if len(parts) == 1 or 1 < len(several) < 4 >= len(parts):
        inside = " of " + " and ".join(one for one, _ in parts)
        return f"a {name}{inside}", f"{name}s{inside}"
    inside = f" of {several.pop()}" if len(several) == 1 else ""
    counted = inside.replace(" of ", f" of {len(value)} ", 1)
    return f"a {name}{counted or f' of {len(value)}'}", f"{name}s{counted}"


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
