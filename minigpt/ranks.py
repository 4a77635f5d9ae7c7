"""The environment that torchrun sets in; who works on this run, and what all of them agree on, out.

A run in one process is a world of one: everything works there too, and costs nothing. Decisions go over a group of
their own (gloo), so that they never wait behind gradients.
"""

import datetime
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from minigpt.errors import PeerError, UserError, status_of

T = TypeVar("T")
GRADIENTS_WAIT = datetime.timedelta(minutes=30)  # for the slowest of all
DECISIONS_WAIT = datetime.timedelta(days=1)  # while the first one prepares a text, say


class Ranks:
    """One process among those of a run.

    Attributes:
        rank, size: which of how many it is.
        local_rank, local_size: the same on its host.
        shards: the group of those that hold the parts of one copy of the model; None: each holds all of it.
        copies: the group of those that hold the same part as this one; None: nobody else does.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self.shards: dist.ProcessGroup | None = None
        self.copies: dist.ProcessGroup | None = None
        self._decisions = (
            dist.new_group(backend="gloo", timeout=DECISIONS_WAIT) if size > 1 else None
        )
        self._said: tuple[Tensor, dist.Work] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of what each rank passes, on the device of the run."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def sum_shards(self, tensor: Tensor) -> Tensor:
        """Return the sum over the parts of one copy of the model."""
        if self.shards is not None:
            tensor = tensor.clone()
            dist.all_reduce(tensor, group=self.shards)
        return tensor

    def agreed(self, value: T) -> T:
        """Return what the first rank passes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._decisions)
        return box[0]

    def anybody(self, flag: bool) -> bool:
        """Return whether any rank said so the last time that all were asked: nobody waits for an answer.

        In a world of one it is what has been said now.
        """
        if self.size == 1:
            return flag
        before, self._said = self._said, None
        said = torch.tensor([int(flag)])
        work = dist.all_reduce(said, dist.ReduceOp.MAX, group=self._decisions, async_op=True)
        assert work is not None
        self._said = said, work
        if before is None:
            return False
        before[1].wait()
        return bool(before[0].item())

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` returns here, once it has succeeded on every rank.

        Raises:
            PeerError: it has failed on another rank; where it failed, what was raised there.
        """
        if self.size == 1:
            return work()
        try:
            result = work()
        except BaseException as error:
            self._largest(status_of(error))
            raise
        if status := self._largest(0):
            raise PeerError(status)
        return result

    def first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns on the first rank, which alone does it; raises as `together`."""
        return self.agreed(self.together(lambda: work() if self.is_first else None))  # ty: ignore[invalid-explicit-return]

    def host_first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns here, done on one rank of each host before the others; raises as `together`."""
        early = self.together(lambda: work() if self.local_rank == 0 else None)
        return self.together(lambda: work() if early is None else early)

    def _largest(self, number: int) -> int:
        largest = torch.tensor([number])
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._decisions)
        return int(largest.item())

    def leave(self) -> None:
        """Part from the others, who do the same."""
        if self.size > 1:
            dist.destroy_process_group()


def is_one_of_several() -> bool:
    """Return whether this process was started as one of several, by torchrun or in its way."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def restarts() -> int:
    """Return how often torchrun has started this run again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join(device: torch.device) -> Ranks:
    """Return this process's place among those of its run, when all have come.

    Args:
        device: of the run: on GPUs gradients go over NCCL, else over gloo.

    Raises:
        UserError: the environment is not whole.
    """
    if not is_one_of_several():
        return Ranks()
    try:
        rank, size, local_rank, local_size = (
            int(os.environ[name])
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is set, but not all that torchrun sets beside it ({error}); start the processes by torchrun, "
            "or unset WORLD_SIZE"
        ) from None
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=GRADIENTS_WAIT)
    return Ranks(rank, size, local_rank, local_size)


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a sharded tensor that lies in this process; of any other, all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # ty: ignore[not-callable]
