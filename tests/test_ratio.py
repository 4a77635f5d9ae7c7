import pytest
import torch
from torch import nn

from minigpt.model.transformer import GPT
from minigpt.optim.ratio import UpdateRatio

from .conftest import tiny


@torch.no_grad()
def test_the_ratio_is_the_norm_of_the_change_over_the_norm_before():
    model = GPT(tiny(bias=True))
    ratio = UpdateRatio(model.blocks)
    ratio.remember()
    for parameter in model.blocks[0].parameters():
        parameter.mul_(1.01)
    for parameter in model.blocks[1].parameters():
        if parameter.dim() == 1:
            parameter.add_(5.0)  # gains and biases are not counted
    assert ratio.measure() == [pytest.approx(0.01, rel=1e-3), 0.0]


def test_it_measures_once_what_it_remembered():
    ratio = UpdateRatio(GPT(tiny()).blocks)
    assert ratio.measure() is None
    ratio.remember()
    assert ratio.measure() == [0.0, 0.0]
    assert ratio.measure() is None


def test_frozen_blocks_have_not_moved():
    model = GPT(tiny())
    ratio = UpdateRatio(model.blocks)
    model.blocks[0].requires_grad_(False)
    ratio.remember()
    model.blocks[1].mlp.up.weight.data[0, 0] += 1.0
    frozen, moved = ratio.measure()
    assert frozen == 0.0 < moved


def test_an_update_that_did_not_come_or_broke_the_weights_has_no_ratio():
    blocks = nn.ModuleList([nn.Linear(3, 3)])
    ratio = UpdateRatio(blocks)
    ratio.remember()
    ratio.forget()
    assert ratio.measure() is None
    ratio.remember()
    nn.init.constant_(blocks[0].weight, float("nan"))
    assert ratio.measure() is None
