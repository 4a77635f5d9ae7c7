"""Several processes that work together, for tests of what they do."""

import faulthandler
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from minigpt.ranks import Ranks

from . import warm

TOO_LONG = 300  # seconds


def together(size: int, work: Callable, folder: Path, *arguments: Any) -> float:
    """Run `work(ranks, folder, *arguments)` in each of several processes; return the seconds they took.

    `work` is a function of a test module. A warning in a process is an error in it.
    """
    began = time.monotonic()
    processes = start(size, work, folder, *arguments)
    for process in processes:
        process.join(TOO_LONG)
    codes = [process.exitcode for process in processes]
    end(processes)
    assert codes == [0] * size, f"exit statuses {codes}"
    return time.monotonic() - began


def in_processes(work: Callable, size: int, folder: Path) -> list[Any]:
    """Return what `work(ranks)`, a function of a test module, returns on each rank."""
    together(size, _keep, folder, work)
    kept = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(path, weights_only=False) for path in kept]


def _keep(ranks: Ranks, folder: Path, work: Callable) -> None:
    torch.save(work(ranks), folder / f"{ranks.rank}.pt")


def start(size: int, work: Callable, folder: Path, *arguments: Any) -> list[Any]:
    """Begin what `together` does and return the processes."""
    meeting = folder / f"meeting-{uuid.uuid4()}"
    return [warm.start(_one, rank, size, meeting, work, folder, *arguments) for rank in range(size)]


def end(processes: list[Any]) -> None:
    """Kill those that are left."""
    for process in processes:
        process.kill()
        process.join()


def _one(
    rank: int, size: int, meeting: Path, work: Callable, folder: Path, *arguments: Any
) -> None:
    warnings.simplefilter("error")
    faulthandler.dump_traceback_later(TOO_LONG, exit=True)

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    ranks = Ranks(rank, size, rank, size)
    dist.barrier()  # nobody ends before the others have met it
    work(ranks, folder, *arguments)
    ranks.leave()
    faulthandler.cancel_dump_traceback_later()
