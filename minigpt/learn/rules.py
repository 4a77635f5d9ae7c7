"""What the `check.py` of an exercise is written with: checks, which look at what code does, and known mistakes.

A check is a function of the learner's module that returns what came out: numbers, text, tensors, lists of them. It is
right when the same comes out of the solution. Where something else comes out, the known mistakes are made in the
solution, one at a time and two together: the one that gives what the learner's code gives is the one that was made, and
its hint is shown. So a hint depends on what code does, never on how it is written.
"""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn

from minigpt.learn.forms import form_of

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Judged:
    """What came out of something that may well come out in several ways, such as a training.

    Attributes:
        as_what: right is what is judged as the solution is.
        seen: what it was judged by; a known mistake explains what gives just the same.
    """

    as_what: str
    seen: Any


@dataclass(frozen=True)
class Check:
    """One property.

    Attributes:
        look: a module in, what came out of it out.
        within: how far a number may be off, as a share of it or, below one, as it is.
        processes: in how many at once `look` is called, with `torch.distributed` set up between them.
    """

    look: Callable[[Any], Any]
    within: float = 1e-4
    processes: int = 1

    @property
    def title(self) -> str:
        """The property in words: the first line of the docstring."""
        return (self.look.__doc__ or "").partition("\n")[0]


def check(*, within: float = 1e-4, processes: int = 1) -> Callable[[Callable[[Any], Any]], Check]:
    """Make a check of a function: a decorator."""
    return lambda look: Check(look, within, processes)


class Mistake:
    """A mistake that is often made.

    Attributes:
        name: of the mistake.
        hint: what a teacher would say to whoever made it.
        variants: ways to make it in the solution, each {what stands there once: what stands there instead}.
    """

    def __init__(self, name: str, hint: str, *variants: dict[str, str]) -> None:
        self.name, self.hint, self.variants = name, hint, variants


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(module: M, size: float = 0.3) -> M:
    """Give each parameter of a module values that depend on its name and shape alone, and return the module."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            seed = sum(ord(letter) * 31**place for place, letter in enumerate(name[-12:])) % 2**31
            numbers = size * drawn(*parameter.shape, seed=seed)
            parameter.copy_(1 + numbers if name.endswith("norm.weight") else numbers)
    return module


@contextlib.contextmanager
def no_seeds() -> Generator[None]:
    """Within, torch.manual_seed does nothing: who seeds a training has the losses of the known mistakes, too."""
    with mock.patch.object(torch, "manual_seed", return_value=torch.default_generator):
        yield


def look_like_ids(ids: Any, longest: int) -> None:
    """Do nothing with (1, T) ids, T up to `longest`, as a model wants them.

    Raises:
        ValueError: they are something else; the message says what.
    """
    if not isinstance(ids, Tensor):
        raise ValueError(f"the model wants a tensor of ids, and got {form_of(ids)}")
    if ids.dim() != 2 or ids.size(0) != 1:
        raise ValueError(f"the model wants ids of shape (1, T), and got {tuple(ids.shape)}")
    if ids.size(1) > longest:
        raise ValueError(f"{ids.size(1)} positions, but block_size is {longest}")


def names_and_shapes(module: nn.Module) -> dict[str, list[int]]:
    """Return the shape of each parameter by name."""
    return {name: list(parameter.shape) for name, parameter in module.named_parameters()}
