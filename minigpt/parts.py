"""Tensors of which each process holds a part in, safetensors files that any number of processes can read, out.

    part-00001-of-00004.safetensors …     one of each process that wrote; its header says where its pieces belong

torch.distributed.checkpoint plans what is written and reads it, in its Hugging Face form, which needs no pickle. Each
piece is copied and stored once, by one of the processes that hold it.
"""

import dataclasses
import json
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

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

    All processes of the group call it, with the same names, and not before the last one is done.

    Args:
        tensors: by name, on any device: DTensors over all of the group, or tensors that are the same everywhere.
        folder: of these files alone, made where there is none, and the same for all.
        group: over gloo, and for nothing else; None: this process stores all by itself.

    Returns:
        what is done, on each process, when the files of all of them are on the disk. It raises what went wrong here; a
        PeerError where that was elsewhere; a RuntimeError where another process has died. It keeps none from ending.
    """
    # In the order of their names: that in which an optimiser has them is another one after a resume.
    written_here = _divided(dict(sorted(tensors.items())), group)
    # Said of the tensors themselves: their copies no longer know that they are parts of something.
    plan = create_default_local_save_plan(written_here, is_coordinator=False)
    copies = {
        name: own_part(tensor.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in written_here.items()
    }
    if group is None:
        assert all(copies[name].shape == tensor.shape for name, tensor in written_here.items())
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
        try:
            dcp.load(
                {name: tensor.detach() for name, tensor in into.items()},
                storage_reader=dcp.HuggingFaceStorageReader(str(folder)),
                no_dist=True,
            )
        except dcp.CheckpointException as error:  # not even an Exception
            raise error.failures[0][0] from None


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
    """Return the names of the files, all of which are there; the first name tells how many there must be."""
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    first = _PART.fullmatch(found[0]) if found else None
    if first is None:
        raise UserError(f"{plain(folder.name)} holds no part-…-of-….safetensors")
    wanted: list[str] = []
    while len(wanted) < int(first[1]):
        wanted.append(_name(len(wanted) + 1, int(first[1])))
        if wanted[-1] not in found:
            raise UserError(f"{wanted[-1]} is missing")
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
    planned: dict[int, list[int]] = {}  # the bytes of each writer, by how many there are
    for name, tensor in tensors.items():
        copy, copies = _which_copy(tensor, group)
        loads = planned.setdefault(copies, [0] * copies)
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
        writer = _Writer(folder, copies)
        dcp.save(copies, storage_writer=writer, planner=_Planner(plan), process_group=group)
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


class _Writer(dcp.HuggingFaceStorageWriter):
    """Writes the form that torch reads, in files whose names show if one is missing.

    torch itself would need three times the memory of the copies, since it puts the file together there first; and it
    calls fsync before Python has passed the last bytes on: of a small file, all.
    """

    def __init__(self, folder: Path, copies: dict[str, Tensor]) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder, self.copies = folder, copies

    def prepare_global_plan(self, plans: list[dcp.SavePlan]) -> list[dcp.SavePlan]:
        """Tell each process the name of its file."""
        return [
            dataclasses.replace(plan, storage_data=_name(part, len(plans)))
            for part, plan in enumerate(plans, 1)
        ]

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> torch.futures.Future:
        """Write this process's file, an empty one where it has nothing."""
        pieces = {item.index.fqn: self.copies[item.index.fqn] for item in plan.items}
        begins = {item.index.fqn: {"saved_offsets": item.index.offset} for item in plan.items}
        # Nothing more: safetensors writes several in any order, and a run has equal files each time.
        metadata = {"DCP_SHARDING_INFO": json.dumps(begins)}
        save_tensors(pieces, self.folder / plan.storage_data, metadata)
        flush(self.folder / plan.storage_data)
        flush(self.folder)
        done = torch.futures.Future()
        done.set_result([])
        return done
