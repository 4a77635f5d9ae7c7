import pytest
import torch

from minigpt.learn.forms import all_shown, form_of, in_short


def test_values_are_shown_in_a_line():
    assert in_short(torch.tensor([0.5, 0.25])) == "[0.5, 0.25]"
    assert in_short(torch.zeros(2, 30)) == "a tensor (2, 30)"
    assert in_short(torch.tensor([True])) == "[True]"
    assert in_short([1, (2.0, "x")]) == "[1, (2, 'x')]"
    assert in_short({"a": None}) == "{'a': None}"
    assert in_short(torch.nn.Linear(1, 1)) == "a Linear"
    assert len(in_short(list(range(10**4)))) <= 400
    assert len(in_short("x" * 10**6)) <= 400
    assert "\n" not in in_short("a\nb")


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, "None"),
        (1.5, "a number"),
        ("abc", "text"),
        (torch.zeros(2, 3), "a tensor (2, 3)"),
        (torch.nn.Linear(1, 1), "a Linear"),
        ([1, 2, 3], "a list of 3 numbers"),
        ([], "a list of 0"),
        ([torch.zeros(2)], "a list of a tensor (2,)"),
        ((1.0, torch.nn.Linear(1, 1)), "a tuple of a number and a Linear"),
        ([([1], [2]), ([3, 4], [5])], "a list of 2 tuples of 2 lists"),
        ([[1, "a"], [2, "b"]], "a list of 2 lists of 2"),
        ([1, "a", None, torch.ones(1), 2], "a list of 5"),
    ],
)
def test_what_kind_of_thing_a_value_is(value, form):
    assert form_of(value) == form


@pytest.mark.parametrize(
    ("call", "whole"),
    [
        ("causal_mask(new=4)", True),
        ("Characters(text='to be').encode(text='be')", True),
        ("attend(query=[[1, 2]], key=[[3, 4]])", True),
        ("attend(query=a tensor (2, 2, 3, 4))", False),
        ("Bigram(vocab_size=4, hidden=3)(ids=[0, 2])", False),
        ("sample(logits=[1, 2], generator=a generator)", False),
        ("generate(model=an Oracle, ids=[1])", False),
        ("f(x=[1, 2, …])", False),
        ("", False),
    ],
)
def test_who_sees_all_that_went_in_can_work_it_out(call, whole):
    assert all_shown(call) is whole
