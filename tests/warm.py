"""Processes that begin in milliseconds: they are forked of one in which everything is imported, and have one thread.

Each is a process of its own, to be signalled and killed as any other. That a cold start does the same is for some tests
to show, which run `python -m minigpt`.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.fsdp",
        "minigpt.cli",
        "minigpt.pretrain",
        "pytest",
        "tests.conftest",
    ]
)


def start(work: Callable, *arguments: Any) -> Any:
    """Begin `work(*arguments)`, a function of a module, in a process with this one's environment, and return that."""
    process = FORKS.Process(target=_work, args=(dict(os.environ), work, *arguments))
    process.start()
    return process


def _work(environment: dict[str, str], work: Callable, *arguments: Any) -> None:
    import torch

    os.environ.clear()
    os.environ |= environment
    torch.set_num_threads(1)
    work(*arguments)


class Command:
    """`minigpt` with some arguments, to be waited for and signalled as a `subprocess.Popen` is."""

    def __init__(
        self, *arguments: object, before: Callable[[], None] | None = None, **environment: str
    ) -> None:
        """Begin; with what is to be called there first, and more of the environment."""
        self._folder = Path(tempfile.mkdtemp(prefix="minigpt-command-"))
        names = [str(self._folder / name) for name in ("out", "err")]
        self._process = start(_command, [*map(str, arguments)], before, environment, *names)
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what it has printed and what it has said."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("minigpt", timeout or 0)
        files = [self._folder / name for name in ("out", "err")]
        out, err = (file.read_text() if file.exists() else "" for file in files)
        shutil.rmtree(self._folder)
        return out, err


def _command(
    arguments: list[str],
    before: Callable[[], None] | None,
    environment: dict[str, str],
    out: str,
    err: str,
) -> None:
    import minigpt.__main__

    os.environ |= environment
    os.environ.pop("PYTEST_VERSION", None)  # by which the parser of the command line knows a test
    for number, name in ((1, out), (2, err)):
        with open(name, "w") as file:
            os.dup2(file.fileno(), number)
    if before is not None:
        before()
    sys.argv = ["minigpt", *arguments]
    minigpt.__main__.STARTED = time.monotonic()
    minigpt.__main__.main()
