import numpy as np
import pytest
import torch

from minigpt.learn.answers import difference
from minigpt.learn.rules import Judged

RIGHT = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


@pytest.mark.parametrize(
    ("expected", "received"),
    [
        (RIGHT, RIGHT + 1e-5),
        (RIGHT, RIGHT.double()),
        (RIGHT, RIGHT.numpy()),
        (RIGHT, torch.nn.Parameter(RIGHT)),
        (2.5, torch.tensor(2.5)),
        (2.5, np.float32(2.5)),
        (torch.tensor(2), 2),
        ([1, 2], (1, 2)),
        ([RIGHT, "a"], (RIGHT, "a")),
        (torch.tensor([float("-inf"), 1.0]), torch.tensor([float("-inf"), 1.0])),
        ({"a": 1, "b": [2.0]}, {"b": [2.0], "a": 1}),
        (float("inf"), float("inf")),
        (True, 1),
        (Judged("learnt", 0.1), Judged("learnt", 0.2)),
    ],
)
def test_what_is_as_good_is_the_same(expected, received):
    assert difference(expected, received, 1e-4) is None


@pytest.mark.parametrize(
    ("received", "words"),
    [
        (None, "nothing comes back: is there a return"),
        ((RIGHT, 1.0), "2 values came back, and number 1 is right"),
        (RIGHT.tolist(), "make a tensor of them"),
        (RIGHT.flatten(), "the numbers are right, in another shape"),
        ([1.0, 2.0], "[1, 2]"),
        (RIGHT[:1], "shape (1, 3)"),
        (RIGHT.long(), "whole numbers, torch.int64"),
        (RIGHT > 2, "true and false"),
        (RIGHT.T, "shape (3, 2)"),
        (RIGHT * float("nan"), "it holds NaN"),
        (RIGHT / 0, "it holds infinite numbers"),
        (-RIGHT, "each has the wrong sign"),
        (RIGHT.flip(0), "the numbers are right and stand in another order"),
        (RIGHT * 2, "each is 2 times what it should be"),
        (RIGHT * 0, "all are zero"),
        (RIGHT + 0.01, "of 6 numbers 6 differ"),
    ],
)
def test_a_difference_is_said(received, words):
    found = difference(RIGHT, received, 1e-4)
    assert words in found.received + found.remark


def test_transposed_squares_are_seen():
    square = RIGHT[:, :2]
    assert "the last two dimensions are exchanged" in difference(square, square.T, 1e-4).remark


def test_of_large_tensors_the_place_of_the_first_difference_is_shown():
    expected = torch.zeros(2, 50)
    received = expected.clone()
    received[1, 30] = 1.0
    found = difference(expected, received, 1e-4)
    assert found.remark == "of 100 numbers 1 differ, the first at [1, 30]"
    assert "1" in found.received
    assert "1" not in found.expected.partition("=")[2]


@pytest.mark.parametrize(
    ("expected", "received", "words"),
    [
        ([1, 2, 3], [1, 2], "3 were wanted, 2 came"),
        (
            [[1, 2], [RIGHT]],
            [[1, 2], [RIGHT * 2], []],
            "2 were wanted, 3 came; of 6 numbers 6 differ",
        ),
        ([1, 2], 3, "3"),
        ([1, 2], torch.tensor([1, 2]), "make a list of them"),
        ([1, 2], torch.tensor([1, 3]), "a tensor of shape (2,), [1, 3]"),
        (2.5, torch.tensor([2.5]), "take it out of the tensor"),
        (2.5, (1.0, 2.5), "number 2 is right"),
        (2.5, (1.0, 2), "a tuple, (1, 2)"),
        ({"a": 1}, {"b": 1}, "without a and with b"),
        ({"a": 1}, {"a": 2}, "a: 2"),
        ({"a": 1}, [1], "[1]"),
        (1.0, 1.01, "1.01"),
        ("held out", "trained on", "'trained on'"),
        ([RIGHT], [RIGHT * 2], "each is 2 times"),
        (Judged("learnt", 0.1), Judged("a loss of 3", 3.0), "'a loss of 3'"),
    ],
)
def test_differences_in_all_else(expected, received, words):
    found = difference(expected, received, 1e-4)
    assert words in found.received + found.remark


def test_the_part_that_differs_is_told():
    assert difference([1, [2, 3], [4]], [1, [2, 9], [5]], 1e-4).place == 1
    assert difference([[1], [2, 3]], [[1], [2, 9]], 1e-4).received == "[2, 9]"
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}, 1e-4).place == 1
