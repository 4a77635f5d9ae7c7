import doctest
import re

import torch

from minigpt.config import LoraConfig
from minigpt.data.batches import Batch
from minigpt.finetune import costs
from minigpt.finetune.costs import seconds_beside, trained_share
from minigpt.finetune.lora import swap_in
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT

from .conftest import tiny


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(costs) == (0, 2)


def made():
    model = GPT(tiny())
    whole = sum(p.numel() for p in model.parameters())
    step = TrainStep(swap_in(model, LoraConfig(rank=2, targets="attention")))
    return step, whole


def test_numbers_and_bytes_are_those_of_the_tensors():
    step, whole = made()
    adapter = 2 * 4 * (32 * 2 + 2 * 32)  # layers, matrices, A and B
    said = trained_share(step)
    assert said.startswith(f"{adapter:,} numbers are trained beside {whole:,} that stay")
    with_adapter, with_all = (float(n) for n in re.findall(r"take ([\d.]+) MB", said))
    assert abs(with_adapter - (4 * whole + 16 * adapter) / 1e6) < 0.01
    assert abs(with_all - 16 * whole / 1e6) < 0.01


def test_a_trial_leaves_everything_as_it_was():
    step, _ = made()
    ids = torch.randint(0, 29, (2, 12))
    before = {name: p.detach().clone() for name, p in step.named_parameters()}
    trained = {name for name, p in step.named_parameters() if p.requires_grad}
    said = seconds_beside(step, Batch(ids, ids))
    assert re.fullmatch(
        r"a pass forward and backward over 2 rows takes [\d.]+ m?s, for all weights it would take [\d.]+ m?s",
        said,
    )
    assert {name for name, p in step.named_parameters() if p.requires_grad} == trained
    assert all(p.grad is None for p in step.parameters())
    assert all(torch.equal(p, before[name]) for name, p in step.named_parameters())


def test_gradients_that_would_take_too_much_are_not_tried(monkeypatch):
    step, _ = made()
    monkeypatch.setattr(costs, "LARGEST", 1000)
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert seconds_beside(step, Batch(ids, ids)) is None
