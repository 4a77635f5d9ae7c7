"""A model in, the same model out with small matrices beside its own, and only they are trained: LoRA.

    y = W x + alpha / r * B A x        A (r, inputs) random, B (outputs, r) zero: a fresh adapter changes nothing

W stays as it is. `merge` adds B A to it, and what is left is a plain model. Hu et al. (2021), section 4.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.config import LoraConfig, check
from minigpt.errors import UserError
from minigpt.finetune.token_rows import move_rows, settle_rows
from minigpt.model.casting import Linear
from minigpt.model.transformer import GPT

# The parts of a block that each choice adapts, as far as a model has them.
TARGETS = {
    "attention": tuple(f"attention.{part}" for part in ("query", "key", "value", "output", "gate")),
    "mlp": tuple(f"mlp.{part}" for part in ("gate", "up", "down")),
}
TARGETS["all"] = TARGETS["attention"] + TARGETS["mlp"]


class LoraLinear(nn.Module):
    """(…, inputs) -> (…, outputs), in the precision of the input.

    Attributes:
        base: the layer it stands for, frozen.
        lora_A: (r, inputs).
        lora_B: (outputs, r).
        scale: alpha / r.
        dropout: on what A reads, in training.
    """

    def __init__(
        self, base: nn.Linear, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The weight with the adapter merged into it, (outputs, inputs), for those who read it: `Decoder`."""
        moved = self.scale * (self.lora_B @ self.lora_A)
        return (self.base.weight + moved).to(self.base.weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """(outputs,), or None."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + alpha / r * B A x."""
        low = F.linear(self.dropout(x), self.lora_A.to(x.dtype))  # (…, r)
        return self.base(x) + F.linear(low, self.lora_B.to(x.dtype)) * self.scale


@dataclass(frozen=True)
class Part:
    """The adapter of one layer: A (r, inputs), B (outputs, r), and the factor before them."""

    a: Tensor
    b: Tensor
    scale: float


def swap_in(model: GPT, config: LoraConfig, *, rows: Sequence[int] = (), seed: int = 0) -> GPT:
    """Put a fresh adapter into a model, freeze all else, and return the model; its logits stay as they are.

    It comes before the model is cast, compiled or shared.

    Args:
        model: changed in place.
        config: rank, alpha, dropout and targets.
        rows: ids whose rows in embedding and head are trained as well.
        seed: of the first weights, which are the same on every device.

    Raises:
        UserError: settings that cannot be, or a row that the model does not have.
    """
    check(config, "lora")
    if not config.rank:
        raise UserError("lora.rank is 0, so there is no adapter to put in; wanted 1 at least")
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for name, layer in linear_layers(model).items():
        if name.split(".", 2)[-1] in TARGETS[config.targets]:
            outputs, inputs = layer.weight.shape
            # As `peft` draws it: what A makes of inputs of size one is of size 0.6, whatever their number.
            a = torch.empty(config.rank, inputs).uniform_(-1, 1, generator=generator) / inputs**0.5
            parts[name] = Part(a, torch.zeros(outputs, config.rank), config.alpha / config.rank)
    return put_in(model, parts, rows=rows, dropout=config.dropout)


def put_in(
    model: GPT, parts: Mapping[str, Part], *, rows: Sequence[int] = (), dropout: float = 0.0
) -> GPT:
    """Put adapters into a model by the names of its layers, and return it with all else frozen; errors as `swap_in`."""
    assert not adapters(model), "merge the adapter that is there first"
    model.requires_grad_(False)
    if rows:
        move_rows(model, rows)
    for name, part in parts.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        a, b = (matrix.to(layer.weight.device) for matrix in (part.a, part.b))
        _set(model, name, LoraLinear(layer, a, b, part.scale, dropout))
    return model


@torch.no_grad()
def merge(model: GPT) -> GPT:
    """Fold all adapters into the weights and return the model, plain and all of it trainable again.

    Raises:
        UserError: a weight would not be finite; nothing is changed then.
    """
    found = adapters(model)
    for name, layer in found.items():
        if not layer.weight.isfinite().all():
            raise UserError(f"{name} with its adapter holds numbers that are not finite")
    for name, layer in found.items():
        layer.base.weight.copy_(layer.weight)
        _set(model, name, layer.base)
    settle_rows(model)
    return model.requires_grad_()


def adapters(model: GPT) -> dict[str, LoraLinear]:
    """Return the layers of a model that have an adapter, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def linear_layers(model: GPT) -> dict[str, nn.Linear]:
    """Return the plain linear layers of the blocks by name."""
    return {
        f"blocks.{number}.{name}": layer
        for number, block in enumerate(model.blocks)
        for name, layer in block.named_modules()
        if isinstance(layer, Linear)
    }


def _set(model: GPT, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
