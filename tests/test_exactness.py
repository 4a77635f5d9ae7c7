"""The promise that a run survives `kill -9`, a full disk and a second process bit for bit, kept with real processes."""

import dataclasses
import os
import random
import shutil
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


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_killed(small_config, tmp_path):
    config = changed(small_config, train={"steps": 200, "checkpoint_every": 7})
    (tmp_path / "run.toml").write_text(to_toml(config))
    out = tmp_path / "run"
    first = start(tmp_path / "run.toml", out)
    wait_for(lambda: lines(out) > 0, first)
    first.send_signal(
        signal.SIGSTOP
    )  # it holds its place, and cannot end before the others have tried
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for more in ([], ["--again"]):
        command = [sys.executable, "-m", "minigpt", "train", "--config", str(tmp_path / "run.toml")]
        second = subprocess.run(
            [*command, "--out", str(out), *more], capture_output=True, text=True, timeout=90
        )
        assert second.returncode == 2, second.stderr
        assert second.stderr.startswith(f"minigpt: {out} is in use by process {first.pid} on ")
        assert second.stderr.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    finish(start(tmp_path / "run.toml", out))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    assert outcome(out) == outcome(tmp_path / "whole")


def assert_stopped_for_lack_of_room(process: subprocess.Popen, out, reason: str) -> None:
    """Look at a run whose second checkpoint did not fit, and whose first one did."""
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith(f"minigpt: the run stops at step 6, for it cannot write: {reason}")
    assert (
        "the checkpoint step-00000000 is whole: make room, and run the same command again" in last
    )
    assert "Traceback" not in err
    newest, skipped = RunDir(out).newest_whole()
    assert (newest.path.name, skipped) == ("step-00000000", [])
    assert [path.name for path in out.rglob("*.tmp")] == []
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000000"]


@pytest.mark.slow
def test_a_file_that_cannot_grow_stops_the_run_and_costs_no_checkpoint(small_config, tmp_path):
    """The first checkpoint has no optimiser yet, and fits; the second one's optimiser is larger than a file may be."""
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    limited = (
        "import resource, signal, sys; from minigpt.cli import run; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (55_000, 55_000)); sys.exit(run(0.0, sys.argv[1:]))"
    )
    out = tmp_path / "full"
    command = [sys.executable, "-c", limited, "train", "--config", str(tmp_path / "run.toml")]
    process = subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert_stopped_for_lack_of_room(process, out, "File too large")
    finish(start(tmp_path / "run.toml", out))
    assert outcome(out) == outcome(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 192 kB, and what makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None:
        pytest.skip("needs a Linux that mounts")
    command = [mount, "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    yield place, lambda: subprocess.run([mount, "-o", "remount,size=9m", str(place)], check=True)
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_costs_no_checkpoint(small_config, tmp_path, small_disk):
    place, enlarge = small_disk
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    process = start(tmp_path / "run.toml", place / "run")
    assert_stopped_for_lack_of_room(process, place / "run", "No space left on device")
    enlarge()
    finish(start(tmp_path / "run.toml", place / "run"))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    assert outcome(place / "run") == outcome(tmp_path / "whole")
