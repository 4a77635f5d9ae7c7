"""The file for SLURM, run by bash with an srun and an scontrol that only look like SLURM's."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minigpt
from minigpt.rundir import RunDir

FILE = Path(__file__).parent.parent / "docs" / "train.sbatch"
SOON = 60  # seconds
# One prints the command, the other becomes it, as a signal to srun is one to what it started.
PRINTING = 'printf "%s\\n" "$OMP_NUM_THREADS" "$@"'
RUNNING = 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'
SCONTROL = f"""
if [ "$1" = show ]; then
    echo {socket.gethostname()}; echo another-node
else
    echo "$@" > asked
fi
"""


@pytest.fixture
def slurm(tmp_path):
    """Return the environment of a job of one node; `make(body)` in it writes srun."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def make(srun: str, **variables: str) -> dict[str, str]:
        for name, body in {"srun": srun, "scontrol": SCONTROL}.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}\n")
            (programs / name).chmod(0o755)
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        return os.environ | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(Path(minigpt.__file__).parent.parent),
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "1",
            **variables,
        }

    return make


def test_bash_can_read_it_and_sbatch_finds_its_lines_before_the_first_command():
    assert subprocess.run(["bash", "-n", FILE]).returncode == 0
    lines = FILE.read_text().splitlines()
    command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options
    assert max(options) < command


def test_a_torchrun_is_started_on_each_node_and_meets_the_others_on_the_first(slurm, tmp_path):
    environment = slurm(
        PRINTING, SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="4", SLURM_CPUS_PER_TASK="16",
        SLURM_RESTART_COUNT="1",
    )  # fmt: skip
    words = ["--data", "my text.txt", "--out", "runs/x"]
    done = subprocess.run(
        ["bash", FILE, *words], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    threads, *found = done.stdout.splitlines()
    assert threads == "4"
    torchrun = (
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-id 1234567-1 "
        f"--rdzv-endpoint {socket.gethostname()}:24567 --max-restarts 0 -m minigpt train"
    )
    assert found == ["--kill-on-bad-exit=1", "--cpus-per-task=16", *torchrun.split(), *words]
    assert not (tmp_path / "asked").exists()  # it is finished


@pytest.mark.slow
def test_a_job_whose_time_is_up_saves_and_is_queued_again(slurm, small_text, tmp_path):
    settings = (
        "--data.tokenizer char --model.n-layer 1 --model.n-head 1 --model.n-embd 16 --model.block-size 16 "
        "--train.batch-size 8 --train.steps 100000 --train.eval-every 5000 --train.checkpoint-every 5000 "
        "--train.log-every 1 --train.dtype fp32 --train.compile off --train.device cpu"
    )
    words = ["--data", str(small_text), "--out", "run", *settings.split()]
    run = RunDir(tmp_path / "run")

    def job(restarts: int) -> None:
        rows = len(run.metrics) if restarts else 0
        environment = slurm(RUNNING, PROCESSES="2", SLURM_RESTART_COUNT=str(restarts))
        with (tmp_path / "job.log").open("a") as log:
            process = subprocess.Popen(
                ["bash", FILE, *words], env=environment, cwd=tmp_path, stdout=log, stderr=log
            )
        deadline = time.monotonic() + SOON
        while not (run.path / "metrics.jsonl").exists() or len(run.metrics) < rows + 10:
            assert process.poll() is None, (tmp_path / "job.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 1  # torchrun's, whatever its processes say

    job(0)
    said = (tmp_path / "job.log").read_text()
    assert "shared by 2 processes (ddp)" in said
    assert "it is queued again" in said
    assert (tmp_path / "asked").read_text() == "requeue 1234567\n"
    checkpoint, skipped = run.newest_whole()
    assert checkpoint is not None
    assert not skipped
    job(1)
    assert f"going on from step {checkpoint.state()['progress']['step']}" in run_log(run)


def run_log(run: RunDir) -> str:
    return (run.path / "train.log").read_text()
