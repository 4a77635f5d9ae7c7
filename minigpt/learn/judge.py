"""An exercise and the source of an attempt in, a verdict out: which properties hold, and what is wrong with the first
that does not.

The first difference from the solution is explained by the known mistakes that give just the same answer; where several
do, by those that agree with the attempt in the other checks as well. What no mistake explains is shown as it is.
"""

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from minigpt.learn.answers import difference
from minigpt.learn.outcome import Answer, Failure, Outcome, look_at
from minigpt.learn.pair import look_together
from minigpt.learn.path import Exercise
from minigpt.learn.rules import Check
from minigpt.learn.versions import Rival, Version, rivals, rivals_of_two, rules_of, solution

SECONDS = 20.0  # that an attempt may take in one check
WAIT = 300.0  # that the solution may take: it is ours, and torch may take long to start
LONGER, SHORTEST = 10, 0.5  # a rival may take so many times as long as the solution, and so many seconds at least
UNEXPLAINED = ("syntax", "missing", "unwritten", "signature", "endless")  # they say all there is to say


@dataclass(frozen=True)
class Verdict:
    """What there is to say of an attempt.

    Attributes:
        held: the properties that hold, up to the first that does not.
        open: the first that does not, or nothing: passed.
        checks: how many there are in all.
        hints: names of the mistakes made, or the kind of failure.
        advice: what a teacher would say to each.
        call: how the attempt was called.
        expected, received: what should have come back and what did.
        remark: what can be said of it as a whole.
        lines: of the learner's file.
    """

    held: tuple[str, ...] = ()
    open: str = ""
    checks: int = 0
    hints: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    call: str = ""
    expected: str = ""
    received: str = ""
    remark: str = ""
    lines: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether all properties hold."""
        return not self.open

    def facts(self) -> dict[str, Any]:
        """Return all of it by name."""
        return {"passed": self.passed} | asdict(self)


def judge(
    exercise: Exercise,
    source: str,
    file: str = "<attempt>",
    *,
    seconds: float = SECONDS,
    doing: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Return the verdict.

    Args:
        exercise: of the path.
        source: of the attempt.
        file: where it stands.
        seconds: that it may take in one check.
        doing: hears of each check before it begins.
    """
    checks, _ = rules_of(exercise)
    attempt = Version(source, file)
    held = []
    for number, check in enumerate(checks):
        doing(check.title)
        right, _ = right_answer(exercise, number)
        found = _outcome(exercise, number, attempt, seconds)
        if not _same(right, found, check):
            said = {"held": tuple(held), "open": check.title, "checks": len(checks)}
            return _explained(exercise, number, attempt, right, found, said)
        held.append(check.title)
    return Verdict(held=tuple(held), checks=len(checks))


def _explained(
    exercise: Exercise, number: int, attempt: Version, right: Answer, found: Outcome, said: dict[str, Any]
) -> Verdict:
    said["call"] = found.call
    if isinstance(found, Failure):
        said |= {"received": found.what, "lines": found.lines, "hints": (found.kind,)}
    else:
        differs = difference(right.value, found.value, rules_of(exercise)[0][number].within)
        assert differs is not None
        said |= {"expected": differs.expected, "received": differs.received, "remark": differs.remark}
    if isinstance(found, Failure) and found.kind in UNEXPLAINED:
        return Verdict(**said)
    made = _made(exercise, number, attempt, found)
    if made is not None:
        said["hints"] = tuple(mistake.name for mistake in made.mistakes)
        said["advice"] = tuple(" ".join(mistake.hint.split()) for mistake in made.mistakes)
    return Verdict(**said)


def _made(exercise: Exercise, number: int, attempt: Version, found: Outcome) -> Rival | None:
    """Return the mistakes that give what the attempt gave, if there are such."""
    checks, _ = rules_of(exercise)
    if checks[number].processes > 1:
        every: Iterable[tuple[Rival, ...]] = [rivals(exercise)]
    else:
        every = (some(exercise) for some in (rivals, rivals_of_two))
    for some in every:
        alike = [r for r in some if _same(found, wrong_answer(exercise, number, r), checks[number])]
        if len({r.mistakes for r in alike}) > 1:
            others = [(n, _outcome(exercise, n, attempt, 1.0)) for n in range(len(checks)) if n != number and checks[n].processes == 1]  # fmt: skip
            alike.sort(
                key=lambda r: -sum(
                    _same(other, wrong_answer(exercise, n, r), checks[n]) for n, other in others
                )
            )
        if alike:
            return alike[0]
    return None


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
