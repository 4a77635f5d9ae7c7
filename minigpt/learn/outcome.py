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
from minigpt.learn.forms import form_of, in_short
from minigpt.learn.rules import Check
from minigpt.learn.versions import Version


@dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes:
        value: of the check.
        calls: of the learner's code, in words.
        forms: what kind of thing came back from each.
    """

    value: Any
    calls: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)

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
        form: what kind of thing came back, where that cannot be used.
        number: of the call, counted from 0.
    """

    kind: str
    what: str
    call: str = ""
    lines: tuple[str, ...] = ()
    form: str = ""
    number: int = 0


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
            _seed()  # whatever was drawn or seeded while it was loaded
            return Answer(kept(check.look(glass)), glass.calls, glass.forms)
    except Stopped as stopped:
        return stopped.failure
    except TimeUpError as error:
        call = glass.last_call if glass else ""
        what = f"it took more than {seconds:g} s"
        return Failure("endless", what, call, _lines(error, version.file))
    except Exception as error:
        # The check could not go on with what it was given.
        assert glass is not None
        form = glass.forms[-1] if glass.forms else "what is in the file"
        what = f"{form}, which cannot be used ({first_line(error)})"
        return Failure("unusable", what, glass.last_call, (), form, max(0, len(glass.forms) - 1))


class Glass:
    """A module, looked at from outside: what it is asked for and called with is remembered.

    What is handed over are copies of tensors, lists and the like: the next look finds them as they were.

    Attributes:
        calls: in words.
        forms: what kind of thing came back from each.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self._module, self._inside = module, False
        self.calls: list[str] = []
        self.forms: list[str] = []

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
        return self._seen(found, name, name) if callable(found) else found

    def _seen(self, function: Callable, name: str, said: str) -> Callable:
        """Return a function that does the same and is looked at; in a call its name is said with how it was come by."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            before = self._describe(function, name, said, args, kwargs)
            args, kwargs = _copied((args, kwargs))
            self._inside = True
            try:
                returned = function(*args, **kwargs)
            except BaseException as error:
                if isinstance(error, Stopped | TimeUpError):
                    raise
                raise Stopped(_raised(error, self.last_call, self._module.__file__)) from None
            finally:
                self._inside = False
            after = _arguments(function, args, kwargs)
            for place, value in before.items():
                if not _alike(value, after[place]):
                    what = f"{name} changes what it is given, {place}{_instead(value)}"
                    raise Stopped(Failure("changed", what, self.last_call))
            self.forms.append(form_of(returned))
            if inspect.isclass(function):
                self._see_methods(returned, name, self.last_call)
            return returned

        return call

    def _describe(
        self, function: Callable, name: str, said: str, args: Any, kwargs: Any
    ) -> dict[str, Any]:
        """Remember a call in words and return what it hands over, by name; refuse one that does not fit."""
        try:
            given = _arguments(function, args, kwargs)
        except TypeError as error:
            words = [*map(in_short, args), *(f"{k}={in_short(v)}" for k, v in kwargs.items())]
            what = f"{name} takes other arguments than in the file to fill: {error}"
            raise Stopped(Failure("signature", what, f"{said}({', '.join(words)})")) from None
        words = (f"{k}={in_short(v)}" for k, v in given.items())
        self.calls.append(f"{said}({', '.join(words)})")
        return given

    def _see_methods(self, made: Any, name: str, call: str) -> None:
        """Look at the methods of an object, too; torch finds its `forward` in the object first."""
        found = set()
        for kind in type(made).__mro__:
            if kind.__module__ != self._module.__name__:
                continue
            for attribute, method in vars(kind).items():
                if attribute in found or attribute.startswith("_"):
                    continue
                found.add(attribute)
                if inspect.isfunction(method):
                    end = "" if attribute == "forward" else f".{attribute}"
                    seen = self._seen(getattr(made, attribute), f"{name}{end}", f"{call}{end}")
                    with contextlib.suppress(AttributeError):  # an object that takes no attributes
                        setattr(made, attribute, seen)


def _arguments(function: Callable, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return what a call hands over by the names of the parameters; by place, where a function tells no names.

    Raises:
        TypeError: it does not fit.
    """
    try:
        return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except ValueError:  # of what is built in
        return {f"argument_{place}": value for place, value in enumerate(args, 1)} | kwargs


def _instead(value: Any) -> str:
    """Return how something is left as it was, by what it is."""
    if isinstance(value, Tensor):
        return ": masked_fill leaves it as it is, masked_fill_ does not; x = x + 1 does, x += 1 does not"
    if isinstance(value, list | dict | set):
        name = type(value).__name__
        return f": work on a copy of the {name}, {name}(…)"
    return ""


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
        return (tuple if isinstance(value, tuple) else list)(map(kept, value))
    return "a function, not what it returns" if inspect.isroutine(value) else value


def _copied(value: Any) -> Any:
    """Return a copy of what nobody should change: tensors but for what is trained, lists, dictionaries, arrays."""
    if isinstance(value, Tensor):
        return value if value.requires_grad or isinstance(value, nn.Parameter) else value.clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_copied, value))
    return copy.copy(value) if isinstance(value, np.ndarray | set) else value


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(
            torch.nan_to_num(one), torch.nan_to_num(other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other
