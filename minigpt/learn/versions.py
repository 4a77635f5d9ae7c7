"""An exercise in, versions of its code out: the learner's, the solution, and the solution with known mistakes in it."""

import functools
import importlib
import itertools
import linecache
import sys
import types
from dataclasses import dataclass, field
from typing import Any

from minigpt.learn.path import Exercise
from minigpt.learn.rules import Check, Mistake

NAME = "<exercise>"  # of the module that code becomes; nothing that can be imported is called so


@dataclass(frozen=True)
class Version:
    """Code that an exercise can be checked with.

    Attributes:
        source: of the code.
        file: under which it is known in a traceback.
    """

    source: str
    file: str
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def module(self) -> types.ModuleType:
        """The code, run once; Python knows it as a module, as dataclasses and others need."""
        if "module" in self._loaded:
            sys.modules[NAME] = self._loaded["module"]
        else:
            code = compile(self.source, self.file, "exec", dont_inherit=True)
            linecache.cache[self.file] = (len(self.source), None, self.source.splitlines(True), self.file)  # fmt: skip
            module = types.ModuleType(NAME, None)
            module.__file__ = self.file
            sys.modules[NAME] = module
            exec(code, module.__dict__)
            self._loaded["module"] = module
        return self._loaded["module"]


@dataclass(frozen=True)
class Rival:
    """A way to get it wrong: mistakes, and the solution with them in it."""

    mistakes: tuple[Mistake, ...]
    version: Version


@functools.cache
def rules_of(exercise: Exercise) -> tuple[tuple[Check, ...], tuple[Mistake, ...]]:
    """Return what is checked, in the order of `check.py`, and the known mistakes."""
    module = importlib.import_module(f"minigpt.learn.exercises.{exercise.name}.check")
    return tuple(one for one in vars(module).values() if isinstance(one, Check)), tuple(
        module.MISTAKES
    )


@functools.cache
def solution(exercise: Exercise) -> Version:
    """Return the solution."""
    return Version(exercise.solution, f"<the solution of {exercise.name}>")


@functools.cache
def rivals(exercise: Exercise) -> tuple[Rival, ...]:
    """Return the solution with one mistake in it, for each way to make each."""
    return tuple(
        Rival((mistake,), _with(exercise, variant, mistake.name))
        for mistake in rules_of(exercise)[1]
        for variant in mistake.variants
    )


@functools.cache
def rivals_of_two(exercise: Exercise) -> tuple[Rival, ...]:
    """Return the solution with two different mistakes in it, where they touch different places."""
    every = [(m, variant) for m in rules_of(exercise)[1] for variant in m.variants]
    return tuple(
        Rival((one, other), _with(exercise, a | b, f"{one.name}, {other.name}"))
        for (one, a), (other, b) in itertools.combinations(every, 2)
        if one is not other and not _touch(exercise.solution, a, b)
    )


def _with(exercise: Exercise, replaced: dict[str, str], name: str) -> Version:
    source = exercise.solution
    for old, new in replaced.items():
        assert exercise.solution.count(old) == 1, (
            f"{exercise.name}, {name}: {old!r} stands not once"
        )
        source = source.replace(old, new)
    return Version(source, f"<{exercise.name} with {name}>")


def _touch(source: str, *variants: dict[str, str]) -> bool:
    """Return whether two variants change the same characters."""
    spans = sorted(
        (source.index(old), source.index(old) + len(old)) for variant in variants for old in variant
    )
    return any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)) or len(
        spans
    ) < sum(len(variant) for variant in variants)
