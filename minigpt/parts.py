"""Tensors of which each process holds a part in, safetensors files that any number of processes can read, out.

    part-00001-of-00004.safetensors …     one of each process that wrote; its header says where its pieces belong

torch.distributed.checkpoint plans, writes and reads them in its Hugging Face form, which needs no pickle. Each piece is
copied and stored once, by one of the processes that hold it.
"""

import dataclasses
import os
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.default_planner import create_default_local_save_plan
from torch.distributed.tensor import DTensor

from minigpt.errors import PeerError, UserError, plain, status_of
from minigpt.files import flush
from minigpt.model.weights import reading, save_tensors
from minigpt.ranks import own_part

_PART = re.compile(r"part-\d{5,}-of-(\d{5,})\.safetensors")


def save_parts(
    tensors: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None = None
) -> Future[None]:
    """Copy tensors and begin to store them: they may change when this returns, and are stored when the future is done.

    All processes of the group call it, with the same names in the same order, and not before the last one is done.

    Args:
        tensors: by name, on any device: DTensors over all of the group, or tensors that are the same everywhere.
        folder: of these files alone, made where there is none, and the same for all.
        group: over gloo, and for nothing else; None: this process stores all by itself.

    Returns:
        what is done, on each process, when the files of all of them are on the disk. It raises what went wrong here; a
        PeerError where that was elsewhere; a RuntimeError where another process has died. It keeps none from ending.
    """
    written_here = _divided(tensors, group)
    # Said of the tensors themselves: their copies no longer know that they are parts of something.
    plan = create_default_local_save_plan(written_here, is_coordinator=False)
    copies = {
        name: own_part(tensor.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in written_here.items()
    }
    if group is None:
        return _in_background(lambda: _store_alone(copies, folder))
    return _in_background(lambda: _store(copies, plan, folder, group))


def read_parts(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors with what is stored under their names, whatever number of processes wrote it.

    A process reads the headers and its own parts, and waits for no other.

    Raises:
        UserError: a file is missing, cut short or damaged, or a tensor is not there in this shape.
    """
    stored = described_parts(folder)
    for name, tensor in into.items():
        if name not in stored:
            raise UserError(f"{plain(name)} is not stored in {folder.name}")
        if tensor.shape != stored[name][0]:
            raise UserError(
                f"{plain(name)} in {folder.name} has the shape {tuple(stored[name][0])}; wanted {tuple(tensor.shape)}"
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # that is meant
        dcp.load(
            {name: tensor.detach() for name, tensor in into.items()},
            storage_reader=dcp.HuggingFaceStorageReader(str(folder)),
            no_dist=True,
        )


def described_parts(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the whole shape and the type of each tensor that is stored, as the headers say.

    Raises:
        UserError: a file is missing, cut short or damaged.
    """
    for name in _names_of_all(folder):
        with reading(folder / name), safetensors.safe_open(folder / name, framework="pt"):
            pass  # opening it compares its length with its header
    stored = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (tensor.size, tensor.properties.dtype)
        for name, tensor in stored.items()
        if isinstance(tensor, dcp.TensorStorageMetadata)
    }


def _names_of_all(folder: Path) -> list[str]:
    """Return the names of the files that there must be; the first name tells how many."""
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    first = _PART.fullmatch(found[0]) if found else None
    if first is None:
        raise UserError(f"{plain(folder.name)} holds no part-…-of-….safetensors")
    wanted = [_name(part, int(first[1])) for part in range(1, int(first[1]) + 1)]
    if foreign := sorted(set(found) - set(wanted)):  # the reader would take it for one more part
        raise UserError(f"{plain(foreign[0])} is not of the same checkpoint as {wanted[0]}")
    return wanted


def _name(part: int, of: int) -> str:
    return f"part-{part:05d}-of-{of:05d}.safetensors"


def _divided(tensors: dict[str, Tensor], group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Return those that this process stores: of equal pieces each has one writer, which has the least to write so far.

    Every process comes to the same division, without asking the others.
    """
    mine: dict[str, Tensor] = {}
    planned: dict[int, list[int]] = defaultdict(
        list
    )  # bytes of each writer, by the number of copies
    for name, tensor in tensors.items():
        copy, copies = _which_copy(tensor, group)
        loads = planned[copies] = planned[copies] or [0] * copies
        writer = loads.index(min(loads))
        loads[writer] += tensor.numel() * tensor.element_size()
        if copy == writer:
            mine[name] = tensor
    return mine


def _which_copy(tensor: Tensor, group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Return which of how many copies of its piece of a tensor this process holds."""
    if not isinstance(tensor, DTensor):
        return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    mesh, copy, copies = tensor.device_mesh, 0, 1
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            copy = copy * mesh.size(dim) + mesh.get_local_rank(dim)
            copies *= mesh.size(dim)
    return copy, copies


def _store(
    copies: dict[str, Tensor], plan: dcp.SavePlan, folder: Path, group: dist.ProcessGroup
) -> None:
    """Write the copies and wait for the others; together."""
    try:
        dcp.save(
            copies, storage_writer=_Writer(folder), planner=_Planner(plan), process_group=group
        )
    except dcp.CheckpointException as error:
        errors = {rank: failure[0] for rank, failure in error.failures.items()}
        here = errors.get(dist.get_rank(group))
        raise here or PeerError(max(map(status_of, errors.values()))) from None


def _store_alone(copies: dict[str, Tensor], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _name(1, 1)
    save_tensors(copies, path)
    flush(path)
    flush(folder)


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Return the outcome of work in a thread that ends with the process, unlike one of an executor."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # for who asks, on another thread
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="save_parts", daemon=True).start()
    return future


class _Planner(dcp.DefaultSavePlanner):
    """Follows a plan that was made before: of the tensors whose copies are written."""

    def __init__(self, plan: dcp.SavePlan) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.made = plan

    def create_local_plan(self) -> dcp.SavePlan:
        """Return the plan."""
        return self.made

    def lookup_object(self, index: Any) -> Tensor:
        """Return the copy; torch would look for the place of the piece in it."""
        return self.state_dict[index.fqn]


class _Writer(dcp.HuggingFaceStorageWriter):
    """Names the files so that a missing one shows, and has all bytes on the disk before it says that it is done.

    torch calls fsync before it has given the operating system what is left in Python's buffer: of a small file, all.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder = folder

    def prepare_global_plan(self, plans: list[dcp.SavePlan]) -> list[dcp.SavePlan]:
        """Tell each process how many files there will be."""
        return [
            dataclasses.replace(plan, storage_data=plan.storage_data | {"of": len(plans)})
            for plan in super().prepare_global_plan(plans)
        ]

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> torch.futures.Future:
        """Write this process's file, an empty one where it has nothing."""
        path = self.folder / _name(plan.storage_data["shard_index"], plan.storage_data["of"])
        done = super().write_data(plan, planner)
        names = {result.storage_data.relative_path for result in done.wait()}
        assert len(names) <= 1, "torch has written several files"
        for name in names:
            os.replace(self.folder / name, path)
        if not names:
            save_tensors({}, path)
        flush(path)
        flush(self.folder)
        return done
