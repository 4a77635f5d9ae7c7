"""One process among those of a run: what all of them agree on, add up and do together, and how they part.

A run in one process is a world of one: everything works there too, and costs nothing. Decisions go over a group of
their own (gloo), so that they never wait behind gradients.
"""

import contextlib
import datetime
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from minigpt.errors import LostError, PeerError, RunError, UserError, first_line, status_of

T = TypeVar("T")
DECISIONS_WAIT = datetime.timedelta(days=365)  # while the first one prepares a text, say
NOTICE_SECONDS = 5.0  # in which a process notices by itself that another is gone, or that all end
FAREWELL = 1  # the tag of a message between neighbours; collectives have other ones


class Ranks:
    """One process among those of a run.

    Attributes:
        rank, size: which of how many it is.
        local_rank, local_size: the same on its host.
        shards: the group of those that hold the parts of one copy of the model; None: each holds all of it.
        copies: the group of those that hold the same part as this one; None: nobody else does.
        files: a group for what is written in the background.
        noted: the signal that came while this one could not stop by itself; 0 for none.
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
        self.noted = 0
        self._may_break_off = False
        self._watch: threading.Thread | None = None
        self._leaving = threading.Event()

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

    def sum_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sums of what each rank passes, number by number, in fp64."""
        if self.size == 1:
            return numbers
        found = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(found, group=self._decisions)
        return found.numpy()

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
            PeerError: it has failed on another rank; where it failed, what was raised there. Where several have the
                same to say to the person, one of them says it.
        """
        if self.size == 1:
            return work()
        try:
            with self._breaking_off():
                result = work()
        except BaseException as error:
            # The first rank among those with the highest status.
            worst = self.largest(status_of(error) * self.size + self.size - 1 - self.rank)
            if isinstance(error, (UserError, RunError, OSError)):
                if self.size - 1 - worst % self.size != self.rank:
                    raise PeerError(worst // self.size) from None
                if isinstance(error, UserError):
                    error.is_of_one = True
            raise
        if worst := self.largest(0):
            raise PeerError(worst // self.size)
        return result

    def first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns on the first rank, which alone does it; raises as `together`."""
        return self.agreed(self.together(lambda: work() if self.is_first else None))  # ty: ignore[invalid-explicit-return]

    def host_first(self, work: Callable[[], T]) -> T:
        """Return what `work` returns here, done on one rank of each host before the others; raises as `together`."""
        early = self.together(lambda: work() if self.local_rank == 0 else None)
        return self.together(lambda: work() if early is None else early)

    @contextlib.contextmanager
    def noting_signals(self) -> Generator[None]:
        """Have SIGINT and SIGTERM, to any rank, end the block on all of them alike.

        Work that is done `together` is broken off; a signal at another time is noted, and told when they next are.
        """
        if self.size == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: object) -> None:
            self.noted = self.noted or number
            if self._may_break_off:
                raise_signal(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_noted(self) -> int:
        """Return the signal that was noted, which counts no more."""
        noted, self.noted = self.noted, 0
        return noted

    @contextlib.contextmanager
    def _breaking_off(self) -> Generator[None]:
        """Raise what a signal raises: at once where it was noted before, and while the block runs."""
        before, self._may_break_off = self._may_break_off, True
        try:
            if self.noted:
                raise_signal(self.noted)
            yield
        finally:
            self._may_break_off = before

    @contextlib.contextmanager
    def noticing_loss(self) -> Generator[None]:
        """Have the block end with one sentence where another process is gone, whatever it is doing.

        Each has an eye on its neighbour. What goes on for some seconds after that (a text that is prepared, a GPU
        that waits for the gradient of another) is cut off with the process.

        Raises:
            LostError: it is.
        """
        if self.size == 1:
            yield
            return
        self._watch = threading.Thread(target=self._watch_neighbour, daemon=True)
        self._watch.start()
        try:
            yield
        except RuntimeError as error:
            raise lost_one(error, self.size) from None

    def _watch_neighbour(self) -> None:
        try:
            neighbour = (self.rank + 1) % self.size
            dist.recv(torch.zeros(1), neighbour, group=self._decisions, tag=FAREWELL)
        except RuntimeError as error:
            if not self._leaving.wait(NOTICE_SECONDS):
                who = "" if self.is_first else f"rank {self.rank}: "
                sys.stderr.write(f"minigpt: {who}{lost_one(error, self.size)}\n")
                sys.stderr.flush()
                os._exit(1)

    def leave(self) -> None:
        """Part from the others, who do the same."""
        if self.size == 1:
            return
        self._leaving.set()
        if self._watch is not None:
            with contextlib.suppress(RuntimeError):  # who is gone needs no farewell
                before = (self.rank - 1) % self.size
                dist.send(torch.zeros(1), before, group=self._decisions, tag=FAREWELL)
            self._watch.join()
        dist.destroy_process_group()


ALONE = Ranks()


def lost_one(error: RuntimeError, size: int) -> Exception:
    """Return what to raise of an error where another of so many processes is gone; else the error itself."""
    if not isinstance(error, dist.DistError) and "gloo" not in str(error):
        return error
    # Without the line of C++ that it comes from, and what that supposes.
    reason = re.sub(r"(?:.* )?\[\S+\.cc:\d+\] ", "", first_line(error)).partition(". ")[0]
    return LostError(
        f"lost another of the {size} processes, which has ended or cannot be reached ({reason}); the run goes on from "
        "its last checkpoint with the same command"
    )


def raise_signal(number: int) -> None:
    """Raise what a signal would have raised by itself."""
    if number == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a sharded tensor that lies in this process; of any other, all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # ty: ignore[not-callable]
