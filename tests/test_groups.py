import torch

from minigpt.config import OptimConfig
from minigpt.model.transformer import GPT
from minigpt.optim.groups import (
    Group,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
)

from .conftest import tiny


def test_matrices_decay_and_vectors_do_not():
    model = GPT(tiny(bias=True, qk_norm=True))
    decayed, kept = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_groups_follow_from_names_and_shapes_alone():
    shapes = {"table": (9, 4), "block.gain": (4,), "block.matrix": (4, 4), "bias": (9,)}
    assert parameter_groups(shapes, OptimConfig(weight_decay=0.2)) == [
        Group("adamw", 0.2, ("table", "block.matrix")),
        Group("adamw", 0.0, ("block.gain", "bias")),
    ]
    assert parameter_groups({"bias": (9,)}, OptimConfig()) == [Group("adamw", 0.0, ("bias",))]


def test_frozen_parameters_are_left_alone():
    model = GPT(tiny())
    model.embedding.weight.requires_grad_(False)
    grouped = [p for g in make_optimizer(model, OptimConfig()).param_groups for p in g["params"]]
    assert all(p is not model.embedding.weight for p in grouped)


def advance(model, optimizer, seed):
    torch.manual_seed(seed)
    model(torch.randint(0, 29, (2, 12))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_optimiser_goes_on_bit_for_bit():
    torch.manual_seed(0)
    model = GPT(tiny())
    optimizer = make_optimizer(model, OptimConfig())
    for seed in range(3):
        advance(model, optimizer, seed)
    tensors = {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()}
    assert len(tensors) == 3 * len(list(model.parameters()))
    other = GPT(tiny())
    other.load_state_dict(model.state_dict())
    restored = make_optimizer(other, OptimConfig())
    restore_optimizer(restored, other, tensors)
    for seed in range(3, 5):
        advance(model, optimizer, seed)
        advance(other, restored, seed)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
