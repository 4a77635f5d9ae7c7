"""The environment that torchrun sets in, this process's place among those of its run out, when all have come."""

import datetime
import hashlib
import os
import time
import uuid

import torch
import torch.distributed as dist

from minigpt.background import Background
from minigpt.errors import RunError, UserError, first_line
from minigpt.machine import is_one_of_several
from minigpt.ranks import Ranks, lost_one

MEETING_WAIT = datetime.timedelta(minutes=5)  # until all have started
GRADIENTS_WAIT = datetime.timedelta(minutes=30)  # for the slowest of all


def restarts() -> int:
    """Return how often torchrun has started this run again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch() -> str:
    """Return what tells this call of torchrun from any other, the same after a restart; empty where there was none."""
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return ""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"process {os.getppid()}" if name == "none" else name


def join(device: torch.device) -> Ranks:
    """Return this process's place among those of its run, when all have come.

    Args:
        device: of the run: on GPUs gradients go over NCCL, else over gloo.

    Raises:
        UserError: the environment is not whole, or this host has too few GPUs.
        RunError: not all have come within minutes, or one that came is gone.
    """
    if not is_one_of_several():
        return Ranks()
    try:
        rank, size, local_rank, local_size = (
            int(os.environ[name])
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        _ = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if not (0 <= rank < size and 0 <= local_rank < local_size):
            raise ValueError(f"RANK is {rank} of {size}, LOCAL_RANK {local_rank} of {local_size}")
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
    found: list[Ranks] = []

    def meet() -> None:
        if not dist.is_initialized():
            _meet("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", rank, size)
        found.append(Ranks(rank, size, local_rank, local_size))

    # In another thread, for a signal is not heard while this one waits inside torch.
    meeting = Background(at_once=False)
    meeting.do(meet)
    try:
        meeting.wait()
    except RuntimeError as error:
        raise lost_one(error, size) from None
    return found[0]


def _meet(backend: str, rank: int, size: int) -> None:
    """Find the other processes, each of which may be dead before it comes.

    torchrun restarts all of them with the same store, where the addresses of those before are kept. So each leaves a
    name of its own there, and they go on under one that follows from all of these, once all have read the same.
    """
    everybody = range(size)
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=MEETING_WAIT))
        store.set(f"here/{rank}", uuid.uuid4().hex)
        deadline, meeting, found = time.monotonic() + MEETING_WAIT.total_seconds(), "", set()
        while found != {meeting.encode()}:
            if time.monotonic() > deadline:
                raise dist.DistStoreError("of one that came, nothing more is heard")
            here = b"".join(store.multi_get([f"here/{other}" for other in everybody]))
            meeting = hashlib.sha256(here).hexdigest()
            store.set(f"meeting/{rank}", meeting)
            found = set(store.multi_get([f"meeting/{other}" for other in everybody]))
            time.sleep(0.01)
    except dist.DistError as error:
        raise RunError(
            f"not all of the {size} processes have come within {MEETING_WAIT.seconds // 60} minutes "
            f"({first_line(error)})"
        ) from None
    store.set_timeout(GRADIENTS_WAIT)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(meeting, store),
        rank=rank,
        world_size=size,
        timeout=GRADIENTS_WAIT,
    )
