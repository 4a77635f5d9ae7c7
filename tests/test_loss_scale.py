import pytest
import torch
from torch import nn

from minigpt.loss_scale import FIRST, LARGEST, PATIENCE, LossScale


class Step(nn.Module):
    """A loss of which the gradient is `slope`, by way of `dtype`."""

    def __init__(self, slope, dtype=torch.float16):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.slope, self.dtype = slope, dtype

    def forward(self):
        # The slope is only ever met in the low precision: as of an activation.
        return (self.weight.to(self.dtype).float() * self.slope), torch.tensor(1)


def test_a_gradient_below_the_smallest_number_of_fp16_is_kept():
    lost, kept = Step(1e-8), Step(1e-8)
    LossScale(kept)
    for step in (lost, kept):
        loss, count = step()
        assert (loss.item(), count) == (pytest.approx(1e-8), 1)
        loss.backward()
    assert lost.weight.grad == 0
    assert kept.weight.grad.item() == pytest.approx(1e-8, rel=1e-3)


def test_micro_batches_add_up():
    step = Step(0.25)
    LossScale(step)
    for _ in range(3):
        step()[0].backward()
    assert step.weight.grad == 0.75


def test_it_halves_after_an_overflow_and_doubles_after_many_sound_updates():
    step = Step(1.0)
    scale = LossScale(step)
    no, yes = torch.tensor(False), torch.tensor(True)
    assert scale.update(yes)
    assert scale.factor == FIRST / 2
    for _ in range(PATIENCE - 1):
        assert not scale.update(no)
    assert scale.factor == FIRST / 2
    scale.update(no)
    assert scale.factor == FIRST
    assert scale.sound == 0
    for _ in range(10):
        for _ in range(PATIENCE):
            scale.update(no)
    assert scale.factor == LARGEST


def test_at_one_a_smaller_factor_cannot_help():
    scale = LossScale(Step(1.0))
    told = [bool(scale.update(torch.tensor(True))) for _ in range(20)]
    assert told == [True] * 16 + [False] * 4
    assert scale.factor == 1


def test_it_goes_on_from_what_was_kept():
    scale, other = LossScale(Step(1.0)), LossScale(Step(1.0))
    scale.update(torch.tensor(True))
    scale.update(torch.tensor(False))
    other.restore(scale.state())
    assert other.state() == scale.state() == {"factor": FIRST / 2, "sound": 1}
