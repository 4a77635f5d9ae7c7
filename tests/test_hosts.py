"""Two network namespaces of this machine as two hosts, each with a torchrun of its own: one run, and its loss."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import minigpt
from minigpt.config import OptimConfig
from minigpt.rundir import RunDir

from .conftest import small_run

STEPS = 50
LONG = 20_000  # steps that nobody waits for
EQUAL_WITHIN = 1e-5  # nats
SOON = 180  # seconds for whatever should take ten
# What machines need whose names lead nowhere.
BY_ADDRESS = {
    "a": "--rdzv-endpoint 10.77.0.1:29400 --rdzv-conf is_host=1 --local-addr 10.77.0.1",
    "b": "--rdzv-endpoint 10.77.0.1:29400 --rdzv-conf is_host=0 --local-addr 10.77.0.2",
}
BY_NAME = dict.fromkeys("ab", "--rdzv-endpoint host-a:29400")
NAMES = "127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n"


def ip(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=SOON)


class Hosts:
    """Two hosts, a and b, with a cable between them and nothing else; each has a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.space = {name: f"minigpt-{os.getpid()}-{name}" for name in "ab"}
        self.started: list[subprocess.Popen] = []
        (folder / "hosts").write_text(NAMES)

    def make(self) -> str:
        """Make them and return an empty string, or return why that is not allowed here."""
        a, b = self.space.values()
        ways = [("netns", "add", a), ("netns", "add", b)]
        ways.append(tuple(f"link add lan0 netns {a} type veth peer name lan0 netns {b}".split()))
        for number, space in enumerate((a, b), 1):
            ways.append(("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "lan0"))
            ways.extend(("-n", space, "link", "set", link, "up") for link in ("lan0", "lo"))
        for way in ways:
            done = ip(*way)
            if done.returncode:
                return f"ip {' '.join(way)}: {done.stderr.strip()}"
        return ""

    def torchrun(
        self, host: str, processes: int, meeting: dict[str, str], *words: str, cwd: Path
    ) -> subprocess.Popen:
        """Start torchrun with `-m minigpt train` on a host; its output goes to a file named after the host."""
        environment = os.environ | {
            "MINIGPT_CACHE": str(self.folder / f"cache-{host}"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(minigpt.__file__).parent.parent),
        }
        if meeting is BY_ADDRESS:
            environment["GLOO_SOCKET_IFNAME"] = "lan0"
        named = f'mount --bind {self.folder}/hosts /etc/hosts && hostname host-{host} && exec "$@"'
        inside = ["ip", "netns", "exec", self.space[host], "unshare", "--uts", "sh", "-c"]
        inside += [named if meeting is BY_NAME else 'exec "$@"', "sh"]
        run = f"-m torch.distributed.run --nnodes 2 --nproc-per-node {processes} --rdzv-backend c10d --rdzv-id test"
        arguments = [sys.executable, *run.split(), *meeting[host].split()]
        with (cwd / f"{host}.log").open("w") as log:
            process = subprocess.Popen(
                [*inside, *arguments, "-m", "minigpt", "train", *words],
                stdout=log, stderr=log, cwd=cwd, env=environment,
            )  # fmt: skip
        self.started.append(process)
        return process

    def switch_off(self, host: str) -> None:
        """Kill every process of a host."""
        for pid in ip("netns", "pids", self.space[host]).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        """Leave nothing behind."""
        for host, space in self.space.items():
            self.switch_off(host)
            ip("netns", "delete", space)
        for process in self.started:
            process.wait()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Return two hosts; where there is no `ip` a test skips, but not in CI, and where they cannot be made, anywhere."""
    if "CI" not in os.environ and shutil.which("ip") is None:
        pytest.skip("needs the command ip (apt-get install iproute2)")
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        if refused := made.make():
            pytest.skip(f"network namespaces cannot be made here ({refused})")
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def one(small_text, tmp_path_factory):
    """Return the run of one process; its run.toml has the settings of all."""
    config = small_run(small_text, dropout=0.0)
    optim = OptimConfig(warmup_steps=5, schedule="constant")  # then it does not matter how long
    train = dataclasses.replace(
        config.train, steps=STEPS, batch_size=16, micro_batch_size=4, log_every=1, eval_every=25, checkpoint_every=20,
    )  # fmt: skip
    config = dataclasses.replace(config, optim=optim, train=train)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each process of the others has
    out = minigpt.train(config, tmp_path_factory.mktemp("one") / "run")
    torch.set_num_threads(threads)
    return out


def ended(*processes: subprocess.Popen) -> list[int]:
    return [process.wait(SOON) for process in processes]


def compare(one: Path, other: Path) -> None:
    rows = list(zip(RunDir(one).metrics, RunDir(other).metrics, strict=False))
    assert len(rows) == STEPS + 1
    for row, found in rows:
        assert row["tokens"] == found["tokens"]
        for key in {"train_loss", "val_loss"} & row.keys():
            assert abs(row[key] - found[key]) <= EQUAL_WITHIN, row["step"]
    assert rows[-1][0]["train_loss"] < rows[1][0]["train_loss"] - 0.2  # it has learnt something


@pytest.mark.slow
def test_two_hosts_that_know_their_names_train_as_one_process(hosts, one, tmp_path):
    """Each holds a copy of the model, in two parts."""
    words = ["--config", f"{one}/run.toml", "--out", "run", "--train.parallel", "hsdp"]
    both = [hosts.torchrun(host, 2, BY_NAME, *words, cwd=tmp_path) for host in "ab"]
    assert ended(*both) == [0, 0], (tmp_path / "a.log").read_text()
    said = (tmp_path / "run" / "train.log").read_text()
    assert "by 4 processes (hsdp), each 4 sequences of a step: 1 micro-batch of 4; 2 hosts" in said
    compare(one, tmp_path / "run")
    wanted, found = (
        safetensors.torch.load_file(run / "model.safetensors") for run in (one, tmp_path / "run")
    )
    assert wanted.keys() == found.keys()
    assert all((found[name] - wanted[name]).abs().max() <= 1e-4 for name in wanted)
    assert all((hosts.folder / f"cache-{host}").is_dir() for host in "ab")


@pytest.mark.slow
def test_a_lost_host_ends_the_run_at_once_and_keeps_its_checkpoint(hosts, one, tmp_path):
    """Up to there it is the run of one process, with ddp between hosts that have nothing but addresses."""
    run = RunDir(tmp_path / "run")
    words = ["--config", f"{one}/run.toml", "--train.steps", str(LONG), "--out", "run"]
    a, b = (hosts.torchrun(host, 1, BY_ADDRESS, *words, cwd=tmp_path) for host in "ab")
    deadline = time.monotonic() + SOON
    while not (run.path / "metrics.jsonl").exists() or len(run.metrics) <= STEPS:
        assert a.poll() is None, (tmp_path / "a.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    hosts.switch_off("b")
    began = time.monotonic()
    assert ended(a, b) == [1, -signal.SIGKILL]
    assert time.monotonic() - began < 20
    said = (tmp_path / "a.log").read_text()
    assert "minigpt: lost another of the 2 processes" in said
    assert "goes on from its last checkpoint with the same command" in said
    assert "(ddp)" in said
    checkpoint, skipped = run.newest_whole()
    assert checkpoint is not None
    assert not skipped
    rows = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)[: STEPS + 1]
    (run.path / "metrics.jsonl").write_text("".join(rows))
    compare(one, run.path)


@pytest.mark.slow
def test_a_run_directory_that_the_second_host_does_not_see_is_refused(hosts, one, tmp_path):
    """The same relative path leads elsewhere there."""
    words = ["--config", f"{one}/run.toml", "--out", "run"]
    folders = {host: tmp_path / host for host in "ab"}
    for folder in folders.values():
        folder.mkdir()
    both = [
        hosts.torchrun(host, 1, BY_ADDRESS, *words, cwd=folder) for host, folder in folders.items()
    ]
    assert ended(*both) == [1, 1]
    said = (folders["b"] / "b.log").read_text()
    sentence = "minigpt: rank 1: the run directory run is not seen on the host of process 1; put --out on storage"
    assert sentence in said
    assert not (folders["b"] / "run").exists()
