"""What a run says: to the terminal, to `train.log`, to `metrics.jsonl` and to `samples.txt`."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from minigpt.files import flush
from minigpt.trackers import Tracker

FILES = ("metrics.jsonl", "samples.txt", "train.log")
SHOWN = 72  # characters of a sample
PLAIN_EVERY = 10.0  # seconds between two lines of progress where the terminal cannot redraw one


class Log:
    """The voice of one run. Progress goes to standard error; the files are those of the run directory.

    As a context manager it shows a live line while the block runs.
    """

    def __init__(
        self, folder: Path | None = None, *, total_steps: int = 0, silent: bool = False
    ) -> None:
        """Speak for the run in `folder`; None: to the terminal only; silent: not even there."""
        self.folder = folder
        self.total_steps, self.done = total_steps, 0
        self.trackers: list[Tracker] = []
        self._early: list[str] = []  # said before there was a folder to write it to
        self.console = Console(stderr=True, highlight=False, quiet=silent)
        # A terminal wraps between words, a file nowhere.
        self.console.soft_wrap = not self.console.is_terminal
        self._live: Progress | None = None
        self._said_at = -PLAIN_EVERY

    def say(self, line: str = "") -> None:
        """Say a line to the terminal and to `train.log`."""
        self.console.print(line, markup=False)
        self._append("train.log", line + "\n")

    def row(self, row: dict[str, Any], texts: Sequence[str] = ()) -> None:
        """Write one object to `metrics.jsonl`, with the texts drawn at its step to `samples.txt`; show both."""
        self._append("metrics.jsonl", json.dumps(row, allow_nan=False) + "\n")
        line = describe_row(row, self.total_steps)
        self._append("train.log", line + "\n")
        due = "val_loss" in row or time.monotonic() - self._said_at > PLAIN_EVERY
        if self._live:
            if "val_loss" in row:
                self.console.print(line, markup=False)
            if "train_loss" in row:
                self._live.update(self._task, loss=f"{row['train_loss']:.3f}")
                self._live.update(self._task, speed=f"{row['tokens_per_second']:,.0f}")
        elif due:
            self.console.print(line, markup=False)
            self._said_at = time.monotonic()
        if texts:
            self.samples(row["step"], texts)
        for tracker in self.trackers:
            tracker.row(row, texts)

    def step(self, step: int) -> None:
        """Move the live line to a step."""
        if self._live:
            self._live.update(self._task, completed=step, total=self.total_steps)

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Write texts drawn at a step to `samples.txt`, and show the beginning of the first."""
        for text in texts:
            self._append("samples.txt", f"--- step {step}\n{text}\n\n")
        # A control character of a text could change the state of the terminal.
        shown = "".join(c if c.isprintable() else "�" for c in " ".join(texts[0].split()))
        self.console.print(
            f"    “{shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''}”", markup=False
        )

    def sizes(self) -> dict[str, int]:
        """Return how many bytes of each file there are, and are on the disk."""
        paths = {name: path for name in FILES if (path := self._path(name)).is_file()}
        for path in paths.values():
            flush(path)
        return {name: path.stat().st_size for name, path in paths.items()}

    def cut(self, sizes: dict[str, int]) -> list[str]:
        """Cut each file back to what `sizes` returned then; return a sentence for each that is shorter.

        What is written next begins a line of its own there, too.
        """
        short = []
        for name in FILES:
            path, known = self._path(name), sizes.get(name, 0)
            size = path.stat().st_size if path.is_file() else 0
            if size < known:
                short.append(
                    f"{name} has {size} bytes instead of {known}: what is gone is not written again"
                )
                known = path.read_bytes().rfind(b"\n") + 1 if size else 0
            if size > known:
                os.truncate(path, known)
        return short

    def __enter__(self) -> Self:
        """Show the live line, where the terminal can redraw one."""
        if self.console.is_terminal and not self.console.quiet:
            columns = (
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[speed]} tok/s"),
                TimeRemainingColumn(compact=True),
            )
            self._live = Progress(*columns, console=self.console, transient=True, expand=True)
            self._task = self._live.add_task(
                "train", total=self.total_steps, completed=self.done, loss="–", speed="–"
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the live line away and let the trackers go."""
        if self._live:
            self._live.stop()
            self._live = None
        trackers, self.trackers = self.trackers, []
        with contextlib.ExitStack() as stack:  # each is closed, whatever the others do
            for tracker in trackers:
                stack.callback(tracker.close)

    def _path(self, name: str) -> Path:
        return (self.folder or Path()) / name

    def _append(self, name: str, text: str) -> None:
        if self.folder is None:
            return
        if not self.folder.is_dir():  # nothing has been begun yet
            self._early.append(text)
            return
        if self._early:
            early, self._early = self._early, []
            self._append("train.log", "".join(early))
        if text:
            with self._path(name).open("a", encoding="utf-8") as file:
                file.write(text)


def describe_row(row: dict[str, Any], total_steps: int) -> str:
    """Return a row of `metrics.jsonl` as a line to read."""
    parts = [f"step {row['step']:>{len(str(total_steps))}}/{total_steps}"]
    if "train_loss" in row:
        parts.append(f"loss {row['train_loss']:.4f}")
    if "val_loss" in row:
        parts.append(f"held-out {row['val_loss']:.4f} ({row['val_bits_per_byte']:.3f} bits/byte)")
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.0f} tok/s")
    parts.append(f"{row['seconds']:.0f} s")
    return "  ".join(parts)


def results(text: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
