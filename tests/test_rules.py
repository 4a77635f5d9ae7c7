import re

import pytest
import torch
from torch import nn

from minigpt.learn.rules import (
    Check,
    check,
    drawn,
    filled,
    look_like_ids,
    names_and_shapes,
    no_seeds,
)


def test_a_check_has_the_first_line_of_its_docstring_for_a_title():
    @check(within=0.5)
    def sums(module):
        """the sum

        of all.
        """

    assert isinstance(sums, Check)
    assert (sums.title, sums.within, sums.processes) == ("the sum", 0.5, 1)


def test_numbers_are_drawn_from_the_seed_alone():
    torch.manual_seed(3)
    one = drawn(2, 3)
    torch.manual_seed(4)
    assert torch.equal(one, drawn(2, 3))
    assert not torch.equal(one, drawn(2, 3, seed=1))


def test_parameters_are_filled_by_name_and_shape():
    one = filled(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
    other = filled(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert names_and_shapes(one) == {
        "0.weight": [3, 2], "0.bias": [3], "1.weight": [3], "1.bias": [3],
    }  # fmt: skip


def test_seeds_do_nothing_where_none_are_wanted():
    torch.manual_seed(0)
    expected = torch.rand(2).tolist()
    torch.manual_seed(0)
    with no_seeds():
        first = torch.rand(1).item()
        torch.manual_seed(0)
        assert [first, torch.rand(1).item()] == expected


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2], "a tensor of ids, and got a list of 2 numbers"),
        (torch.tensor([1, 2]), "shape (1, T), and got (2,)"),
        (torch.ones(1, 5), "5 positions, but block_size is 4"),
    ],
)
def test_what_is_no_text_for_a_model_is_refused_in_words(ids, words):
    look_like_ids(torch.ones(1, 4), 4)
    with pytest.raises(ValueError, match=re.escape(words)):
        look_like_ids(ids, 4)
