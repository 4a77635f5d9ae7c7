"""Several processes that work together, for tests of what they do."""

import faulthandler
import multiprocessing
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOO_LONG = 120  # seconds


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


def start(size: int, work: Callable, folder: Path, *arguments: Any) -> list[Any]:
    """Begin what `together` does and return the processes."""
    context = multiprocessing.get_context("spawn")
    meeting = folder / f"meeting-{work.__name__}-{size}"
    processes = [
        context.Process(target=_one, args=(rank, size, meeting, work, folder, *arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


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

    import torch
    import torch.distributed as dist

    from minigpt.ranks import Ranks

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    ranks = Ranks(rank, size, rank, size)
    work(ranks, folder, *arguments)
    ranks.leave()
    faulthandler.cancel_dump_traceback_later()
