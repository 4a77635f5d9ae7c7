"""An exercise and the source of an attempt in, a verdict out: which properties hold, and what is wrong with the first
that does not.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minigpt.learn.answers import difference
from minigpt.learn.explain import PATIENCE, mistakes_made, outcome_of, right_answer, same
from minigpt.learn.outcome import Answer, Failure, Outcome
from minigpt.learn.path import Exercise
from minigpt.learn.rules import Check, Mistake
from minigpt.learn.versions import Version, rules_of
from minigpt.learn.words import Verdict

SECONDS = 20.0  # that an attempt may take in one check


def judge(
    exercise: Exercise,
    source: str,
    file: str = "<attempt>",
    *,
    seconds: float = SECONDS,
    patience: float = PATIENCE,
    doing: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Verdict:
    """Return the verdict.

    Args:
        exercise: of the path.
        source: of the attempt.
        file: where it stands.
        seconds: that it may take in one check.
        patience: for how long two mistakes together are tried, in seconds.
        doing: hears of each check of the attempt when it begins, and when it has ended.
    """
    checks, _ = rules_of(exercise)
    attempt = Version(source, file)
    held = []
    for number, check in enumerate(checks):
        right, _ = right_answer(exercise, number)
        note = {"title": check.title, "held": held, "checks": len(checks)}
        doing(note | {"began": time.time()})
        found = outcome_of(exercise, number, attempt, seconds)
        doing(note | {"began": None})
        if not same(right, found, check):
            verdict = Verdict(tuple(held), check.title, len(checks), call=found.call)
            made = mistakes_made(exercise, number, attempt, found, patience)
            return _told(verdict, right, found, check, made)
        held.append(check.title)
    return Verdict(held=tuple(held), checks=len(checks))


def _told(
    verdict: Verdict, right: Answer, found: Outcome, check: Check, made: tuple[Mistake, ...]
) -> Verdict:
    """Return a verdict with what should have come out, what did, and what was done wrong."""
    if isinstance(found, Failure):
        forms = right.forms[found.number :] if found.kind == "unusable" else []
        wanted = forms[0] if forms and forms[0] != found.form else ""
        verdict = replace(
            verdict,
            expected=wanted, received=found.what, lines=found.lines, hints=(found.kind,),
        )  # fmt: skip
    else:
        differs = difference(right.value, found.value, check.within)
        assert differs is not None
        # Who calls a method has made its object first, a call that is not looked at for itself.
        calls = [
            one
            for one in found.calls
            if not any(c.startswith((f"{one}.", f"{one}(")) for c in found.calls)
        ]
        if differs.place is not None and len(calls) == len(found.value):  # a call for each part
            verdict = replace(verdict, call=calls[differs.place])
        verdict = replace(
            verdict,
            expected=differs.expected, received=differs.received, remark=differs.remark,
            hints=("form",) if differs.is_of_form else (),
        )  # fmt: skip
    if not made:
        return verdict
    advice = tuple(" ".join(mistake.hint.split()) for mistake in made)
    return replace(verdict, hints=tuple(mistake.name for mistake in made), advice=advice)
