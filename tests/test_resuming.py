import dataclasses

import pytest

from minigpt import config as settings
from minigpt.config import OptimConfig, RunConfig, TrainConfig
from minigpt.errors import UserError
from minigpt.resuming import (
    are_safely_more_steps,
    other_circumstances,
    serious_changes,
    settings_to_resume,
)

RESOLVED = RunConfig(train=TrainConfig(steps=100, dtype="fp32", device="cpu", compile="off"))
STATE = {
    "config": settings.to_dict(RESOLVED),
    "requested": settings.to_dict(RunConfig(train=TrainConfig(steps=100))),
    "progress": {"step": 40},
}


def asked(**train):
    return RunConfig(train=TrainConfig(**{"steps": 100, **train}))


def test_what_was_left_open_stays_decided():
    assert settings_to_resume(asked(), STATE, override=False) == RESOLVED


@pytest.mark.parametrize(
    "changed", [{"parallel": "fsdp"}, {"shard_size": 4}, {"keep": 9}, {"checkpoint_every": 7}]
)
def test_what_cannot_matter_may_change(changed):
    resumed = settings_to_resume(asked(**changed), STATE, override=False)
    assert resumed.train == dataclasses.replace(RESOLVED.train, **changed)


def test_what_matters_is_refused_with_the_difference():
    with pytest.raises(
        UserError, match=r"train.batch_size was 32, now 64. Restore them, pass --override"
    ):
        settings_to_resume(asked(batch_size=64), STATE, override=False)
    assert settings_to_resume(asked(batch_size=64), STATE, override=True).train.batch_size == 64


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_settings_of_muon_matter_to_muon(name):
    config = RunConfig(optim=OptimConfig(name=name))
    changed = {"optim.momentum": (0.9, 0.95), "optim.lr": (1, 2), "log.to": ("", "wandb")}
    wanted = {"adamw": {"optim.lr"}, "muon": {"optim.lr", "optim.momentum"}}
    assert serious_changes(changed, config).keys() == wanted[name]


@pytest.mark.parametrize(
    ("schedule", "step", "safe"),
    [("constant", 99, True), ("wsd", 80, True), ("wsd", 81, False), ("cosine", 1, False)],
)
def test_a_run_becomes_longer_where_the_rate_has_not_begun_to_fall(schedule, step, safe):
    config = RunConfig(optim=OptimConfig(schedule=schedule))
    assert are_safely_more_steps(config, {"train.steps": (100, 200)}, step) == safe
    assert not are_safely_more_steps(config, {"train.steps": (100, 90)}, step)


def test_another_number_of_processes_is_another_circumstance():
    before = {"torch": "2.13", "threads": 2, "dtype": "fp32"}  # of an older release
    now = before | {"processes": 1, "parallel": "none", "dtype": "bf16"}
    assert other_circumstances(before, now) == []
    now |= {"processes": 4, "parallel": "ddp"}
    assert other_circumstances(before, now) == [
        "processes was 1, is 4",
        "parallel was none, is ddp",
    ]
