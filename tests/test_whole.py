import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from minigpt.config import OptimConfig
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer, optimizer_tensors
from minigpt.parts import described_parts, read_parts, save_parts
from minigpt.ranks import Ranks, own_part
from minigpt.whole import Sketch, spread, whole
from tests import several
from tests.conftest import tiny


def drawn(seed):
    """A GPT with one tensor for its table and its head, of 29 rows."""
    torch.manual_seed(seed)
    return GPT(tiny())


def ids():
    return torch.arange(24).view(2, 12)


def optimizer_of(model):
    return make_optimizer(model, OptimConfig(name="adamw", lr=1e-2))


def step(model, optimizer):
    model(ids()).logsumexp(-1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def sharded(model, mesh):
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)


def by_four(ranks, folder):
    group = dist.new_group(backend="gloo")
    for name, mesh in (
        ("fsdp", init_device_mesh("cpu", (4,))),
        ("hsdp", init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))),
        ("ddp", None),
    ):
        model = drawn(1 + ranks.rank)
        model = model if mesh is None else sharded(model, mesh)
        first = drawn(0).state_dict()
        given = {"head.weight": first.pop("head.weight")} | first if ranks.is_first else {}
        spread(given, model.state_dict(keep_vars=True), ranks)
        assert model.embedding.weight is model.head.weight
        found = whole(model.state_dict(keep_vars=True), ranks)
        if ranks.is_first:
            same(found, drawn(0).state_dict())
            assert found["embedding.weight"] is found["head.weight"]
        else:
            assert found == {}

        optimizer = optimizer_of(model)
        step(model, optimizer)
        states = {
            f"{parameter}/{key}": tensor
            for parameter, weight in model.named_parameters()
            for key, tensor in optimizer.state[weight].items()
        }
        if mesh is not None:
            assert own_part(model.head.weight).shape[0] < 29
        saved = save_parts(states, folder / name, group)
        step(model, optimizer)
        saved.result()
        with torch.no_grad():  # leaves the root of a sharded model whole
            model(ids())
        found = whole(model.state_dict(keep_vars=True), ranks)
        assert not ranks.is_first or found["head.weight"].shape == (29, 32)


def test_one_process_is_given_what_it_has():
    model = drawn(0)
    found = whole(model.state_dict(keep_vars=True), Ranks())
    same(found, model.state_dict())
    other = drawn(1)
    spread(found, other.state_dict(keep_vars=True), Ranks())
    same(other.state_dict(), model.state_dict())
    assert other.embedding.weight is other.head.weight
    assert other.head.weight.data_ptr() != model.head.weight.data_ptr()


@pytest.mark.slow
def test_four_processes_are_given_one_model_and_give_it_back_with_their_optimizer(tmp_path):
    several.together(4, by_four, tmp_path)
    model = drawn(0)
    optimizer = optimizer_of(model)
    step(model, optimizer)
    wanted = optimizer_tensors(optimizer, model)
    for name in ("fsdp", "hsdp", "ddp"):
        tensors = {
            key: torch.zeros(shape, dtype=dtype)
            for key, (shape, dtype) in described_parts(tmp_path / name).items()
        }
        read_parts(tmp_path / name, tensors)
        assert tensors.keys() == wanted.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, wanted[key], msg=f"{name}: {key}")


DEEP = {"vocab_size": 1000, "n_layer": 48, "n_embd": 256}  # 38 million parameters in small tensors


def resident_bytes():
    lines = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", lines)[1]) * 1024


def sketched(ranks, folder):
    mesh = init_device_mesh("cpu", (2,))
    sharded(Sketch(tiny()), mesh).draw_parts()  # what is loaded and allocated once is there
    torch.manual_seed(5)
    before = resident_bytes()
    model = sharded(Sketch(tiny(**DEEP)), mesh)
    model.draw_parts()
    size = 4 * sum(p.numel() for p in model.parameters())
    assert resident_bytes() - before < 0.7 * size  # its half, and what is whole for a moment
    found = whole(model.state_dict(keep_vars=True), ranks)
    if ranks.is_first:
        torch.manual_seed(5)
        same(found, GPT(tiny(**DEEP)).state_dict())


@pytest.mark.slow
def test_first_weights_in_parts_are_those_of_the_whole_model_which_is_never_there(tmp_path):
    several.together(2, sketched, tmp_path)


@pytest.mark.parametrize(
    "switches", [{}, {"tie_embeddings": False, "bias": True, "norm": "layernorm"}]
)
def test_a_sketch_draws_what_the_model_would(switches):
    torch.manual_seed(3)
    model = GPT(tiny(**switches))
    torch.manual_seed(3)
    sketch = Sketch(tiny(**switches))
    sketch.draw_parts()
    same(sketch.state_dict(), model.state_dict())
