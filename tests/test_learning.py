"""The verbs of `minigpt learn`, as a learner uses them."""

import json
import re
import time
from pathlib import Path

import pytest

from minigpt import cli
from minigpt.learn import process
from minigpt.learn.judge import judge
from minigpt.learn.path import EXERCISES, find
from minigpt.learn.process import source_of
from minigpt.learn.record import FILE

ROOT = Path(__file__).parent.parent


def call(*arguments):
    return cli.run(time.monotonic(), ["learn", *map(str, arguments)])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def near(monkeypatch):
    """Judges in this process, which need not start torch."""
    monkeypatch.setattr(
        process, "judge_apart", lambda exercise, file: judge(exercise, source_of(file))
    )


def states(capsys):
    capsys.readouterr()
    assert call("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])["exercises"]
    assert [one["name"] for one in listed] == [exercise.name for exercise in EXERCISES]
    return {one["name"]: one["state"] for one in listed if one["state"] != "open"}


def test_the_list_shows_the_path(capsys):
    assert call() == 0
    first = capsys.readouterr().out
    assert call("list") == 0
    assert capsys.readouterr().out == first
    for words in ("Warm-ups", "Milestones", "Beyond", "attention", "0 of 23 passed"):
        assert words in first
    assert states(capsys) == {}


def test_a_page_is_shown_as_it_is_where_there_is_no_terminal(capsys):
    assert call("show", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith(find("bigram").page)
    assert "minigpt learn start bigram" in out


def test_from_start_to_passed(capsys, folder, near):
    assert call("start", "2") == 0
    assert "mask.py" in capsys.readouterr().out
    assert states(capsys) == {"mask": "started"}
    assert call("check", "2", "mask.py") == 1
    said = capsys.readouterr()
    assert "by_hand is still to be written" in said.out
    assert "mask is not right yet: 0 of 6 properties hold" in said.err
    (folder / "mask.py").write_text(find("mask").solution)
    assert call("check", "mask", "mask.py", "--json") == 0
    out = capsys.readouterr().out
    assert out.startswith("Passed: A causal mask by hand")
    assert json.loads(out.splitlines()[-1])["passed"] is True
    assert states(capsys) == {"mask": "passed"}
    (folder / "mask.py").write_text("x = 1")
    assert call("check", "mask", "mask.py", "--json") == 1
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["exercise"], facts["passed"], facts["hints"]) == ("mask", False, ["missing"])
    assert states(capsys) == {"mask": "passed"}


def test_start_overwrites_nothing(capsys, folder):
    (folder / "mine.py").write_text("precious")
    assert call("start", "mask", "--out", "mine.py") == 2
    assert "mine.py is there already and stays as it is" in capsys.readouterr().err
    assert (folder / "mine.py").read_text() == "precious"
    assert states(capsys) == {}
    assert call("start", "mask", "--out", "nowhere/mine.py") == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "99"), "there is no exercise '99'"),
        (("start", "atention"), "did you mean attention?"),
        (("check", "mask", "nothing.py"), "nothing.py does not exist"),
        (("check", "mask", "."), "is no file"),
    ],
)
def test_bad_input_is_one_sentence(capsys, arguments, words):
    assert call(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_damaged_progress_is_a_sentence_and_nothing_is_lost(capsys, folder):
    (folder / FILE).write_text('{"exercises": {"mask": "pas')
    (folder / "mask.py").write_text(find("mask").solution)
    for arguments in (("list",), ("start", "rope"), ("check", "mask", "mask.py")):
        assert call(*arguments) == 2
        assert FILE in capsys.readouterr().err
    assert (folder / FILE).read_text() == '{"exercises": {"mask": "pas'
    assert not (folder / "rope.py").exists()


@pytest.mark.slow
def test_a_whole_check_in_a_process_of_its_own(capsys, folder):
    (folder / "mask.py").write_text(find("mask").solution.replace(".tril(seen)", ".tril(seen - 1)"))
    assert call("check", "mask", "mask.py") == 1
    assert "Not itself. No position sees itself" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["mask.py"]


def test_the_commands_of_the_document_are_there(capsys, folder):
    text = (ROOT / "docs" / "learn.md").read_text("utf-8")
    verbs = re.findall(r"^    minigpt learn ?(\w*)", text, re.MULTILINE)
    assert {"list", "show", "start", "check"} <= set(verbs)
    for verb in {verb for verb in verbs if verb}:
        assert call(verb, "--help") == 0
        assert "Example: minigpt learn" in capsys.readouterr().out
