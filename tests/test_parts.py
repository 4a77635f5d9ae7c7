import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from minigpt.errors import PeerError
from minigpt.parts import described_parts, read_parts, save_parts
from minigpt.ranks import own_part
from tests import several

SHAPES = {
    "five rows/exp_avg": (5, 3),
    "three rows/exp_avg": (3, 4),
    "one row": (1, 6),
    "a.b.c": (64, 16),
    "vector": (7,),
    "step": (),
}


def full_tensors(seed=0):
    """What is stored, made anew wherever it is looked at."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    tensors["half"] = torch.randn(6, 2, generator=generator).bfloat16()
    tensors["numbers"] = torch.arange(9)
    tensors["one row"] = tensors["one row"].mT.contiguous().mT  # columns first in memory
    return tensors


def in_parts(tensors, mesh, placements):
    return {
        name: distribute_tensor(tensor, mesh, placements) if tensor.dim() else tensor.clone()
        for name, tensor in tensors.items()
    }


def fsdp(tensors):
    return in_parts(tensors, init_device_mesh("cpu", (dist.get_world_size(),)), [Shard(0)])


def hsdp(tensors):
    return in_parts(tensors, init_device_mesh("cpu", (2, 2)), [Replicate(), Shard(0)])


def zeroed(tensors):
    """Return tensors to fill: they hold nothing of what they are to be filled with."""
    for tensor in tensors.values():
        own_part(tensor).zero_()
    return tensors


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        assert tensor.dtype == wanted[name].dtype
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)


def own_parts(tensors):
    return {name: own_part(tensor) for name, tensor in tensors.items()}


def stored_in(folder):
    described = described_parts(folder)
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in described.items()}
    read_parts(folder, tensors)
    return {name: tensors[name] for name in full_tensors()}


def by_two(ranks, folder):
    group = dist.new_group(backend="gloo")
    tensors = fsdp(full_tensors())
    saved = save_parts(tensors, folder / "fsdp-2", group)
    zeroed(tensors)
    saved.result()
    assert len(list((folder / "fsdp-2").iterdir())) == 2, "done before all files are there"
    save_parts(fsdp(full_tensors(1)), folder / "second", group).result()

    tensors = full_tensors()
    saved = save_parts(tensors, folder / "ddp-2", group)
    zeroed(tensors)
    saved.result()

    # A folder that only one of them cannot make.
    (folder / f"file-{ranks.rank}").touch()
    elsewhere = folder / (f"file-{ranks.rank}" if ranks.rank == 1 else "failed") / "parts"
    error = save_parts(full_tensors(), elsewhere, group).exception()
    assert isinstance(error, OSError if ranks.rank == 1 else PeerError), repr(error)

    same(stored_in(folder / "ddp-2"), full_tensors())


def by_four(ranks, folder):
    group = dist.new_group(backend="gloo")
    for source in ("one", "fsdp-2", "ddp-2"):
        for shard in (fsdp, hsdp):
            tensors = zeroed(shard(full_tensors()))
            read_parts(folder / source, tensors)
            same(own_parts(tensors), own_parts(shard(full_tensors())))
    for shard in (fsdp, hsdp):
        tensors = shard(full_tensors())
        saved = save_parts(tensors, folder / f"{shard.__name__}-4", group)
        zeroed(tensors)
        saved.result()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of what two processes, then one, then four have stored, each reading what was there before."""
    folder = tmp_path_factory.mktemp("parts")
    took = several.together(2, by_two, folder)
    tensors = full_tensors()
    saved = save_parts(tensors, folder / "one")
    zeroed(tensors)
    saved.result()
    took4 = several.together(4, by_four, folder)
    print(took, took4)
    return folder


@pytest.mark.parametrize("name", ["fsdp-2", "ddp-2", "one", "fsdp-4", "hsdp-4"])
def test_what_any_number_of_processes_stored_is_read_by_one_bit_for_bit(stored, name):
    same(stored_in(stored / name), full_tensors())
