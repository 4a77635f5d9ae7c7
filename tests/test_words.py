import json

from minigpt.learn.path import EXERCISES, find
from minigpt.learn.words import GENERAL, Verdict, said

ATTENTION = find("attention")


def test_a_verdict_goes_through_json():
    verdict = Verdict(
        ("a",), "b", 2, ("scale",), ("Divide.",), "f(x)", "1", "2", "", ("line 1",), "hello"
    )
    assert Verdict.of(json.loads(json.dumps(verdict.fields()))) == verdict


def test_who_passes_is_told_where_ours_is_and_what_is_next():
    text = said(ATTENTION, Verdict(("one", "two"), checks=2))
    assert text.startswith("Passed: Attention in ten lines\n")
    assert "✓ one" in text
    assert "✓ two" in text
    assert "minigpt/learn/exercises/attention/solution.py" in text
    assert "minigpt learn show mask" in text
    assert "Next" not in said(EXERCISES[-1], Verdict(("one",), checks=1))


def test_who_does_not_is_told_what_was_called_what_came_and_why():
    verdict = Verdict(
        ("one",), "two", 3, ("scale",), ("Divide by the root.",), "attend(…)", "0.5", "0.7", "each is 1.4 times"
    )  # fmt: skip
    text = said(ATTENTION, verdict)
    lines = text.splitlines()
    assert lines[0] == "Not yet: Attention in ten lines"
    for line in (
        "  ✓ one",
        "  ✗ two",
        "  called     attend(…)",
        "  expected   0.5",
        "  received   0.7",
    ):
        assert line in lines
    assert "  Scale. Divide by the root." in lines
    assert "minigpt learn show attention" in text


def test_general_failures_have_advice():
    for kind, advice in GENERAL.items():
        text = said(ATTENTION, Verdict(open="one", checks=3, hints=(kind,), received="what"))
        assert advice.split()[0] in text


def test_what_nobody_knows_is_said_to_be_so():
    text = said(ATTENTION, Verdict(open="one", checks=3, expected="1", received="2"))
    assert "No known mistake gives this. Print yours" in text
    seen = Verdict(open="one", checks=3, call="f(x=1)", expected="1", received="2")
    assert "No known mistake gives this. Work the case above out by hand" in said(ATTENTION, seen)


def test_what_was_printed_is_shown_without_control_characters():
    text = said(ATTENTION, Verdict(open="one", checks=1, printed="hello\n\x1b[31mred\n" * 50))
    assert "  │ hello" in text
    assert "\x1b" not in text
    assert text.count("hello") == 10
    assert "  │ … and more\n" in text
    assert "more" not in said(ATTENTION, Verdict(open="one", checks=1, printed="hello\n"))


def test_lines_are_not_too_long():
    long = Verdict(open="one", checks=1, call="x, " * 200, advice=("word " * 200,), hints=("a",))
    assert max(map(len, said(ATTENTION, long).splitlines())) <= 100
