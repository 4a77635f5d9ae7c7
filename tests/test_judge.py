from minigpt.learn.judge import judge
from minigpt.learn.path import find
from minigpt.learn.versions import rules_of

ATTENTION = find("attention")
TITLES = tuple(check.title for check in rules_of(ATTENTION)[0])


def test_what_passes_holds_every_property():
    verdict = judge(ATTENTION, ATTENTION.solution)
    assert verdict.passed
    assert verdict.held == TITLES
    assert (verdict.hints, verdict.received) == ((), "")


def test_the_first_property_that_does_not_hold_is_told():
    source = ATTENTION.solution.replace("~mask", "mask")
    verdict = judge(ATTENTION, source)
    assert not verdict.passed
    assert verdict.held == TITLES[:2]
    assert verdict.open == TITLES[2]
    assert verdict.hints == ("mask inverted",)
    assert "masked_fill hides where its mask is true" in verdict.advice[0]
    assert verdict.call.startswith("attend(query=a tensor (2, 2, 3, 4)")
    assert verdict.expected
    assert verdict.received
    assert "numbers" in verdict.remark


def test_a_failure_is_told_with_the_lines_of_the_file():
    source = "def attend(query, key, value, mask=None):\n    return query.nothing"
    verdict = judge(ATTENTION, source)
    assert verdict.hints == ("raised",)
    assert "AttributeError" in verdict.received
    assert verdict.lines == ("line 2, in attend: return query.nothing",)


def test_what_cannot_be_used_is_told_by_what_was_wanted():
    evaluation = find("evaluation")
    source = "\ndef windows(ids, block_size):\n    return [([1, 2], [3, 4])]\n"
    verdict = judge(evaluation, evaluation.solution + source)
    assert verdict.hints == ("unusable",)
    assert verdict.expected == "a list of 3 tuples of 2 tensors"
    assert verdict.received.startswith("a list of a tuple of 2 lists of 2 numbers, which cannot")


def test_each_check_is_announced():
    heard = []
    judge(ATTENTION, ATTENTION.solution, doing=heard.append)
    assert [note["title"] for note in heard] == [title for title in TITLES for _ in "ab"]
    assert [note["began"] is None for note in heard] == [False, True] * len(TITLES)


def test_the_call_that_is_shown_is_the_one_that_differs():
    sampler = find("sampler")
    verdict = judge(sampler, sampler.solution.replace("before >= top_p", "before >= 0.7"))
    assert verdict.call.endswith("top_p=0.4)")
