"""What came out of an attempt in, the known mistakes that explain it out.

The mistakes are made in the solution, one at a time and two together; those that give just what the attempt gave are
the ones that were made. Where several do, those count that agree with the attempt in most of the other checks.
"""

import functools
import time
from typing import Any

from torch import Tensor

from minigpt.learn.answers import difference
from minigpt.learn.outcome import Answer, Failure, Outcome, look_at
from minigpt.learn.pair import look_together
from minigpt.learn.path import Exercise
from minigpt.learn.rules import Check, Judged, Mistake
from minigpt.learn.versions import Rival, Version, rivals, rivals_of_two, rules_of, solution

WAIT = 300.0  # seconds that the solution may take: it is ours, and torch may take long to start
LONGER = 10  # times as long as the solution a rival may take
SHORTEST = 3.0  # seconds that it may take at least, for the machine may be busy
PATIENCE = 5.0  # for how many seconds two mistakes together are tried
CLEAR = (
    "syntax",
    "missing",
    "unwritten",
    "signature",
    "changed",
    "endless",
    "waiting",
)  # they say all there is to say


def mistakes_made(
    exercise: Exercise, number: int, attempt: Version, found: Outcome, patience: float = PATIENCE
) -> tuple[Mistake, ...]:
    """Return the known mistakes, one or two, that give what an attempt gave in a check; none, where none does.

    Args:
        exercise: of the path.
        number: of the check, the first that the attempt does not pass.
        attempt: the code.
        found: what came out of it.
        patience: for how long two mistakes together are tried, in seconds.
    """
    if isinstance(found, Failure) and found.kind in CLEAR:
        return ()
    checks, _ = rules_of(exercise)
    until = time.monotonic() + (patience if checks[number].processes == 1 else 0)
    for some in (rivals, rivals_of_two):
        alike = [
            rival
            for rival in some(exercise)
            if (some is rivals or time.monotonic() < until)
            and _just_the_same(found, wrong_answer(exercise, number, rival), checks[number])
            and (_tells(found) or _holds_before(exercise, number, rival))
        ]
        if len({r.mistakes for r in alike}) > 1:
            alike.sort(key=lambda rival: -_agreeing(exercise, number, attempt, rival))
        if alike:
            return alike[0].mistakes
    return ()


def _tells(found: Outcome) -> bool:
    """Return whether an outcome is such that two rarely give the same by chance: numbers, not words."""

    def numbers(value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(numbers, value.values()))
        if isinstance(value, list | tuple):
            return any(map(numbers, value))
        return isinstance(value, Tensor | Judged | float | int) and not isinstance(value, bool)

    return isinstance(found, Answer) and numbers(found.value)


def _holds_before(exercise: Exercise, number: int, rival: Rival) -> bool:
    """Return whether a rival, as the attempt, passes all checks before this one."""
    return all(
        same(right_answer(exercise, n)[0], wrong_answer(exercise, n, rival), check)
        for n, check in enumerate(rules_of(exercise)[0][:number])
    )


def _agreeing(exercise: Exercise, number: int, attempt: Version, rival: Rival) -> int:
    """Return in how many of the other checks the attempt gives what a rival gives."""
    return sum(
        _just_the_same(_elsewhere(exercise, n, attempt), wrong_answer(exercise, n, rival), check)
        for n, check in enumerate(rules_of(exercise)[0])
        if n != number
    )


@functools.lru_cache(maxsize=32)
def _elsewhere(exercise: Exercise, number: int, attempt: Version) -> Outcome:
    _, seconds = right_answer(exercise, number)
    return outcome_of(exercise, number, attempt, max(SHORTEST, LONGER * seconds))


def same(one: Outcome, other: Outcome, check: Check) -> bool:
    """Return whether two outcomes are as good as each other."""
    if isinstance(one, Failure) or isinstance(other, Failure):
        said = [(x.kind, x.what) for x in (one, other) if isinstance(x, Failure)]
        return len(said) == 2 and said[0] == said[1]
    return difference(one.value, other.value, check.within) is None


def _just_the_same(one: Outcome, other: Outcome, check: Check) -> bool:
    """Return whether two outcomes are the same, in what they were judged by as well."""
    values = [
        x.value for x in (one, other) if isinstance(x, Answer) and isinstance(x.value, Judged)
    ]
    if len(values) == 2 and difference(values[0].seen, values[1].seen, check.within) is not None:
        return False
    return same(one, other, check)


@functools.cache
def right_answer(exercise: Exercise, number: int) -> tuple[Answer, float]:
    """Return what comes out of a check of the solution, and the seconds that it took."""
    began = time.monotonic()
    found = outcome_of(exercise, number, solution(exercise), WAIT)
    assert isinstance(found, Answer), f"{exercise.name}, check {number}: {found}"
    return found, time.monotonic() - began


@functools.cache
def wrong_answer(exercise: Exercise, number: int, rival: Rival) -> Outcome:
    """Return what comes out of a check of the solution with mistakes in it, some of which come to no end.

    The code is run anew, for what its classes and functions keep would reach from one check into another.
    """
    _, seconds = right_answer(exercise, number)
    fresh = Version(rival.version.source, rival.version.file)
    return outcome_of(exercise, number, fresh, max(SHORTEST, LONGER * seconds))


def outcome_of(exercise: Exercise, number: int, version: Version, seconds: float) -> Outcome:
    """Return what comes out of a check of some code."""
    check = rules_of(exercise)[0][number]
    if check.processes > 1:
        return look_together(exercise, number, version, seconds)
    return look_at(check, version, seconds)
