import doctest

import pytest
import torch

from minigpt import needs as needing
from minigpt import plan_text
from minigpt.config import RunConfig, TrainConfig
from minigpt.needs import needs
from minigpt.plan import plan
from minigpt.plan_text import as_text
from minigpt.speed import Speed
from minigpt.trial import Costs

from .conftest import tiny
from .test_plan import preset


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(plan_text) == (0, 1)


def test_the_text_fits_a_terminal_and_holds_the_figures():
    facts = plan(preset("gpt2-124m", train={"compile": "on", "device": "cpu", "steps": 1}))
    text = as_text(facts)
    assert max(map(len, text.splitlines())) <= 80
    for figure in ("124,475,904", "73,728", "524,288", "10.83", "GPT2LMHeadModel", "448.1 TFLOP"):
        assert figure in text


def text_with_needs(monkeypatch, found, **train) -> str:
    monkeypatch.setattr(needing, "try_out", lambda *_: found)
    settings = {"steps": 100, "batch_size": 64, "micro_batch_size": 8, "device": "cpu"} | train
    config = RunConfig(model=tiny(block_size=256), train=TrainConfig(**settings))
    text = as_text(needs(config, plan(config)))
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_memory_and_time_stand_in_the_text(monkeypatch):
    costs = Costs(update=0.25, evaluation=2.0, sample=90.0, checkpoint=0.1, publishing=0.05)
    text = text_with_needs(monkeypatch, Speed("1 of 64 sequences; the rest in proportion", costs))
    assert "with recomputation" in text
    assert "This run is without recomputation; its peak is in" in " ".join(text.split())
    for line in (
        "a step                            250.0 ms", "tokens a second                     65,536",
        "sample, each                       1.5 min",
    ):  # fmt: skip
        assert line in text
    assert "1 of 64 sequences; the rest in proportion" in " ".join(text.split())
    recomputed = text_with_needs(monkeypatch, Speed("whole steps", costs), recompute=True)
    assert "This run is with recomputation" in " ".join(recomputed.split())


def test_minutes_are_told_in_steps(monkeypatch):
    costs = Costs(update=0.25, evaluation=2.0, sample=1.0, checkpoint=0.1, publishing=0.05)
    text = text_with_needs(monkeypatch, Speed("whole steps", costs), steps=0, minutes=10)
    assert "the run                           10.0 min" in text
    assert "steps in the run" in text
    assert "and a last pass over what is held out." in text


def test_what_is_not_known_is_said(monkeypatch):
    text = text_with_needs(monkeypatch, 5000.0)
    assert "time  not known: even one sequence in two blocks takes too long to try" in text
    assert "1.4 h   at least, by its products" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="has what is to be missing")
def test_a_gpu_of_another_machine_is_planned_by_stated_rates(monkeypatch):
    text = text_with_needs(monkeypatch, 0.0, device="cuda")
    assert "989 TFLOP/s x 0.4" in text
    words = " ".join(text.split())
    assert "Counted on a CPU, in the precisions of that device" in words
    assert "Stated, not measured" in words
    assert "1 process on 1 host, alone" in words


def test_what_many_processes_do_stands_in_the_text():
    config = preset("gpt2-124m", train={"parallel": "hsdp"}, optim={"name": "muon"})
    text = as_text(needs(config, plan(config, processes=64)))
    assert max(map(len, text.splitlines())) <= 80
    for line in (
        "64 processes on 8 hosts, hsdp: 8 copies of the model, each in 8",
        "in the fullest process, bytes", "gathered, with gradients", "gradients, between copies", "Muon's updates",
        "all that can is hidden", "by 8 hosts",
    ):  # fmt: skip
        assert line in text
    assert "a process that holds everything itself" in " ".join(text.split())


def test_on_cpus_no_link_has_a_rate(monkeypatch):
    costs = Costs(update=0.25, evaluation=2.0, sample=1.0, checkpoint=0.1, publishing=0.05)
    monkeypatch.setattr(needing, "try_out", lambda *_: Speed("whole steps", costs))
    train = TrainConfig(steps=100, batch_size=64, micro_batch_size=8, device="cpu")
    config = RunConfig(model=tiny(block_size=256), train=train)
    text = as_text(needs(config, plan(config, processes=2)))
    assert "measured here in one process" in text
    assert "no rate of these links is stated" in text
    assert "tokens/s, at most                   65,536" in text
    untried = as_text(needs(config, plan(config, processes=2), trial=False))
    assert "no rate of this device is stated, and none was measured" in untried
