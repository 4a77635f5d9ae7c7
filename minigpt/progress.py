"""Long work in, a moving bar out: on a terminal a live line, elsewhere a line of text every ten seconds."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

PLAIN_EVERY = 10.0  # seconds between two lines where the terminal cannot redraw one


class Report(Protocol):
    """Called with how much is done, and with a word on it where there is one."""

    def __call__(self, done: float, note: str = "") -> None:
        """Show that `done` is done."""


@contextmanager
def bar(title: str, total: float | None, unit: str = "bytes") -> Generator[Report]:
    """Show how far a piece of work is while the block runs, on standard error.

    Args:
        title: what is being done.
        total: the end; None: not known.
        unit: "bytes" are shown as MB, with their speed; of anything else the number.
    """
    from rich.console import Console  # imported here: `--help` does not need it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    began = said = time.monotonic()

    def describe(done: float, note: str) -> str:
        seconds = max(1e-9, time.monotonic() - began)
        if unit != "bytes":
            amount = f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"
        else:
            amount = f"{done / 1e6:,.1f} MB, {done / 1e6 / seconds:,.1f} MB/s"
        return f"{amount}, {note}" if note else amount

    if not console.is_terminal:

        def report(done: float, note: str = "") -> None:
            nonlocal said
            if time.monotonic() - said >= PLAIN_EVERY:
                said = time.monotonic()
                share = f" ({done / total:.0%})" if total else ""
                line = f"{title}: {describe(done, note)}{share}"
                console.print(line, markup=False, soft_wrap=True)

        yield report
        return

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task(title, total=total, note="")
        yield lambda done, note="": live.update(task, completed=done, note=describe(done, note))
