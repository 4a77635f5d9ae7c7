import pytest

from minigpt.learn import pair
from minigpt.learn.outcome import Answer, Failure
from minigpt.learn.pair import ALONE, GONE, look_together
from minigpt.learn.path import find
from minigpt.learn.versions import Version, rules_of

PROCESSES = find("processes")
ROWS = 0
pytestmark = pytest.mark.slow  # two processes start torch


def looked(source, number=ROWS):
    return look_together(PROCESSES, number, Version(PROCESSES.solution + source, "f.py"), 20.0)


def test_each_process_answers():
    found = looked("")
    assert isinstance(found, Answer)
    first, second = (rows[0].tolist() for rows in found.value)
    assert (first, second) == ([[0, 1, 2, 3], [1, 1, 0, 2]], [[3, 2, 1, 0], [2, 3, 3, 1]])
    assert found.call.startswith("own_rows(batch=")


def test_the_first_failure_is_told_and_the_next_code_is_not_harmed():
    failing = "\ndef own_rows(batch):\n    if dist.get_rank() == 1:\n        raise KeyError(1)\n    dist.barrier()\n"
    found = looked(failing)
    assert isinstance(found, Failure)
    assert "KeyError" in found.what
    assert isinstance(looked(""), Answer)


def test_who_waits_in_vain_is_told_so(monkeypatch):
    alone = "\ndef own_rows(batch):\n    if dist.get_rank() == 0:\n        dist.all_reduce(batch)\n    return batch\n"
    assert looked(alone) == ALONE
    assert isinstance(looked(""), Answer)


def test_a_process_that_ends_is_replaced():
    assert looked("\nimport os\ndef own_rows(batch):\n    os._exit(3)\n") == GONE
    assert isinstance(looked(""), Answer)


def test_what_an_earlier_piece_of_code_broke_is_tried_again():
    late = "\nimport os, sys\nsys.modules['__main__'].look_at = lambda *_: os._exit(3)\n"
    assert isinstance(looked(late), Answer)
    assert isinstance(looked(""), Answer)


def test_what_is_neither_numbers_nor_text_cannot_be_used():
    found = looked("\nclass A: pass\ndef own_rows(batch):\n    return A()\n")
    assert isinstance(found, Failure)
    assert (found.kind, "an A" in found.what) == ("unusable", True)


def test_printing_does_not_come_between():
    assert isinstance(looked("\nprint('hello' * 1000)\n"), Answer)


def test_every_check_of_the_exercise_is_in_two_processes():
    assert {check.processes for check in rules_of(PROCESSES)[0]} == {2}
    assert pair.PATIENCE <= 30
