"""How the processes of a run meet."""

import os

import pytest
import torch

from minigpt import meeting
from minigpt.errors import RunError, UserError
from minigpt.meeting import join, launch, restarts

CPU = torch.device("cpu")
WHOLE = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - {"WORLD_SIZE"}))
def test_an_environment_that_is_not_whole_is_refused(environment, name):
    environment.delenv(name)
    with pytest.raises(UserError, match=rf"not all that torchrun sets beside it \('{name}'\)"):
        join(CPU)


def test_a_rank_that_is_no_number_is_refused(environment):
    environment.setenv("RANK", "first")
    with pytest.raises(UserError, match="'first'"):
        join(CPU)


def test_several_processes_on_one_named_gpu_or_on_mps_are_refused(environment):
    with pytest.raises(UserError, match=r"train.device is cuda:1, .*; pass cuda"):
        join(torch.device("cuda:1"))
    with pytest.raises(UserError, match=r"several processes train on cpu or cuda, not on mps"):
        join(torch.device("mps"))


def test_more_processes_than_gpus_are_refused(environment):
    environment.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes were started on this host, which has 1 GPUs"):
        join(torch.device("cuda"))


def test_without_world_size_a_process_is_alone(environment):
    environment.delenv("WORLD_SIZE")
    assert join(CPU).size == 1
    environment.setenv("WORLD_SIZE", "1")
    assert join(CPU).size == 1


def test_who_never_comes_is_not_waited_for_longer_than_minutes(environment):
    environment.setattr(meeting, "MEETING_WAIT", meeting.datetime.timedelta(seconds=0.3))
    environment.setenv("MASTER_PORT", "0")
    with pytest.raises(RunError, match="not all of the 2 processes have come within"):
        join(CPU)


def test_one_call_of_torchrun_is_told_from_another(monkeypatch):
    for name in ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (launch(), restarts()) == ("", 0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert (launch(), restarts()) == ("job-7", 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launch() == f"process {os.getppid()}"
