"""Code and a check in; what comes out of it in several processes that work together, out.

The processes start once and are given one piece of code after another, each with a meeting of its own, so that none
suffers from what another has left behind. They meet through a file and talk over the loopback interface.
"""

import atexit
import base64
import contextlib
import io
import json
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist

from minigpt.learn.forms import in_short
from minigpt.learn.outcome import Answer, Failure, Outcome, look_at
from minigpt.learn.path import Exercise, find
from minigpt.learn.versions import Version, rules_of

ALONE = Failure(
    "waiting",
    "one process waits for the other, which does not come: each has to call the same collective operations "
    "(all_reduce, broadcast) in the same order, whatever its rank",
)
GONE = Failure("ended", "it ended one of the processes, as os._exit or a crash does")
PATIENCE = 10.0  # seconds that a process waits for another one
START = 300.0  # seconds that a process may take to start: torch may take long
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def look_together(exercise: Exercise, number: int, version: Version, seconds: float) -> Outcome:
    """Return what comes out of a check in each process; where one fails, the first failure."""
    size = rules_of(exercise)[0][number].processes
    job = {
        "exercise": exercise.name, "number": number, "source": version.source, "file": version.file,
        "size": size, "seconds": seconds,
    }  # fmt: skip
    found = _ready(size).do(job, seconds + 2 * PATIENCE)
    if (
        found == GONE
    ):  # an earlier piece of code may have harmed it, and too late to be seen; or the meeting failed
        found = _ready(size).do(job, seconds + 2 * PATIENCE)
    if isinstance(found, Failure):
        return found
    failed = sorted((at, i) for i, (at, one) in enumerate(found) if isinstance(one, Failure))
    if failed:
        # Who waits in vain says so later than who did not come.
        first = found[failed[0][1]][1]
        # Who waits hears that the other one has ended as an error of the connection.
        lost = isinstance(first, Failure) and "gloo/transport" in first.what
        return ALONE if lost else first
    answers = [one for _, one in found if isinstance(one, Answer)]
    return Answer([one.value for one in answers], answers[0].calls, answers[0].forms)


class Team:
    """Processes that wait for code."""

    def __init__(self, size: int) -> None:
        self._stack = contextlib.ExitStack()
        atexit.register(self.end)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._processes, self._answers = [], []
        for rank in range(size):
            process = subprocess.Popen(
                [sys.executable, "-m", "minigpt.learn.pair", str(rank)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            self._stack.callback(self._end, process)
            answers: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read, args=(process.stdout, answers), daemon=True).start()
            self._processes.append(process)
            self._answers.append(answers)
        for answers in self._answers:  # so that they come to the first meeting together
            answers.get(timeout=START)

    @property
    def ready(self) -> bool:
        """Whether all processes are there, and none has anything left to say."""
        return all(p.poll() is None for p in self._processes) and all(
            q.empty() for q in self._answers
        )

    def end(self) -> None:
        """End the processes."""
        self._stack.close()

    def do(self, job: dict[str, Any], seconds: float) -> list[tuple[float, Outcome]] | Failure:
        """Return when each process was done and what came out, or why all are ended: one is gone, or silent."""
        job = job | {"meeting": str(self._folder / f"meeting-{time.monotonic_ns()}")}
        until = time.monotonic() + seconds
        try:
            for process in self._processes:
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            lines = [q.get(timeout=max(0.1, until - time.monotonic())) for q in self._answers]
        except queue.Empty:
            self.end()
            return ALONE
        except OSError:
            lines = [""]
        if not all(lines):
            self.end()
            return GONE
        return [_unpacked(line) for line in lines]

    @staticmethod
    def _end(process: subprocess.Popen) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


_TEAMS: dict[int, Team] = {}


def _ready(size: int) -> Team:
    """Return a team that waits for code: the one there is, or a new one where that was harmed."""
    team = _TEAMS.get(size)
    if team is None or not team.ready:
        if team is not None:
            team.end()
        team = _TEAMS[size] = Team(size)
    return team


def _read(pipe: TextIO, answers: queue.Queue[str]) -> None:
    with contextlib.suppress(ValueError):  # closed, when the team ends
        for line in pipe:
            answers.put(line)
    answers.put("")  # gone


def _packed(outcome: Outcome) -> str:
    """Return an outcome as a line; one that holds what is neither numbers nor text is a failure."""
    held = io.BytesIO()
    try:
        torch.save([type(outcome).__name__, time.time(), vars(outcome)], held)
        _unpacked(line := base64.b64encode(held.getvalue()).decode())
    except (TypeError, AttributeError, pickle.PickleError):
        value = in_short(getattr(outcome, "value", None))
        return _packed(Failure("unusable", f"{value}, which cannot be used"))
    return line


def _unpacked(line: str) -> tuple[float, Outcome]:
    kind, at, fields = torch.load(io.BytesIO(base64.b64decode(line)), weights_only=True)
    return at, Answer(**fields) if kind == "Answer" else Failure(**fields)


def work(rank: int, jobs: TextIO, answers: TextIO) -> None:
    """Do one job after another: one process of a team."""
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first one takes long
    answers.write("ready\n")
    answers.flush()
    for line in jobs:
        answers.write(_packed(_one(rank, json.loads(line))) + "\n")
        answers.flush()


def _one(rank: int, job: dict[str, Any]) -> Outcome:
    check = rules_of(find(job["exercise"]))[0][job["number"]]
    dist.init_process_group(
        "gloo", init_method=f"file://{job['meeting']}", rank=rank, world_size=job["size"],
        timeout=timedelta(seconds=PATIENCE),
    )  # fmt: skip
    try:
        found = look_at(check, Version(job["source"], job["file"]), job["seconds"])
    finally:
        dist.destroy_process_group()
    if isinstance(found, Failure) and any(
        w in found.what.lower() for w in ("timed out", "connection closed")
    ):
        return ALONE
    return found


if __name__ == "__main__":
    # What the code prints does not come between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work(int(sys.argv[1]), sys.stdin, out)
