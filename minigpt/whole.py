"""Tensors of which each process holds a part in, whole ones in the memory of the first process out; and back."""

import torch
import torch.distributed as dist
from torch import Tensor

from minigpt.config import ModelConfig
from minigpt.model.transformer import GPT
from minigpt.model.undrawn import DrawnElsewhere
from minigpt.ranks import Ranks, own_part


def whole(tensors: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return the full tensors in host memory on the first rank, {} on the others; all of them call it.

    They are put together one after another, so that a device holds one at a time. Names of one tensor get one tensor.
    """
    done: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in done:
            full = tensor.detach()
            if hasattr(full, "full_tensor"):
                full = full.full_tensor()  # ty: ignore[not-callable]
            # An empty one keeps the place of what the others do not need.
            done[id(tensor)] = full.to("cpu", copy=True) if ranks.is_first else full.new_empty(0)
    return {name: done[id(tensor)] for name, tensor in tensors.items()} if ranks.is_first else {}


def spread(tensors: dict[str, Tensor], into: dict[str, Tensor], ranks: Ranks) -> None:
    """Give tensors, which may be in parts, the values of the first rank's; all ranks call it.

    Args:
        tensors: whole, by name; a tensor of two names may be under either. Those of other ranks are not looked at.
        into: of a model, by name; they stay where they are.
        ranks: who takes part.
    """
    names: dict[Tensor, list[str]] = {}
    for name, tensor in into.items():
        names.setdefault(tensor, []).append(name)
    for tensor, known in names.items():
        part = own_part(tensor.detach())
        if ranks.is_first:
            value = next(tensors[name] for name in known if name in tensors)
            full = value.to(part.device, part.dtype).contiguous()
        else:
            full = torch.empty(tensor.shape, dtype=part.dtype, device=part.device)
        if ranks.size > 1:
            dist.broadcast(full, src=0)
        part.copy_(part_of(full, tensor))


class Sketch(GPT):
    """A model that takes no memory before it is sharded: its first weights are drawn afterwards, in parts."""

    def __init__(self, config: ModelConfig) -> None:
        with DrawnElsewhere():
            super().__init__(config)

    def _initialise(self) -> None:
        self.random_state = torch.get_rng_state()

    @torch.no_grad()
    def draw_parts(self) -> None:
        """Take the first weights that the whole model would have; one tensor at a time is whole, in host memory."""
        torch.set_rng_state(self.random_state)
        # A table that is also the head was drawn as both, one after the other.
        for name, parameter in self.named_parameters(remove_duplicate=False):
            full = torch.ones(parameter.shape)
            self.draw(name, full)
            own_part(parameter).copy_(part_of(full, parameter))


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """Return of a whole tensor the part that this process holds of another of the same shape."""
    if hasattr(like, "__create_chunk_list__"):
        (place,) = like.__create_chunk_list__()  # ty: ignore[not-callable]
        for dim, (start, size) in enumerate(zip(place.offsets, place.sizes, strict=True)):
            full = full.narrow(dim, start, size)
    return full
