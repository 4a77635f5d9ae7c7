"""Work for several processes in, what each of them returns out; they talk over gloo."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from minigpt.ranks import Ranks


def in_processes(work: Callable[[Ranks], Any], size: int, folder: Path) -> list[Any]:
    """Return what `work`, a function at the top of its module, returns on each rank."""
    mp.spawn(_one, (work, size, folder), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _one(rank: int, work: Callable[[Ranks], Any], size: int, folder: Path) -> None:
    warnings.simplefilter("error", FutureWarning)  # as torch's deprecations
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    ranks = Ranks(rank, size, rank, size)
    torch.save(work(ranks), folder / f"{rank}.pt")
    ranks.leave()
