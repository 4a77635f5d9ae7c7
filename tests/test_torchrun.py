"""Runs on several processes that are killed and stopped, started by torchrun and without it."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigpt.config import to_toml
from minigpt.rundir import RunDir

from . import warm
from .test_exactness import kill_after, lines, wait_for
from .test_pretrain import changed, without_times

pytestmark = pytest.mark.slow
SETTINGS = {
    "steps": 60,
    "checkpoint_every": 5,
    "eval_every": 20,
    "log_every": 2,
    "eval_tokens": 500,
}
SETTINGS |= {"compile": "off", "device": "cpu", "parallel": "fsdp"}
LOST = r"lost another of the 2 processes, which has ended or cannot be reached \(.*\); the run goes on from its last"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LONG = 300  # seconds for what takes ten where nothing else is done


def command(folder, out, *more: str) -> list[str]:
    settings = str(folder / "run.toml")
    return ["minigpt", "train", "--config", settings, "--out", str(folder / out), *more]


def torchrun(folder, out, *more: str, restarts: int = 0) -> subprocess.Popen:
    """Start two processes, with their output in a file each beside the run."""
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "-m"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, *command(folder, out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
    )


def by_hand(folder, out) -> list[warm.Command]:
    """Start two processes that no third one looks after."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = command(folder, out)[1:]
    return [warm.Command(*words, **common, RANK=str(n), LOCAL_RANK=str(n)) for n in range(2)]


def ended(processes: list) -> tuple[list[int], list[str], list[str]]:
    """Return the exit statuses of processes that are about to end, what each printed, and what each said."""
    texts = [process.communicate(timeout=LONG) for process in processes]
    return [process.returncode for process in processes], *map(list, zip(*texts, strict=True))


def workers(agent: subprocess.Popen) -> dict[int, int]:
    """Return the processes that torchrun has started, by rank."""
    found = {}
    for task in Path(f"/proc/{agent.pid}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks = [name[5:] for name in environment if name.startswith(b"RANK=")]
            if ranks:
                found[int(ranks[0])] = pid
    return found


def outcome(run: Path) -> tuple:
    """Return the bytes of the last checkpoint's tensors, the metrics without times, the weights and the samples."""
    newest = RunDir(run).newest_whole()[0].path
    tensors = {str(p.relative_to(newest)): p.read_bytes() for p in newest.rglob("*.safetensors")}
    assert len(tensors) == 3  # the weights, and what the optimiser remembers in two parts
    best = (run / "model.safetensors").read_bytes()
    return (
        newest.name,
        tensors,
        best,
        without_times(RunDir(run).metrics),
        (run / "samples.txt").read_text(),
    )


@pytest.fixture(scope="module")
def folder(small_text, tmp_path_factory):
    """A folder with the settings, and with what an undisturbed run of two processes makes of them."""
    from .conftest import small_run

    folder = tmp_path_factory.mktemp("several")
    (folder / "run.toml").write_text(to_toml(changed(small_run(small_text), train=SETTINGS)))
    statuses, (out,), (err,) = ended([torchrun(folder, "whole", "--json")])
    assert statuses == [0], err
    # Results and progress come from the first one alone.
    assert out.count("the ") >= 1
    assert out.splitlines()[-1] == f'{{"run": "{folder}/whole"}}'
    for once in ("shared by 2 processes (fsdp)", "step 20/60", "\nheld-out loss ", "how it went"):
        assert err.count(once) == 1
    assert out.count('"run"') == 1
    return folder


@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="needs /proc")
def test_torchrun_starts_again_what_was_killed_and_nothing_is_lost(folder):
    """With --again as well: what this call of torchrun has begun is not thrown away, what was there before is."""
    (folder / "killed").mkdir()
    (folder / "killed" / "run.toml").write_bytes((folder / "run.toml").read_bytes())
    seed = random.randrange(2**32)
    print("seed of the kills:", seed)
    rng = random.Random(seed)
    agent = torchrun(folder, "killed", "--again", restarts=3)
    killed: set[int] = set()
    for rank in rng.sample(range(2), 2):
        before = lines(folder / "killed")
        wait_for(lambda before=before: lines(folder / "killed") > before + 4, agent)
        time.sleep(rng.uniform(0, 0.05))
        pid = workers(agent)[rank]
        assert pid not in killed
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    _, err = agent.communicate(timeout=LONG)
    assert agent.returncode == 0, err
    assert len(killed) == 2
    assert "going on from step" in err
    assert "Traceback" not in err
    assert len(re.findall(f"minigpt: (rank 1: )?{LOST}", err)) == 2
    assert outcome(folder / "killed") == outcome(folder / "whole")


def test_without_torchrun_a_signal_to_one_stops_all_and_a_kill_is_noticed(folder):
    out = folder / "stopped"
    # While all prepare, or meet.
    processes = by_hand(folder, "stopped")
    time.sleep(1.0)
    processes[1].send_signal(signal.SIGTERM)
    processes[0].send_signal(signal.SIGTERM)
    assert ended(processes) == ([143, 143], ["", ""], ["", ""]) or lines(out)
    # A signal to one; then to both, and again, as the terminal and torchrun pass on one Ctrl-C.
    for number, status, ranks in ((signal.SIGTERM, 143, [1]), (signal.SIGINT, 130, [0, 1, 0, 1])):
        processes, before = by_hand(folder, "stopped"), lines(out)
        wait_for(lambda before=before: lines(out) > before + 3, processes[0])
        for rank in ranks:
            processes[rank].send_signal(number)
        statuses, printed, (said, nothing) = ended(processes)
        assert (statuses, printed, nothing) == ([status] * 2, ["", ""], "")
        step = re.search(r"stopped and saved at step (\d+); the same command goes on", said)
        assert RunDir(out).newest_whole()[0].path.name == f"step-{int(step[1]):08d}"
        assert "minigpt: " not in said
    # Each of them is killed once; the other one is left, and nobody ends it.
    for rank in (0, 1):
        processes, before = by_hand(folder, "stopped"), lines(out)
        wait_for(lambda before=before: lines(out) > before + 3, processes[0])
        kill_after(processes[rank], out, 0, random.uniform(0, 0.05))
        began = time.monotonic()
        said = processes[1 - rank].communicate(timeout=LONG)[1]
        assert time.monotonic() - began < 8
        assert processes[1 - rank].returncode == 1
        who = "" if rank else "rank 1: "
        assert re.fullmatch(f"minigpt: {who}{LOST} .*", said.splitlines()[-1])
        assert "Traceback" not in said
    statuses, _, said = ended(by_hand(folder, "stopped"))
    assert statuses == [0, 0], said
    assert outcome(out) == outcome(folder / "whole")


def test_bad_input_is_refused_by_one_voice(folder):
    (folder / "other.toml").write_text("[train]\nbatch_size = 9\nmicro_batch_size = 3\n")
    agent = torchrun(folder, "refused", "--config", str(folder / "other.toml"))
    err = agent.communicate(timeout=LONG)[1]
    assert err.count("minigpt: ") == 1
    assert "cannot be shared by 2 processes" in err
    assert err.count("exitcode: 2") or "exitcode  : 2" in err
    assert not (folder / "refused").exists()
