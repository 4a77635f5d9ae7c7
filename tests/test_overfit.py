import math

import pytest

from minigpt.data.prepare import prepare
from minigpt.overfit import MOST_STEPS, WANTED, describe_start, diagnose, one_batch, overfit

from .conftest import SWITCHES
from .test_pretrain import changed


@pytest.fixture
def said():
    return []


def test_one_batch_is_learnt_by_heart_from_ln_v_and_nothing_is_written(
    small_config, tmp_path, monkeypatch, said
):
    monkeypatch.chdir(tmp_path)
    found = overfit(small_config, said.append)
    assert found["learnt"]
    assert found["last_loss"] < WANTED
    assert found["first_loss"] == pytest.approx(found["ln_v"], rel=0.1)
    assert found["steps"] < MOST_STEPS
    assert any("a model that knows nothing has ln" in line for line in said)
    assert not any("warning" in line for line in said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "own: gate"])
def test_every_kind_of_model_learns_it(name, small_config, said):
    shape = {"n_head": 4, "n_embd": 32, **SWITCHES[name]}
    assert overfit(changed(small_config, model=shape), said.append)["learnt"]


def test_the_batch_is_small_whatever_the_settings(small_config):
    config = changed(small_config, model={"block_size": 500}, train={"batch_size": 64})
    (batch,) = one_batch(config, prepare(config.data, print))
    assert batch.ids.shape == (4, 64)


@pytest.mark.parametrize(
    ("lr", "words"), [(0.0, "It stands still"), (1e-5, "It is still falling|It stands still")]
)
def test_a_learning_rate_that_cannot_work_is_diagnosed(lr, words, small_config, said, monkeypatch):
    monkeypatch.setattr("minigpt.overfit.MOST_STEPS", 40)
    found = overfit(changed(small_config, optim={"lr": lr}), said.append)
    assert not found["learnt"]
    assert any(part in found["diagnosis"] for part in words.split("|"))


def test_targets_that_do_not_follow_are_diagnosed(small_config, said, monkeypatch):
    """The same window four times, with other targets: nothing can tell which of them is meant."""
    monkeypatch.setattr("minigpt.overfit.MOST_STEPS", 150)
    from minigpt import overfit as module

    whole = module.one_batch

    def contradictory(config, tokens):
        (batch,) = whole(config, tokens)
        batch.ids[:] = batch.ids[:1]
        return [batch]

    monkeypatch.setattr(module, "one_batch", contradictory)
    found = overfit(small_config, said.append)
    assert not found["learnt"]
    assert "come to rest above: targets that do not follow" in found["diagnosis"]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([4.0, 2.0, 0.04], "learnt by heart: loss 0.0400 after 2 steps"),
        ([4.0, math.inf], "It diverged"),
        ([4.0, math.nan], "It diverged"),
        ([4.0] * 50, "It stands still"),
        (
            [4.0, 3.0, 5.0, 6.0, 4.5],
            "It does not stay down: optim.lr = 1 is too high; try optim.lr = 0.1",
        ),
        ([4.0 - i / 100 for i in range(200)], "It is still falling: optim.lr = 1 is low"),
        ([4.0] + [1.0] * 50, "come to rest above"),
    ],
)
def test_losses_are_told_apart(losses, words):
    assert words in diagnose(losses, {"optim.lr": 1.0})


def test_a_run_by_muon_is_told_of_both_learning_rates(small_config, said, monkeypatch):
    monkeypatch.setattr("minigpt.overfit.MOST_STEPS", 30)
    optim = {"name": "muon", "lr": 1e-5, "muon_lr": 1e-4}
    found = overfit(changed(small_config, optim=optim), said.append)
    both = "optim.lr = 1e-05 and optim.muon_lr = 0.0001"
    assert f"{both} are" in found["diagnosis"]
    assert any(line.endswith(both) for line in said)
    rates = {"optim.lr": 1.0, "optim.muon_lr": 2.0}
    assert "try optim.lr = 0.1 and optim.muon_lr = 0.2" in diagnose([4, 3, 5, 6, 4.5], rates)


def test_a_first_loss_far_from_ln_v_is_warned_of():
    assert "warning" not in describe_start(math.log(65) * 1.09, 65)
    assert "warning: that is 12% off" in describe_start(math.log(65) * 1.12, 65)
    assert "warning: that is 50% off" in describe_start(math.log(65) * 0.5, 65)
