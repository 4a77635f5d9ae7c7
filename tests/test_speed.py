import doctest

import pytest
import torch

from minigpt import loss, speed
from minigpt.config import RunConfig, TrainConfig, build, preset_layer
from minigpt.model.size import parameter_count, training_flops_per_token, with_vocabulary
from minigpt.runtime import Runtime
from minigpt.speed import Parts, Portion, Speed, choose_portion, costs_from, extrapolate, try_out

from .conftest import tiny
from .test_pretrain import changed

CPU = Runtime(torch.device("cpu"), "fp32")
LAPTOP = 150e9  # floating-point operations per second
SMALL = RunConfig(
    model=tiny().resolve(), train=TrainConfig(batch_size=6, micro_batch_size=2, device="cpu")
)


def preset(name: str, ids: int, **sections) -> RunConfig:
    config = build([preset_layer(name), ("the test", sections)])
    return changed(config, model={"vocab_size": with_vocabulary(config.model, ids).vocab_size})


def resolved(config: RunConfig) -> RunConfig:
    return RunConfig(
        model=config.model.resolve(), data=config.data, optim=config.optim, train=config.train
    )


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(speed) == (0, 2)


@pytest.mark.parametrize(
    ("name", "ids", "portion"),
    [
        ("demo", 512, Portion((2,), 16, 1)),
        ("shakespeare-cpu", 66, Portion((4,), 12, 1)),
        ("gpt2-124m", 50257, Portion((1, 4), 1, 1)),
    ],
)
def test_as_much_is_tried_as_a_few_seconds_allow(name, ids, portion):
    assert choose_portion(resolved(preset(name, ids)), LAPTOP) == portion


def test_a_step_of_many_micro_batches_is_tried_as_one_of_some_sequences():
    config = resolved(preset("shakespeare-char", 66))
    portion = choose_portion(config, LAPTOP)
    assert portion.layers == (6,)
    assert 1 < portion.sequences < config.train.batch_size
    assert choose_portion(config, 1e15) == Portion((6,), 64, 1)


def test_a_machine_that_is_far_too_slow_tries_nothing():
    assert choose_portion(resolved(preset("gpt2-124m", 50257)), 1e9) is None


def test_logits_are_chunked_in_the_trial_as_in_the_run(monkeypatch):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 29 * 12 * 3)  # of three sequences
    config = changed(SMALL, train={"batch_size": 64, "micro_batch_size": 0})
    monkeypatch.setattr(speed, "expected_seconds", lambda config, sequences, *_: sequences * 0.6)
    assert choose_portion(config, LAPTOP) == Portion((2,), 4, 1)
    few = changed(config, train={"batch_size": 3})
    assert choose_portion(few, LAPTOP) == Portion((2,), 1, 1)


def test_the_settings_of_a_portion_are_smaller_ones():
    config = changed(SMALL, model={"n_layer": 12}, train={"compile": "on"})
    first, second = Portion((1, 3), 2, 1).within(config)
    assert [first.model.n_layer, second.model.n_layer] == [1, 3]
    assert (first.train.batch_size, first.train.micro_batch_size) == (2, 2)
    assert first.train.compile == "off"
    said = Portion((1, 3), 2, 1).describe(config)
    assert said.startswith("2 of 6 sequences, in 1 and in 3 of 12 blocks")
    assert said.endswith("; the rest in proportion; not compiled")
    assert Portion((12,), 2, 3).describe(config) == "whole steps; not compiled"
    eager = changed(config, train={"compile": False})
    assert Portion((12,), 2, 3).describe(eager) == "whole steps"
    assert Portion((12,), 1, 1).describe(eager).startswith("1 of 6 sequences;")


def test_noise_makes_no_block_take_less_than_nothing():
    few, more = Parts(2.0, 1.0, 0.5, 0.1), Parts(1.9, 1.2, 0.7, 0.1)
    assert extrapolate((1, 2), [few, more], 4) == Parts(
        2.0, pytest.approx(1.6), pytest.approx(1.1), 0.1
    )
    assert extrapolate((4,), [few], 4) == few


@pytest.mark.parametrize(("optimizer", "numbers"), [("adamw", 3), ("muon", 2)])
def test_costs_follow_from_the_parts(optimizer, numbers):
    config = changed(
        SMALL,
        model={"vocab_size": 1, "block_size": 10, "n_embd": 64, "n_layer": 50},
        optim={"name": optimizer},
        train={"eval_tokens": 1000},
        sample={"max_tokens": 30, "num_samples": 2},
    )
    parts = Parts(passes=0.5, optimizer=2.0, forward=0.1, token=0.01)
    costs = costs_from(parts, config, 1e-9, held_out=0)
    assert costs.update == 6 * 0.5 + 2.0
    assert costs.evaluation == pytest.approx(100 * 0.1)
    assert costs.sample == pytest.approx(60 * 0.01)
    parameters = parameter_count(config.model)
    assert costs.publishing == pytest.approx(4e-9 * parameters)
    assert costs.checkpoint == pytest.approx(4e-9 * parameters * numbers, rel=0.01)
    assert costs_from(parts, config, 1e-9, held_out=200).evaluation == pytest.approx(2.0)


def test_an_estimate_counts_what_is_multiplied():
    config = changed(SMALL, train={"recompute": False})
    flops = training_flops_per_token(config.model) * 6 * 12
    found = speed.expected_seconds(config, 6, 2, 1e6)
    assert found == pytest.approx(1.6 * flops / 1e6, rel=0.01)
    again = speed.expected_seconds(changed(config, train={"recompute": True}), 6, 2, 1e6)
    assert again == pytest.approx(4 / 3 * found, rel=0.01)
    assert speed.expected_seconds(changed(config, optim={"name": "muon"}), 6, 2, 1e6) > found


@pytest.mark.parametrize("portion", [Portion((2,), 2, 3), Portion((1, 2), 1, 1)])
def test_a_trial_finds_every_cost(tmp_path, monkeypatch, portion):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "REPEATING_SECONDS", 0.05)
    monkeypatch.setattr(speed, "choose_portion", lambda config, rate: portion)
    found = try_out(changed(SMALL, model={"n_layer": 2}), CPU)
    assert isinstance(found, Speed)
    assert found.costs.update > 0
    assert found.costs.evaluation > 0
    assert found.costs.sample > 0
    assert found.costs.checkpoint > found.costs.publishing > 0
    assert list(tmp_path.iterdir()) == []


def test_a_slow_first_trial_is_followed_by_a_smaller_second_one(monkeypatch):
    tried = []

    def slow(config: RunConfig, *_: object) -> Parts:
        tried.append(config.model.n_layer)
        return Parts(1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(speed, "_try", slow)
    monkeypatch.setattr(speed, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(speed, "choose_portion", lambda config, rate: Portion((1, 4), 1, 1))
    found = try_out(changed(SMALL, model={"n_layer": 12}), CPU)
    assert tried == [1, 2]
    assert "in 1 and in 2 of 12 blocks" in found.tried


def test_where_nothing_can_be_tried_there_is_a_floor(monkeypatch):
    monkeypatch.setattr(speed, "choose_portion", lambda config, rate: None)
    monkeypatch.setattr(speed, "flops_per_second", lambda runtime: 1e6)
    flops = training_flops_per_token(SMALL.model) * 6 * 12
    assert try_out(SMALL, CPU) == flops / 1e6
