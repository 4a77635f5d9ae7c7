import ast

import pytest

from minigpt.learn.path import EXERCISES
from minigpt.learn.skeleton import skeleton

SOLUTION = '''"""What it does."""

import math

SIZE = 3


def double(x: int) -> int:
    """Return twice x."""
    y = 2 * x  # not shown
    return y


def _helped(x):
    return x


# Given.
def given(x: int) -> int:
    """Return x."""
    return x


class Layer:
    """A layer.

    Attributes:
        size: of it.
    """

    kind = "layer"

    def __init__(self) -> None:
        super().__init__()
        self.size = SIZE

    @property
    def area(self) -> int:
        """Return its area."""
        return self.size**2

    # Given.
    def same(self) -> int:
        """Return its size."""
        return self.size
'''

TO_FILL = '''"""Fill it."""

import math

SIZE = 3


def double(x: int) -> int:
    """Return twice x."""
    raise NotImplementedError


# Given.
def given(x: int) -> int:
    """Return x."""
    return x


class Layer:
    """A layer.

    Attributes:
        size: of it.
    """

    kind = "layer"

    def __init__(self) -> None:
        super().__init__()
        raise NotImplementedError

    @property
    def area(self) -> int:
        """Return its area."""
        raise NotImplementedError

    # Given.
    def same(self) -> int:
        """Return its size."""
        return self.size
'''


def test_bodies_go_and_all_else_stays():
    assert skeleton(SOLUTION, "Fill it.") == TO_FILL


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_a_file_to_fill_is_python_that_says_how_to_go_on(exercise):
    tree = ast.parse(exercise.start)
    assert f"minigpt learn check {exercise.name} FILE" in ast.get_docstring(tree)
    assert exercise.title in ast.get_docstring(tree)
    assert "raise NotImplementedError" in exercise.start
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        assert ast.get_docstring(function) or function.name == "__init__", function.name
