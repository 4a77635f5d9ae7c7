"""A model in, its optimiser out; and the optimiser's state under the names of the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigpt.config import OptimConfig
from minigpt.optim.muon import Muon
from minigpt.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Group:
    """Parameters that are updated by one rule.

    Attributes:
        optimizer: the name of the rule, adamw or muon.
        lr: the highest learning rate.
        weight_decay: the share of the learning rate by which they shrink in a step.
        names: of the parameters, in the order of the model.
    """

    optimizer: str
    lr: float
    weight_decay: float
    names: tuple[str, ...]


def parameter_groups(shapes: Mapping[str, Sequence[int]], config: OptimConfig) -> list[Group]:
    """Return who updates what: matrices decay, gains and biases do not; Muon takes the matrices of the blocks.

    The tables and the head stay with AdamW: a row of them stands for one token, and few tokens are in a batch (Jordan
    et al., 2024).

    Args:
        shapes: of the parameters to train, by name.
        config: the settings.
    """
    vectors = tuple(name for name, shape in shapes.items() if len(shape) < 2)
    inner = tuple(
        name
        for name, shape in shapes.items()
        if config.name == "muon" and name.startswith("blocks.") and len(shape) == 2
    )
    outer = tuple(name for name in shapes if name not in {*vectors, *inner})
    groups = [
        Group("muon", config.muon_lr, config.weight_decay, inner),
        Group("adamw", config.lr, config.weight_decay, outer),
        Group("adamw", config.lr, 0.0, vectors),
    ]
    return [group for group in groups if group.names]


def make_optimizer(
    model: nn.Module, config: OptimConfig, ranks: Ranks = ALONE
) -> torch.optim.Optimizer:
    """Return the optimiser over the groups of the parameters that require a gradient.

    It is fused AdamW (Loshchilov and Hutter, 2019), or Muon with that for the rest. A group's `lr_scale` says how many
    times as high as `config.lr` its learning rate is at any time.

    Args:
        model: on its device, sharded if it is to be.
        config: the settings as resolved; where newton_schulz_dtype is still auto, the products are in fp32.
        ranks: who trains it together.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {
            "params": [trained[name] for name in group.names],
            "optimizer": group.optimizer,
            "weight_decay": group.weight_decay,
            "lr": group.lr,
            "lr_scale": 1.0 if group.optimizer == "adamw" else group.lr / config.lr,
        }
        for group in parameter_groups({name: p.shape for name, p in trained.items()}, config)
    ]
    betas = (config.beta1, config.beta2)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, config.lr, betas, fused=True)
    dtype = torch.bfloat16 if config.newton_schulz_dtype == "bf16" else torch.float32
    return Muon(groups, config.lr, momentum=config.momentum, dtype=dtype, betas=betas, ranks=ranks)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return {"parameter/key": tensor} of everything that the optimiser remembers, as it is."""
    return {
        f"{name}/{key}": tensor.detach()
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Give the optimiser back what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter, key = parameters[name.rpartition("/")[0]], name.rpartition("/")[2]
        # A fused optimiser keeps the step count beside the parameter; both live on its device.
        optimizer.state[parameter][key] = tensor.to(parameter.device)
