"""The promise that a run survives `kill -9` bit for bit, kept with real processes."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from minigpt.config import to_toml
from minigpt.rundir import RunDir

from .test_pretrain import changed, outcome


def start(settings, out) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "minigpt",
        "train",
        "--config",
        str(settings),
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def finish(process: subprocess.Popen) -> str:
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return err


def lines(out) -> int:
    file = out / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def kill_after(process: subprocess.Popen, out, more_lines: int, then_seconds: float) -> None:
    """Kill -9 once the run has logged some lines more, and a moment later; anywhere, a save included."""
    wanted, deadline = lines(out) + more_lines, time.monotonic() + 90
    while lines(out) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(then_seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "steps", "kills"), [("adamw", 200, 5), ("muon", 70, 2)])
def test_killed_anywhere_and_resumed_is_bit_for_bit_the_undisturbed_run(
    small_config, tmp_path, optimizer, steps, kills
):
    """Steps with dropout, accumulation, evaluations and several epochs; kills at random moments."""
    config = changed(
        small_config,
        train={"steps": steps, "checkpoint_every": 7, "eval_every": 20, "log_every": 3},
        model={"dropout": 0.2},
        optim={"name": optimizer},
    )
    (tmp_path / "run.toml").write_text(to_toml(dataclasses.replace(config)))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    rng, killed_at = random.Random(0), []
    for _ in range(kills):
        process = start(tmp_path / "run.toml", tmp_path / "killed")
        kill_after(process, tmp_path / "killed", rng.randint(1, 9), rng.random() * 0.05)
        assert process.returncode == -signal.SIGKILL
        killed_at.append(RunDir(tmp_path / "killed").metrics[-1]["step"])
    assert killed_at[-1] < steps
    err = finish(start(tmp_path / "run.toml", tmp_path / "killed"))
    assert "going on from step" in err
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_it_begins_again(small_config, tmp_path):
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    process = start(tmp_path / "run.toml", tmp_path / "killed")
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "run.toml").is_file() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finish(start(tmp_path / "run.toml", tmp_path / "killed"))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
