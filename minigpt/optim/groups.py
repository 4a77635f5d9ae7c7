"""A model in, its optimiser out; and the optimiser's state under the names of the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigpt.config import OptimConfig


@dataclass(frozen=True)
class Group:
    """Parameters that are updated by one rule.

    Attributes:
        optimizer: the name of the rule.
        weight_decay: the share of the learning rate by which they shrink in a step.
        names: of the parameters, in the order of the model.
    """

    optimizer: str
    weight_decay: float
    names: tuple[str, ...]


def parameter_groups(shapes: Mapping[str, Sequence[int]], config: OptimConfig) -> list[Group]:
    """Return who updates what: matrices decay, gains and biases do not.

    Args:
        shapes: of the parameters to train, by name.
        config: the settings.
    """
    matrices = tuple(name for name, shape in shapes.items() if len(shape) >= 2)
    vectors = tuple(name for name, shape in shapes.items() if len(shape) < 2)
    groups = [Group("adamw", config.weight_decay, matrices), Group("adamw", 0.0, vectors)]
    return [group for group in groups if group.names]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return fused AdamW (Loshchilov and Hutter, 2019) over the groups of the parameters that require a gradient."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [trained[name] for name in group.names], "weight_decay": group.weight_decay}
        for group in parameter_groups({name: p.shape for name, p in trained.items()}, config)
    ]
    return torch.optim.AdamW(groups, config.lr, (config.beta1, config.beta2), fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return {"parameter/key": tensor} of everything that the optimiser remembers."""
    return {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
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
