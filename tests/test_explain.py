from minigpt.learn.explain import mistakes_made, outcome_of, right_answer, same, wrong_answer
from minigpt.learn.outcome import Failure
from minigpt.learn.path import find
from minigpt.learn.versions import Version, rivals, rules_of

ATTENTION = find("attention")


def made(source, number=0, **options):
    attempt = Version(ATTENTION.solution + source, "<attempt>")
    found = outcome_of(ATTENTION, number, attempt, 20.0)
    return [m.name for m in mistakes_made(ATTENTION, number, attempt, found, **options)]


def test_one_mistake_is_found():
    assert made("def attend(q, k, v, mask=None):\n    return (q @ k.mT).softmax(-1) @ v") == [
        "scale"
    ]


def test_two_mistakes_together_are_found():
    both = "def attend(q, k, v, mask=None):\n    return (q @ k.mT).softmax(-2) @ v"
    assert made(both) == ["scale", "softmax dimension"]
    assert made(both, patience=0) == []


def test_what_no_mistake_gives_is_not_explained():
    assert made("def attend(q, k, v, mask=None):\n    return q + 0.123") == []


def test_of_mistakes_that_look_alike_the_one_that_agrees_elsewhere_is_meant():
    # With one head it looks as if nothing was divided; with four it does not.
    source = (
        "def attend(q, k, v, mask=None):\n    return (q @ k.mT / q.size(1) ** 0.5).softmax(-1) @ v"
    )
    assert made(source) == ["scale"]
    assert made(source, number=1, patience=0) == []


def test_a_failure_that_says_everything_is_left_alone():
    attempt = Version("x = (", "<attempt>")
    found = outcome_of(ATTENTION, 0, attempt, 20.0)
    assert isinstance(found, Failure)
    assert mistakes_made(ATTENTION, 0, attempt, found) == ()


def test_answers_of_ours_are_looked_up_once():
    assert right_answer(ATTENTION, 0)[0] is right_answer(ATTENTION, 0)[0]
    rival = rivals(ATTENTION)[0]
    assert wrong_answer(ATTENTION, 0, rival) is wrong_answer(ATTENTION, 0, rival)
    check = rules_of(ATTENTION)[0][0]
    assert not same(right_answer(ATTENTION, 0)[0], wrong_answer(ATTENTION, 0, rival), check)
