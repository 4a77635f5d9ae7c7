import torch
from torch import nn

from minigpt.learn.rules import Check, check, drawn, filled, names_and_shapes


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
