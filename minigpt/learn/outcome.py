"""A check and a module in, what came out of it: an answer, or why there is none.

The module is looked at through a glass that remembers how it was called last, and that tells what a learner's code does
wrong in general: a function that is missing or still to write, an exception, an argument that it changed, an endless
loop.
"""

import contextlib
import copy
import inspect
import os
import random
import signal
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minigpt.errors import first_line
from minigpt.learn.answers import in_short
from minigpt.learn.rules import Check
from minigpt.learn.versions import Version


@dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes:
        value: of the check.
        calls: of the learner's code, in words.
    """

    value: Any
    calls: list[str] = field(default_factory=list)

    @property
    def call(self) -> str:
        """The last call."""
        return self.calls[-1] if self.calls else ""


@dataclass(frozen=True)
class Failure:
    """Why nothing came out.

    Attributes:
        kind: syntax, missing, unwritten, signature, raised, changed, endless, or unusable.
        what: in a sentence, the same wherever in a file it happens.
        call: of the learner's code, the last one, in words.
        lines: where in the learner's file.
    """

    kind: str
    what: str
    call: str = ""
    lines: tuple[str, ...] = ()


Outcome = Answer | Failure


class Stopped(BaseException):
    """Carries a failure out of a check; a learner's `except Exception` does not catch it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.what)
        self.failure = failure


class TimeUpError(BaseException):
    """The time is up."""


def look_at(check: Check, version: Version, seconds: float) -> Outcome:
    """Return what comes out of a check of some code; random numbers that nobody seeded are always the same.

    Args:
        check: what to look at.
        version: the code; what goes wrong when it is loaded is an outcome, too.
        seconds: that it may take.
    """
    _seed()
    glass = None
    try:
        with _at_most(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            glass = Glass(_loaded(version))
            return Answer(kept(check.look(glass)), glass.calls)
    except Stopped as stopped:
        return stopped.failure
    except TimeUpError as error:
        call = glass.last_call if glass else ""
        return Failure("endless", "it comes to no end", call, _lines(error, version.file))
    except Exception as error:
        # The check could not go on with what it was given.
        call, returned = (glass.last_call, glass.last_returned) if glass else ("", None)
        what = f"what came back cannot be used ({first_line(error)}); it was {in_short(returned)}"
        return Failure("unusable", what, call)


class Glass:
    """A module, looked at from outside: what it is asked for and called with is remembered.

    Attributes:
        calls: in words.
        last_returned: what came back from it.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self._module, self._inside = module, False
        self.calls: list[str] = []
        self.last_returned = None

    @property
    def last_call(self) -> str:
        """The last call, in words."""
        return self.calls[-1] if self.calls else ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name, None)
        if found is None:
            raise Stopped(
                Failure("missing", f"the file has no {name}; it was there in the file to fill")
            )
        return self._seen(found, name) if callable(found) else found

    def _seen(self, function: Callable, name: str) -> Callable:
        """Return a function that does the same and is looked at."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._describe(function, name, args, kwargs)
            before = _snapshot((args, kwargs))
            self._inside = True
            try:
                returned = function(*args, **kwargs)
            except BaseException as error:
                if isinstance(error, Stopped | TimeUpError):
                    raise
                raise Stopped(_raised(error, self.last_call, self._module.__file__)) from None
            finally:
                self._inside = False
            if not _alike(before, _snapshot((args, kwargs))):
                what = (
                    f"{name} changes what it is given; whoever calls it still needs that as it was"
                )
                raise Stopped(Failure("changed", what, self.last_call))
            self.last_returned = returned
            if inspect.isclass(function):
                self._see_methods(returned, name)
            return returned

        return call

    def _describe(self, function: Callable, name: str, args: Any, kwargs: Any) -> None:
        """Remember a call in words; refuse one that does not fit."""
        try:
            bound = inspect.signature(function).bind(*args, **kwargs).arguments.items()
        except TypeError as error:
            given = ", ".join(
                [*map(in_short, args), *(f"{k}={in_short(v)}" for k, v in kwargs.items())]
            )
            what = f"{name} takes other arguments than in the file to fill: {error}"
            raise Stopped(Failure("signature", what, f"{name}({given})")) from None
        self.calls.append(f"{name}({', '.join(f'{k}={in_short(v)}' for k, v in bound)})")

    def _see_methods(self, made: Any, name: str) -> None:
        """Look at the methods of an object, too; torch finds its `forward` in the object first."""
        for kind in type(made).__mro__:
            if kind.__module__ != self._module.__name__:
                continue
            for attribute, method in vars(kind).items():
                if inspect.isfunction(method) and not attribute.startswith("_"):
                    shown = name if attribute == "forward" else f"{name}.{attribute}"
                    seen = self._seen(getattr(made, attribute), shown)
                    with contextlib.suppress(AttributeError):  # an object that takes no attributes
                        setattr(made, attribute, seen)


def _loaded(version: Version) -> types.ModuleType:
    try:
        return version.module
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        text = (getattr(error, "text", None) or "").strip()
        where = (f"line {line}: {text}",) if line else ()
        failure = Failure(
            "syntax", f"the file is no Python: {getattr(error, 'msg', error)}", "", where
        )
        raise Stopped(failure) from None
    except TimeUpError:
        raise
    except BaseException as error:
        raise Stopped(_raised(error, "", version.file)) from None


def _raised(error: BaseException, call: str, file: str | None) -> Failure:
    """Return the failure of code in a file that raised."""
    frames = _frames(error, file)
    if isinstance(error, NotImplementedError) and frames and not str(error):
        name = frames[-1].name
        owner = call.partition("(")[0].partition(".")[0]
        shown = f"{owner}.{name}" if name == "__init__" and owner else name
        return Failure("unwritten", f"{shown} is still to be written", call)
    said = f": {first_line(error)}" if str(error) else ""
    return Failure("raised", f"{type(error).__name__}{said}", call, _lines(error, file))


def _lines(error: BaseException, file: str | None) -> tuple[str, ...]:
    """Return the lines of a file in a traceback, the last three."""
    return tuple(f"line {f.lineno}, in {f.name}: {f.line}" for f in _frames(error, file)[-3:])


def _frames(error: BaseException, file: str | None) -> list[traceback.FrameSummary]:
    return [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]


@contextlib.contextmanager
def _at_most(seconds: float) -> Generator[None]:
    """Raise `TimeUpError` in the block when the time is up, and again each second if it is caught there.

    The main thread alone can keep time, and not on Windows.
    """
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TimeUpError

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # somebody else's, such as a test's


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def kept(value: Any) -> Any:
    """Return a copy of what a check gives that nothing changes any more."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: kept(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [kept(part) for part in value]
    return value


def _snapshot(value: Any) -> Any:
    """Return a copy of what nobody should change: tensors but for parameters, lists, dictionaries, arrays."""
    if isinstance(value, nn.Parameter):
        return None
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _snapshot(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_snapshot(part) for part in value]
    return copy.copy(value) if isinstance(value, np.ndarray | set) else None


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(
            torch.nan_to_num(one), torch.nan_to_num(other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other
