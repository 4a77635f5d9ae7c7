"""The environment that torchrun sets in; who works on this run, and what all of them agree on, out.

A run in one process is a world of one: everything works there too, and costs nothing. Decisions go over a group of
their own (gloo), so that they never wait behind gradients.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Generator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from minigpt.errors import PeerError, RunError, UserError, first_line, status_of

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
        files: a group for what is written in the background.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self.shards: dist.ProcessGroup | None = None
        self.copies: dist.ProcessGroup | None = None
        self._decisions, self.files = (
            dist.new_group(backend="gloo", timeout=DECISIONS_WAIT) if size > 1 else None
            for _ in range(2)
        )
        self._asked: tuple[Tensor, dist.Work] | None = None

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

    def sum_number(self, number: float) -> float:
        """Return the sum of what each rank passes, in fp64."""
        if self.size == 1:
            return number
        found = torch.tensor([number], dtype=torch.float64)
        dist.all_reduce(found, group=self._decisions)
        return found.item()

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

    def largest(self, number: int) -> int:
        """Return the largest number that any rank passes; what `last_largest` was told before is forgotten."""
        if self.size == 1:
            return number
        if self._asked is not None:
            self._asked[1].wait()
            self._asked = None
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._decisions)
        return int(found.item())

    def last_largest(self, number: int) -> int:
        """Return the largest number that any rank passed the time before: so nobody waits for an answer.

        In a world of one it is what is passed now.
        """
        if self.size == 1:
            return number
        before, found = self._asked, torch.tensor([number])
        work = dist.all_reduce(found, dist.ReduceOp.MAX, group=self._decisions, async_op=True)
        assert work is not None
        self._asked = found, work
        if before is None:
            return 0
        before[1].wait()
        return int(before[0].item())

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
            self.largest(status_of(error))
            raise
        if status := self.largest(0):
            raise PeerError(status)
        return result

    def first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns on the first rank, which alone does it; raises as `together`."""
        return self.agreed(self.together(lambda: work() if self.is_first else None))  # ty: ignore[invalid-explicit-return]

    def host_first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns here, done on one rank of each host before the others; raises as `together`."""
        early = self.together(lambda: work() if self.local_rank == 0 else None)
        return self.together(lambda: work() if early is None else early)

    @contextlib.contextmanager
    def noticing_loss(self) -> Generator[None]:
        """Have the block end with one sentence where another process is gone.

        Raises:
            RunError: it is.
        """
        try:
            yield
        except RuntimeError as error:
            gone = isinstance(error, dist.DistError) or "gloo" in str(error)
            if self.size == 1 or not gone:
                raise
            raise RunError(
                f"lost another of the {self.size} processes, which has ended or cannot be reached "
                f"({first_line(error)}); the run goes on from its last checkpoint with the same command"
            ) from None

    def leave(self) -> None:
        """Part from the others, who do the same."""
        if self.size > 1:
            dist.destroy_process_group()


ALONE = Ranks()


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
        UserError: the environment is not whole, or this host has too few GPUs.
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
    if device.type == "cuda":
        if device.index is not None:
            raise UserError(
                f"train.device is {device}, but each of several processes takes a GPU of its own; pass cuda"
            )
        if local_size > torch.cuda.device_count():
            raise UserError(
                f"{local_size} processes were started on this host, which has {torch.cuda.device_count()} GPUs; "
                "start one for each (torchrun --nproc-per-node gpu)"
            )
        torch.cuda.set_device(local_rank)
    elif device.type != "cpu":
        raise UserError(f"several processes train on cpu or cuda, not on {device}; start one")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=GRADIENTS_WAIT)
    return Ranks(rank, size, local_rank, local_size)


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a sharded tensor that lies in this process; of any other, all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # ty: ignore[not-callable]
