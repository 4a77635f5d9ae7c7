"""Each exercise is proven: the solution passes, each known mistake made in it is told by its hint, alone."""

from pathlib import Path

import pytest

import minigpt
from minigpt.learn.judge import judge
from minigpt.learn.path import EXERCISES
from minigpt.learn.versions import rivals

ROOT = Path(minigpt.__file__).parent.parent
EVERY = [pytest.param(exercise, id=exercise.name) for exercise in EXERCISES]
RIVALS = [
    pytest.param(exercise, rival, id=f"{exercise.name}-{rival.mistakes[0].name}-{number}")
    for exercise in EXERCISES
    for number, rival in enumerate(rivals(exercise))
]


@pytest.mark.parametrize("exercise", EVERY)
def test_the_solution_passes(exercise):
    verdict = judge(exercise, exercise.solution)
    assert verdict.passed, verdict
    assert len(verdict.held) == verdict.checks >= 3


@pytest.mark.parametrize(("exercise", "rival"), RIVALS)
def test_a_mistake_is_told_by_its_hint(exercise, rival):
    verdict = judge(exercise, rival.version.source)
    assert not verdict.passed
    assert verdict.hints == (rival.mistakes[0].name,)
