"""An exercise and the source of an attempt in, a verdict out: which properties hold, and what is wrong with the first
that does not.

The first difference from the solution is explained by the known mistakes that give just the same answer; where several
do, by those that agree with the attempt in the other checks as well. What no mistake explains is shown as it is.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

from minigpt.learn.answers import difference
from minigpt.learn.outcome import Answer, Failure, Outcome, look_at
from minigpt.learn.pair import look_together
from minigpt.learn.path import Exercise
from minigpt.learn.rules import Check
from minigpt.learn.verdict import Verdict
from minigpt.learn.versions import Rival, Version, rivals, rivals_of_two, rules_of, solution

SECONDS = 20.0  # that an attempt may take in one check
WAIT = 300.0  # that the solution may take: it is ours, and torch may take long to start
PATIENCE = 20.0  # for how long two mistakes together are tried
LONGER, SHORTEST = (
    10,
    0.5,
)  # a rival may take so many times as long as the solution, and so many seconds at least
UNEXPLAINED = (
    "syntax",
    "missing",
    "unwritten",
    "signature",
    "endless",
)  # they say all there is to say


def judge(
    exercise: Exercise,
    source: str,
    file: str = "<attempt>",
    *,
    seconds: float = SECONDS,
    doing: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Verdict:
    """Return the verdict.

    Args:
        exercise: of the path.
        source: of the attempt.
        file: where it stands.
        seconds: that it may take in one check.
        doing: hears of each check of the attempt when it begins, and when it has ended.
    """
    checks, _ = rules_of(exercise)
    attempt = Version(source, file)
    held = []
    for number, check in enumerate(checks):
        right, _ = right_answer(exercise, number)
        note = {"title": check.title, "held": held, "checks": len(checks)}
        doing(note | {"began": time.time()})
        found = _outcome(exercise, number, attempt, seconds)
        doing(note | {"began": None})
        if not _same(right, found, check):
            said = {"held": tuple(held), "open": check.title, "checks": len(checks)}
            return _explained(exercise, number, attempt, right, found, said)
        held.append(check.title)
    return Verdict(held=tuple(held), checks=len(checks))


def _explained(
    exercise: Exercise,
    number: int,
    attempt: Version,
    right: Answer,
    found: Outcome,
    said: dict[str, Any],
) -> Verdict:
    said["call"] = found.call
    if isinstance(found, Failure):
        said |= {"received": found.what, "lines": found.lines, "hints": (found.kind,)}
    else:
        differs = difference(right.value, found.value, rules_of(exercise)[0][number].within)
        assert differs is not None
        said |= {
            "expected": differs.expected,
            "received": differs.received,
            "remark": differs.remark,
        }
    if isinstance(found, Failure) and found.kind in UNEXPLAINED:
        return Verdict(**said)
    made = _made(exercise, number, attempt, found)
    if made is not None:
        said["hints"] = tuple(mistake.name for mistake in made.mistakes)
        said["advice"] = tuple(" ".join(mistake.hint.split()) for mistake in made.mistakes)
    return Verdict(**said)


def _made(exercise: Exercise, number: int, attempt: Version, found: Outcome) -> Rival | None:
    """Return the mistakes that give what the attempt gave, one or two of them, if there are such."""
    checks, _ = rules_of(exercise)
    until = time.monotonic() + PATIENCE
    for some in (rivals, rivals_of_two):
        alike = [
            rival
            for rival in some(exercise)
            if (some is rivals or time.monotonic() < until)
            and _same(found, wrong_answer(exercise, number, rival), checks[number])
        ]
        if len({r.mistakes for r in alike}) > 1:
            alike.sort(key=lambda rival: -_agreeing(exercise, number, attempt, rival))
        if alike:
            return alike[0]
    return None


def _agreeing(exercise: Exercise, number: int, attempt: Version, rival: Rival) -> int:
    """Return in how many of the other checks the attempt gives what a rival gives."""
    return sum(
        _same(_elsewhere(exercise, n, attempt), wrong_answer(exercise, n, rival), check)
        for n, check in enumerate(rules_of(exercise)[0])
        if n != number
    )


@functools.lru_cache(maxsize=32)
def _elsewhere(exercise: Exercise, number: int, attempt: Version) -> Outcome:
    _, seconds = right_answer(exercise, number)
    return _outcome(exercise, number, attempt, max(SHORTEST, LONGER * seconds))


def _same(one: Outcome, other: Outcome, check: Check) -> bool:
    if isinstance(one, Failure) or isinstance(other, Failure):
        kinds = [(x.kind, x.what) for x in (one, other) if isinstance(x, Failure)]
        return len(kinds) == 2 and kinds[0] == kinds[1]
    return difference(one.value, other.value, check.within) is None


@functools.cache
def right_answer(exercise: Exercise, number: int) -> tuple[Answer, float]:
    """Return what comes out of a check of the solution, and the seconds that it took."""
    began = time.monotonic()
    found = _outcome(exercise, number, solution(exercise), WAIT)
    assert isinstance(found, Answer), f"{exercise.name}, check {number}: {found}"
    return found, time.monotonic() - began


@functools.cache
def wrong_answer(exercise: Exercise, number: int, rival: Rival) -> Outcome:
    """Return what comes out of a check of the solution with mistakes in it, some of which come to no end."""
    _, seconds = right_answer(exercise, number)
    return _outcome(exercise, number, rival.version, max(SHORTEST, LONGER * seconds))


def _outcome(exercise: Exercise, number: int, version: Version, seconds: float) -> Outcome:
    check = rules_of(exercise)[0][number]
    if check.processes > 1:
        return look_together(exercise, number, version, seconds)
    return look_at(check, version, seconds)
