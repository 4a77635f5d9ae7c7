"""A run directory in, the right to train in it out: one process has it at a time.

Two locks are held. One is in the user's cache: the folder need not exist yet, and a second process is refused at once.
The other is in the folder: other hosts and containers that share it see it, where its file system hands locks on. The
operating system gives up the locks of a process that is killed.
"""

import contextlib
import datetime
import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from minigpt.errors import UserError
from minigpt.files import lock_path, read_json, replace_json

LOCK = ".lock"


class Place:
    """The place of one process in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: list[tuple[FileLock, Path]] = []  # each with the note on who holds it

    def take(self) -> None:
        """Take the place; called again once the folder exists, hold it there, too.

        Raises:
            UserError: another process has it.
        """
        wanted = [lock_path(self.folder)]
        if self.folder.is_dir():
            wanted.append(self.folder / LOCK)
        for path in wanted[len(self._held) :]:
            self._take(path)

    def leave(self) -> None:
        """Give the place up."""
        while self._held:
            lock, note = self._held.pop()
            note.unlink(missing_ok=True)
            lock.release()

    def _take(self, path: Path) -> None:
        note = path.with_name(f"{path.name}.json")
        # Whoever fits the model may be another thread than the one that prepared the run.
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.leave()
            raise UserError(
                f"{self.folder} is in use by {_holder(note)}: wait until it ends, stop it (with Ctrl-C or kill, it "
                "saves first), or choose another --out"
            ) from None
        self._held.append((lock, note))
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        replace_json(note, {"pid": os.getpid(), "host": platform.node(), "since": now})


def _holder(note: Path) -> str:
    """Return who holds a lock, as far as it is known: the note comes a moment after the lock."""
    with contextlib.suppress(UserError, KeyError):
        known = read_json(note)
        return f"process {known['pid']} on {known['host']} since {known['since']}"
    return "another process"
