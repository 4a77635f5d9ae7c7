import math

import pytest
import torch

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


def test_frozen_blocks_have_not_moved_and_broken_weights_show():
    model = GPT(tiny())
    ratio = UpdateRatio(model.blocks)
    model.blocks[0].requires_grad_(False)
    ratio.remember()
    model.blocks[1].mlp.up.weight.data[0, 0] = math.nan
    frozen, broken = ratio.measure()
    assert frozen == 0.0
    assert math.isnan(broken)
