"""A run that is killed again and again, each time just before it changes a file.

    python -m tests.killing SETTINGS.toml RUN SEED KILLS

Forks of one warm process train, so that a kill costs no start-up of seconds; the last one is left alone. What each of
the others was about to do is printed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from minigpt.cli import run

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def kill_before(change: int, folder: str) -> None:
    """Kill this process just before it opens, makes, renames or removes something in `folder` for the nth time."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        path = str(arguments[0]) if arguments else ""
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not path.startswith(folder) or not (writes or event in CHANGES):
            return
        seen += 1
        if seen == change:
            os.write(1, f"{event} {path.removeprefix(folder)}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def trained(settings: str, out: str, change: int | None) -> int:
    """Return how a process ended that trained in `out`, and was killed at a change."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99
    try:
        if change is not None:
            kill_before(change, out)
        status = run(time.monotonic(), ["train", "--config", settings, "--out", out])
    finally:
        os._exit(status)


if __name__ == "__main__":
    settings, out, seed, kills = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # Everything is imported and has run once, so that the forks begin at once.
    assert run(time.monotonic(), ["train", "--config", settings, "--out", f"{out}-whole"]) == 0
    assert len(list(Path("/proc/self/task").glob("*"))) <= 1, "a fork has one thread"
    rng = random.Random(seed)
    for _ in range(kills):
        ended = trained(settings, out, rng.randint(1, 110))
        assert ended == -signal.SIGKILL, f"it ended with {ended}"
    sys.exit(trained(settings, out, None))
