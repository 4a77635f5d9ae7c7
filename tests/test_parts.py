import json
import os
import shutil
import threading
import time

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from minigpt import parts
from minigpt.errors import PeerError, UserError
from minigpt.files import flush
from minigpt.model.weights import save_tensors
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

    flushed = {}
    parts.flush = lambda path: flushed.update({path: path.stat().st_size}) or flush(path)
    tensors = full_tensors()
    saved = save_parts(tensors, folder / "ddp-2", group)
    zeroed(tensors)
    saved.result()
    own = folder / "ddp-2" / f"part-{ranks.rank + 1:05d}-of-00002.safetensors"
    assert flushed.keys() == {own, own.parent}
    assert flushed[own] == own.stat().st_size

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
    """A folder of what two processes, then one, then four have stored."""
    folder = tmp_path_factory.mktemp("parts")
    several.together(2, by_two, folder)
    save_parts(full_tensors(), folder / "one").result()
    several.together(4, by_four, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp-2", "ddp-2", "one", "fsdp-4", "hsdp-4"])
def test_what_any_number_of_processes_stored_is_read_by_one_bit_for_bit(stored, name):
    same(stored_in(stored / name), full_tensors())


@pytest.mark.slow
def test_what_is_stored_after_something_else_is_not_mixed_with_it(stored):
    same(stored_in(stored / "second"), full_tensors(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "writers"), [("fsdp-2", 2), ("ddp-2", 2), ("one", 1), ("fsdp-4", 4), ("hsdp-4", 4)]
)
def test_each_value_is_stored_once_in_safetensors_files_and_nothing_else_is(stored, name, writers):
    files = sorted((stored / name).iterdir())
    wanted = [f"part-{i:05d}-of-{writers:05d}.safetensors" for i in range(1, writers + 1)]
    assert [file.name for file in files] == wanted
    sizes = dict.fromkeys(full_tensors(), 0)
    for file in files:
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        assert header, "a process that could have written something has not"
        for tensor, place in header.items():
            begin, end = place["data_offsets"]
            sizes[tensor] += end - begin
        # What a header describes fills the file: there is no room for anything but numbers.
        assert len(content) == 8 + length + sum(
            end - begin for begin, end in (place["data_offsets"] for place in header.values())
        )
    assert sizes == {tensor: value.nbytes for tensor, value in full_tensors().items()}


@pytest.mark.slow
def test_a_damaged_part_is_refused_by_name(stored, tmp_path):
    folder = tmp_path / "parts"
    shutil.copytree(stored / "fsdp-4", folder)
    third = folder / "part-00003-of-00004.safetensors"
    content = third.read_bytes()
    third.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{third.name} is cut short or damaged"):
        read_parts(folder, full_tensors())
    third.unlink()
    with pytest.raises(UserError, match=f"{third.name} is missing"):
        described_parts(folder)
    third.write_bytes(content)
    shutil.copy(stored / "one" / "part-00001-of-00001.safetensors", folder)
    with pytest.raises(UserError, match="not of the same checkpoint"):
        described_parts(folder)


def by_one_of_two(ranks, folder, other):
    """The first begins to store; the other has died, or never comes."""
    group = dist.new_group(backend="gloo")
    (folder / f"{other}-{ranks.rank}").touch()
    if ranks.rank == 1:
        if other == "absent":
            time.sleep(several.TOO_LONG)
        os._exit(9)
    saved = save_parts(full_tensors(), folder / "parts", group)
    if other == "dead":
        assert isinstance(saved.exception(30), RuntimeError)
    else:
        time.sleep(0.5)
        assert not saved.done()
    (folder / "end").touch()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["dead", "absent"])
def test_a_process_ends_at_once_while_another_does_not_do_its_part(tmp_path, other):
    first, second = several.start(2, by_one_of_two, tmp_path, other)
    first.join(60)
    seconds = time.time() - (tmp_path / "end").stat().st_mtime
    code = first.exitcode
    several.end([first, second])
    assert code == 0
    assert seconds < 5


def test_one_process_stores_tensors_as_they_were_and_describes_them(tmp_path, monkeypatch):
    changed = threading.Event()

    def write_late(tensors, path):
        changed.wait()
        save_tensors(tensors, path)

    monkeypatch.setattr(parts, "save_tensors", write_late)
    tensors = full_tensors()
    saved = save_parts(tensors, tmp_path / "one")
    zeroed(tensors)
    changed.set()
    assert saved.result(10) is None
    described = described_parts(tmp_path / "one")
    assert described == {name: (t.shape, t.dtype) for name, t in full_tensors().items()}
    same(stored_in(tmp_path / "one"), full_tensors())


def test_parameters_are_filled_in_place(tmp_path):
    linear = torch.nn.Linear(3, 2)
    wanted = {name: torch.randn_like(p) for name, p in linear.named_parameters()}
    save_parts(wanted, tmp_path).result()
    read_parts(tmp_path, dict(linear.named_parameters()))
    same(linear.state_dict(), wanted)
    assert linear.weight.requires_grad


def test_what_is_not_there_or_of_another_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing holds no part"):
        described_parts(tmp_path / "nothing")
    save_parts({"a": torch.zeros(5, 2)}, tmp_path / "some").result()
    with pytest.raises(UserError, match="b is not stored in some"):
        read_parts(tmp_path / "some", {"b": torch.zeros(5, 2)})
    with pytest.raises(UserError, match=r"a in some has the shape \(5, 2\); wanted \(2, 5\)"):
        read_parts(tmp_path / "some", {"a": torch.zeros(2, 5)})
    only = tmp_path / "some" / "part-00001-of-00001.safetensors"
    only.write_bytes(only.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{only.name} is cut short or damaged"):
        read_parts(tmp_path / "some", {"a": torch.zeros(5, 2)})


def test_what_torch_finds_while_it_reads_is_an_exception(tmp_path, monkeypatch):
    save_parts({"a": torch.zeros(5)}, tmp_path).result()
    monkeypatch.setattr(parts, "described_parts", lambda folder: {"a": ((4,), torch.float32)})
    with pytest.raises(ValueError, match="Size mismatch"):
        read_parts(tmp_path, {"a": torch.zeros(4)})


def test_what_cannot_be_written_is_raised_by_the_future(tmp_path):
    (tmp_path / "file").touch()
    saved = save_parts(full_tensors(), tmp_path / "file" / "parts")
    assert isinstance(saved.exception(10), NotADirectoryError)
