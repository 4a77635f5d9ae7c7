"""A model in, its optimiser out; and the optimiser's state under the names of the parameters."""

import torch
from torch import Tensor, nn

from minigpt.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return fused AdamW (Loshchilov and Hutter, 2019); matrices decay, gains and biases do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], config.lr, betas, fused=True)


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
