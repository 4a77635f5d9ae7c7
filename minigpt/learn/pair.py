"""Code and a check in; what comes out of it in several processes that work together, out."""

from minigpt.learn.outcome import Outcome
from minigpt.learn.path import Exercise
from minigpt.learn.versions import Version


def look_together(exercise: Exercise, number: int, version: Version, seconds: float) -> Outcome:
    """Return what comes out of a check in each process."""
    raise NotImplementedError
