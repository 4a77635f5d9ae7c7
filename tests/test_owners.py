import math

import pytest
import torch
from torch import nn

from minigpt.guard import Guard, clip_gradient
from minigpt.optim import muon
from minigpt.optim.groups import restore_optimizer
from minigpt.optim.muon import Muon
from minigpt.optim.owners import chunk_sizes, share_out
from minigpt.optim.ratio import UpdateRatio
from minigpt.ranks import ALONE, Ranks, own_part

from .several import in_processes

STEPS = 50
LAYOUTS = ("ddp 2", "ddp 4", "fsdp 2", "fsdp 4", "hsdp 2 x 2")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Over four ranks neither the rows come out even nor the matrices; some ranks have no row of some.
SHAPES = {"wide": (6, 10), "tall": (13, 4), "square": (8, 8), "vector": (3,), "table": (7, 3)}
COUNTS = {"wide": 5, "tall": 3, "square": 1, "vector": 2, "table": 1}


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Weights(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        names = [f"{kind}{number}" for kind in SHAPES for number in range(COUNTS[kind])]
        for number, name in enumerate(names):
            weight = random(*SHAPES[name[:-1]], seed=1000 * seed + number)
            self.register_parameter(name, nn.Parameter(weight))


def test_chunks_are_those_of_torch():
    for count in range(1, 20):
        for parts in range(1, 9):
            chunks = [len(chunk) for chunk in torch.zeros(count).chunk(parts)]
            assert chunk_sizes(count, parts) == chunks + [0] * (parts - len(chunks))


def test_one_rank_does_all_there_is():
    stack = random(3, 4, 5, seed=0)
    assert share_out(stack, 4, lambda whole: 2 * whole).equal(2 * stack)


def spread(full, parameter):
    """Return a tensor spread over the ranks as a parameter is."""
    if own_part(parameter) is parameter:
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        full, parameter.device_mesh, parameter.placements, src_data_rank=None
    ).detach()


def whole(tensor):
    tensor = tensor.detach()
    return (tensor if own_part(tensor) is tensor else tensor.full_tensor()).clone()


def give_gradients(model, seed, bad=None):
    for number, (name, parameter) in enumerate(model.named_parameters()):
        gradient = random(*parameter.shape, seed=100 * seed + number)
        if name == bad:
            gradient[-1] = math.nan  # the others' part of it is sound
        parameter.grad = spread(gradient, parameter)


def make_muon(model, dtype, ranks):
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "table" not in name]
    rest = [p for name, p in named if p.dim() == 1 or "table" in name]
    groups = [
        {"params": matrices, "optimizer": "muon", "weight_decay": 0.3},
        {"params": rest, "optimizer": "adamw", "weight_decay": 0.1},
    ]
    return Muon(groups, 0.02, dtype=dtype, momentum_warmup_steps=20, ranks=ranks)


def trained(model, dtype, ranks):
    """Return the weights after some updates with the same gradients, and the norms of what was orthogonalised first."""
    optimizer, original, norms = make_muon(model, dtype, ranks), muon.orthogonalize, []

    def noting(matrices, dtype):
        norms.extend(matrices.float().norm(dim=(1, 2)).tolist())
        return original(matrices, dtype)

    for step in range(STEPS):
        give_gradients(model, step)
        muon.orthogonalize = noting if step == 0 else original
        optimizer.step()
        if step == STEPS // 2:  # as from a checkpoint
            kept = {
                f"{name}/{key}": tensor.clone()
                for name, parameter in model.named_parameters()
                for key, tensor in optimizer.state[parameter].items()
            }
            optimizer = make_muon(model, dtype, ranks)
            restore_optimizer(optimizer, model, kept)
    for parameter in optimizer.param_groups[0]["params"]:
        buffer = optimizer.state[parameter]["momentum_buffer"]
        assert own_part(buffer)._base is not None
        assert buffer.shape == parameter.shape
        assert getattr(buffer, "placements", None) == getattr(parameter, "placements", None)
    return {name: whole(p) for name, p in model.named_parameters()}, norms


def clipped(model, ranks):
    give_gradients(model, 1)
    norm = clip_gradient(model.parameters(), 0.5, torch.tensor(3.0), ranks)
    return norm, {name: whole(p.grad) for name, p in model.named_parameters()}


def guarded(model, ranks, on_device):
    """Return why an update was left out in which one rank has a bad number, and whether it was."""
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    guard = Guard(optimizer, model.named_parameters(), on_device=on_device, ranks=ranks)
    before = [whole(p) for p in model.parameters()]
    give_gradients(model, 1, bad="wide3")
    clip_gradient(model.parameters(), 0.5, torch.tensor(3.0), ranks)
    optimizer.step()
    optimizer.zero_grad()
    same = all(
        torch.equal(old, whole(p)) for old, p in zip(before, model.parameters(), strict=True)
    )
    give_gradients(model, 2)
    optimizer.step()
    (seen,) = guard.look({}, 2, [torch.tensor(3.0)] * 2)
    moved = not any(
        torch.equal(old, whole(p)) for old, p in zip(before, model.parameters(), strict=True)
    )
    return seen.step, seen.reason, same, moved


@torch.no_grad()
def measured(blocks, ranks):
    ratio = UpdateRatio(blocks, ranks)
    ratio.remember()
    for number, parameter in enumerate(blocks.parameters()):
        change = random(*parameter.shape, seed=number)
        own_part(parameter).add_(own_part(spread(change, parameter)))
    return ratio.measure()


def on_ranks(ranks):
    """Return all that is compared, for each way to lay out a model on four ranks; two of them are two runs of two."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    line = init_device_mesh("cpu", (4,))
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    copies, shards = grid["copies"].get_group(), grid["shards"].get_group()
    found = {}
    for layout, mesh, ranks.shards, ranks.copies in (
        ("ddp 2", None, None, shards),
        ("ddp 4", None, None, dist.group.WORLD),
        ("fsdp 2", grid["shards"], shards, None),
        ("fsdp 4", line, dist.group.WORLD, None),
        ("hsdp 2 x 2", grid, shards, copies),
    ):

        def made(seed=0, mesh=mesh):
            weights = Weights(seed)
            return weights if mesh is None else fully_shard(weights, mesh=mesh)

        found[layout] = {name: trained(made(), dtype, ranks) for name, dtype in PRECISIONS.items()}
        if layout in ("ddp 4", "fsdp 4", "hsdp 2 x 2"):
            found[layout]["clipped"] = clipped(made(), ranks)
            found[layout]["guarded"] = [guarded(made(), ranks, flag) for flag in (False, True)]
            found[layout]["ratio"] = measured(nn.ModuleList([made(1), made(2)]), ranks)
    return found


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return in_processes(on_ranks, 4, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    return {name: trained(Weights(), dtype, ALONE) for name, dtype in PRECISIONS.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "noise"), [("fp32", 1e-5), ("bf16", 1e-2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_muon_of_several_ranks_is_that_of_one(several, alone, layout, precision, noise):
    expected, _ = alone[precision]
    for rank in several:
        weights, _ = rank[layout][precision]
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=noise, rtol=0)
            assert weight.equal(several[0][layout][precision][0][name])  # copies do not drift apart


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_matrix_is_orthogonalised_by_one_rank(several, alone, layout):
    ranks = several[:2] if layout.endswith(" 2") and "x" not in layout else several
    shares = [rank[layout]["fp32"][1] for rank in ranks]
    assert sorted(norm for share in shares for norm in share) == pytest.approx(
        sorted(alone["fp32"][1])
    )
    most = sum(-(-COUNTS[kind] // len(ranks)) for kind in ("wide", "tall", "square"))
    assert max(map(len, shares)) == most


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp 4", "fsdp 4", "hsdp 2 x 2"])
def test_the_norm_is_that_of_the_whole_gradient_and_all_of_it_is_clipped(several, layout):
    expected, gradients = clipped(Weights(), ALONE)
    for rank in several:
        norm, found = rank[layout]["clipped"]
        torch.testing.assert_close(norm, expected)
        torch.testing.assert_close(found, gradients)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp 4", "fsdp 4", "hsdp 2 x 2"])
def test_what_one_rank_finds_in_its_part_all_leave_out(several, layout):
    expected = [guarded(Weights(), ALONE, flag) for flag in (False, True)]
    assert expected == [(1, "the gradient of wide3 is not finite (the loss is 3)", True, True)] * 2
    assert [rank[layout]["guarded"] for rank in several] == [expected] * 4


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp 4", "fsdp 4", "hsdp 2 x 2"])
def test_the_ratio_is_that_of_whole_matrices(several, layout):
    expected = measured(nn.ModuleList([Weights(1), Weights(2)]), Ranks())
    for rank in several:
        assert rank[layout]["ratio"] == pytest.approx(expected, rel=1e-3)
