"""The promise that a run survives `kill -9`, a full disk and a second process bit for bit, kept with real processes."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minigpt.config import to_toml
from minigpt.rundir import RunDir

from . import warm
from .test_pretrain import changed, outcome

ONE_THREAD, TWO_THREADS = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}


def start(settings, out, *more: str) -> warm.Command:
    """Begin a run in a forked process, with one thread."""
    return warm.Command("train", "--config", settings, "--out", out, *more)


def start_cold(settings, out, **environment: str) -> subprocess.Popen:
    """Begin a run as a person does."""
    command = [sys.executable, "-m", "minigpt", "train", "--config", settings, "--out", out]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def finish(process: subprocess.Popen | warm.Command) -> str:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def lines(out) -> int:
    file = out / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def kill_after(
    process: subprocess.Popen | warm.Command, out, more_lines: int, then_seconds: float
) -> None:
    """Kill -9 once the run has logged some lines more, and a moment later; anywhere, a save included."""
    wanted, deadline = lines(out) + more_lines, time.monotonic() + 300
    while lines(out) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(then_seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def killed_often(settings, folder, seed: int) -> list[int]:
    """Train undisturbed, and once more with twenty kills; return the last step that was logged at each kill."""
    rng, killed_at, out = random.Random(seed), [], folder / "killed"
    finish(start_cold(settings, folder / "whole", **ONE_THREAD))
    for number in range(20):
        process = start(settings, out)
        if number % 5 == 4:  # while it is starting, most likely
            kill_after(process, out, 0, rng.uniform(0, 0.3))
        else:
            kill_after(process, out, rng.randint(0, 6), rng.uniform(0, 0.05))
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        killed_at.append(RunDir(out).metrics[-1]["step"] if lines(out) else -1)
    err = finish(start_cold(settings, out, **ONE_THREAD))
    assert "going on from step" in err
    return killed_at


@pytest.mark.slow
def test_twenty_kills_at_random_moments_and_then_equal_hashes(small_config, tmp_path):
    """With dropout, accumulation, evaluations, samples and several epochs; AdamW and Muon side by side."""
    seeds = {name: random.randrange(2**32) for name in ("adamw", "muon")}
    print("seeds of the kills:", seeds)
    for name in seeds:
        config = changed(
            small_config,
            train={"steps": 200, "checkpoint_every": 5, "eval_every": 10, "log_every": 1},
            model={"dropout": 0.2},
            optim={"name": name},
        )
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.toml").write_text(to_toml(config))
    with ThreadPoolExecutor() as pool:
        killed_at = pool.map(
            lambda name: killed_often(tmp_path / name / "run.toml", tmp_path / name, seeds[name]),
            seeds,
        )
        print("killed after the steps:", list(killed_at))
    for name in seeds:
        assert outcome(tmp_path / name / "killed") == outcome(tmp_path / name / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs a Linux that forks")
@pytest.mark.parametrize(
    ("optim", "patience", "end", "kills"),
    [({}, 0, 200, 20), ({"name": "muon"}, 0, 200, 10), ({"lr": 0.0}, 15, 150, 12)],
    ids=["adamw", "muon", "patience"],
)
def test_killed_just_before_any_change_of_a_file(
    small_config, tmp_path, optim, patience, end, kills
):
    """At the beginning, while saving, publishing, logging, drawing the report and clearing up."""
    config = changed(
        small_config,
        optim=optim,
        train={"steps": 200, "patience": patience, "checkpoint_every": 7, "eval_every": 10},
    )
    (tmp_path / "run.toml").write_text(to_toml(config))
    seed, out = random.randrange(2**32), tmp_path / "killed"
    print("seed of the kills:", seed)
    command = [sys.executable, "-m", "tests.killing", tmp_path / "run.toml", out, seed, kills]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | ONE_THREAD,
        cwd=Path(__file__).parent.parent,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert outcome(out) == outcome(tmp_path / "killed-whole")
    assert outcome(out)[0] == f"step-{end:08d}"


@pytest.mark.slow
def test_a_compiled_run_that_is_killed_is_bit_for_bit_the_undisturbed_one(small_config, tmp_path):
    config = changed(
        small_config,
        # Two micro-batches in a step; the evaluations between are not compiled.
        train={"micro_batch_size": 2, "batch_size": 4, "eval_tokens": 480, "compile": "on"}
        | {"steps": 12, "checkpoint_every": 5, "log_every": 1},
        model={"n_layer": 1, "dropout": 0.2},
    )
    (tmp_path / "run.toml").write_text(to_toml(config))
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    finish(start_cold(tmp_path / "run.toml", tmp_path / "whole", **cache))
    killed = start_cold(tmp_path / "run.toml", tmp_path / "killed", **cache)
    kill_after(killed, tmp_path / "killed", 8, 0.0)
    assert killed.returncode == -signal.SIGKILL
    err = finish(start_cold(tmp_path / "run.toml", tmp_path / "killed", **cache))
    assert "going on from step" in err
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_with_fewer_threads_a_run_goes_on_and_says_that_it_is_no_longer_the_same(
    small_config, tmp_path
):
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    killed = start_cold(tmp_path / "run.toml", tmp_path / "run", **TWO_THREADS)
    kill_after(killed, tmp_path / "run", 3, 0.0)
    assert killed.returncode == -signal.SIGKILL
    err = finish(start(tmp_path / "run.toml", tmp_path / "run"))
    assert "(threads was 2, is 1): it goes on, but no longer bit for bit" in err


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_it_begins_again(small_config, tmp_path):
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    finish(start_cold(tmp_path / "run.toml", tmp_path / "whole", **TWO_THREADS))
    process = start_cold(tmp_path / "run.toml", tmp_path / "killed", **TWO_THREADS)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "run.toml").is_file() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finish(start_cold(tmp_path / "run.toml", tmp_path / "killed", **TWO_THREADS))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def wait_for(condition, process: subprocess.Popen | warm.Command) -> None:
    deadline = time.monotonic() + 300
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
        second = start(tmp_path / "run.toml", out, *more)
        _, err = second.communicate(timeout=300)
        assert second.returncode == 2, err
        assert err.startswith(f"minigpt: {out} is in use by process {first.pid} on ")
        assert err.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    finish(start(tmp_path / "run.toml", out))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    assert outcome(out) == outcome(tmp_path / "whole")


def assert_stopped_for_lack_of_room(process: warm.Command, out, reason: str) -> None:
    """Look at a run whose second checkpoint did not fit, and whose first one did."""
    _, err = process.communicate(timeout=300)
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


def files_stay_small() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (55_000, 55_000))


@pytest.mark.slow
def test_a_file_that_cannot_grow_stops_the_run_and_costs_no_checkpoint(small_config, tmp_path):
    """The first checkpoint has no optimiser yet, and fits; the second one's optimiser is larger than a file may be."""
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    finish(start(tmp_path / "run.toml", tmp_path / "whole"))
    out = tmp_path / "full"
    command = ["train", "--config", tmp_path / "run.toml", "--out", out]
    process = warm.Command(*command, before=files_stay_small)
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
