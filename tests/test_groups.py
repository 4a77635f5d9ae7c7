import pytest
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
    assert parameter_groups(shapes, OptimConfig(lr=0.5, weight_decay=0.2)) == [
        Group("adamw", 0.5, 0.2, ("table", "block.matrix")),
        Group("adamw", 0.5, 0.0, ("block.gain", "bias")),
    ]
    assert parameter_groups({"bias": (9,)}, OptimConfig(lr=0.5)) == [
        Group("adamw", 0.5, 0.0, ("bias",))
    ]


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = GPT(tiny(position="learned", bias=True, qk_norm=True, tie_embeddings=False))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    config = OptimConfig(name="muon", lr=0.5, muon_lr=0.25, weight_decay=0.2)
    muon, outer, vectors = parameter_groups(shapes, config)
    assert (muon.optimizer, muon.lr, muon.weight_decay) == ("muon", 0.25, 0.2)
    assert outer == Group(
        "adamw", 0.5, 0.2, ("embedding.weight", "position_embedding.weight", "head.weight")
    )
    assert (vectors.optimizer, vectors.lr, vectors.weight_decay) == ("adamw", 0.5, 0.0)
    kinds = {name.split(".", 2)[2] for name in muon.names}
    assert kinds == {
        "attention.query.weight", "attention.key.weight", "attention.value.weight", "attention.output.weight",
        "mlp.gate.weight", "mlp.up.weight", "mlp.down.weight",
    }  # fmt: skip
    assert len(muon.names) == 2 * len(kinds)
    assert sorted(muon.names + outer.names + vectors.names) == sorted(shapes)


def test_each_group_asks_for_its_multiple_of_the_rate():
    config = OptimConfig(name="muon", lr=0.5, muon_lr=0.25)
    scales = [group["lr_scale"] for group in make_optimizer(GPT(tiny()), config).param_groups]
    assert scales == [0.5, 1.0, 1.0]
    scales = [g["lr_scale"] for g in make_optimizer(GPT(tiny()), OptimConfig()).param_groups]
    assert scales == [1.0, 1.0]


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


@pytest.mark.parametrize(
    ("name", "inside"), [("adamw", {"step", "exp_avg", "exp_avg_sq"}), ("muon", {"step", "momentum_buffer"})]
)  # fmt: skip
def test_a_restored_optimiser_goes_on_bit_for_bit(name, inside):
    torch.manual_seed(0)
    model, config = GPT(tiny()), OptimConfig(name=name)
    optimizer = make_optimizer(model, config)
    for seed in range(3):
        advance(model, optimizer, seed)
    tensors = {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()}
    matrix = "blocks.0.mlp.up.weight/"
    assert {key.removeprefix(matrix) for key in tensors if key.startswith(matrix)} == inside
    assert {key.partition("/")[0] for key in tensors} == set(dict(model.named_parameters()))
    other = GPT(tiny())
    other.load_state_dict(model.state_dict())
    restored = make_optimizer(other, config)
    restore_optimizer(restored, other, tensors)
    for seed in range(3, 5):
        advance(model, optimizer, seed)
        advance(other, restored, seed)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
