"""A GPT in, the same computation in few operations out, with the keys and values of many texts.

Each text has a slot. A prompt is read at once (prefill); then each step takes one token of each of the first slots,
however long their texts are (decode). What is computed is what `GPT` computes, which is the oracle of this file.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minigpt.config import ModelConfig
from minigpt.inference.packed import NormedProduct, Product
from minigpt.model.attention import attend
from minigpt.model.transformer import GPT
from minigpt.runtime import DTYPES

# The number of the layer, (N, H, D) queries, (N, 2K, D) keys and then values -> (N, H * D).
Look = Callable[[int, Tensor, Tensor], Tensor]
FIRST_ROOM = 8192  # positions; where a text needs more, twice as many
READ_AT_ONCE = 2048  # tokens of a prompt, whose activations then exist together
MLPS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functools.partial(F.gelu, approximate="tanh"),
    "gelu_exact": F.gelu,
    "relu2": lambda x: F.relu(x).square(),
}


class DecoderBlock:
    """(N, C) -> (N, C): a block whose matrices are one where they read the same.

    The channels of a head that turn together stand side by side, so that a rotation is one product of complex numbers.
    """

    def __init__(self, block: Any, config: ModelConfig, precision: str, rows: int) -> None:
        self.config, a, mlp = config, block.attention, block.mlp
        how = (precision, rows)
        D = config.head_dim  # noqa: N806 - the letters of the legend
        order = torch.arange(D, device=a.query.weight.device)
        if config.position == "rope":
            order = order.view(2, -1).T.flatten()  # 0, D/2, 1, D/2 + 1, …
        turned = [
            (_by_head(part.weight, order), _by_head(part.bias, order)) for part in (a.query, a.key)
        ]
        others = [(part.weight, part.bias) for part in (a.value, a.gate) if part is not None]
        self.width = (config.n_head + 2 * config.n_kv_head) * D
        self.inputs = NormedProduct(block.attention_norm, *_stacked(turned + others), *how)
        self.output = Product(a.output.weight, precision, a.output.bias, rows)
        gains = None
        if config.qk_norm:
            query, key = (norm.weight[order] for norm in (a.query_norm, a.key_norm))
            gains = torch.cat([query.expand(config.n_head, D), key.expand(config.n_kv_head, D)])
        self.gains = gains  # (H + K, D)
        parts = [mlp.gate, mlp.up] if config.mlp == "swiglu" else [mlp.up]
        weights = _stacked([(part.weight, part.bias) for part in parts])
        self.up = NormedProduct(block.mlp_norm, *weights, *how)
        self.down = Product(mlp.down.weight, precision, mlp.down.bias, rows)

    def __call__(
        self, x: Tensor, rotation: Tensor | None, look: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return the stream after this block.

        Args:
            x: (N, C), or (C,) and everything else without N, too.
            rotation: (N, 1, D/2), a complex number of length 1 for each pair of channels.
            look: queries, keys and values of the rows -> what each has gathered, (N, H * D).
        """
        c, y = self.config, self.inputs(x)
        heads = y.narrow(-1, 0, self.width).view(*x.shape[:-1], -1, c.head_dim)  # (N, H + 2K, D)
        turned, value = heads.split([c.n_head + c.n_kv_head, c.n_kv_head], dim=-2)
        if self.gains is not None:
            turned.copy_(F.rms_norm(turned, (c.head_dim,), eps=c.norm_eps) * self.gains)
        if rotation is not None:
            heads = _rotated(heads, turned, value, rotation)
        gathered = look(*heads.split([c.n_head, 2 * c.n_kv_head], dim=-2))
        if y.size(-1) > self.width:
            gathered = gathered * F.silu(y.narrow(-1, self.width, y.size(-1) - self.width))
        x = self.output.onto(x, gathered)
        if c.mlp == "swiglu":
            gate, up = self.up(x).chunk(2, dim=-1)
            return self.down.onto(x, F.silu(gate).mul_(up))
        return self.down.onto(x, MLPS[c.mlp](self.up(x)))


class Decoder:
    """Computes the next logits of many texts, each in a slot of its own.

    Attributes:
        config: the model's.
        precision: fp32, bf16, fp16, or int8: weights in whole numbers, with bf16 between them. The stream is in fp32.
        slots: how many texts it holds.
        cache: the keys and values that each layer remembers, (2, slots, K, room, D).
        alone: a faster way to step where there is one text, if there is one: a token and its position, not 0, to
            logits, (1, V).
    """

    can_share = True

    def __init__(self, model: GPT, precision: str = "fp32", slots: int = 1) -> None:
        self.config, self.precision = model.config, precision
        self.dtype = DTYPES.get(precision, torch.bfloat16)
        with torch.no_grad():
            blocks = (DecoderBlock(block, self.config, precision, slots) for block in model.blocks)
            self.blocks = list(blocks)
            self.head = NormedProduct(model.norm, model.head.weight, None, precision, slots)
            self.embedding = model.embedding.weight.to(self.dtype)
            if self.config.position == "learned":
                places, rotations = model.position_embedding.weight, None
            else:
                places, rotations = None, torch.complex(model.rotary.cos, model.rotary.sin)
        self.places = places  # (block_size, C)
        self.rotations = rotations  # (block_size, D/2)
        self.device, self.slots = model.head.weight.device, slots
        self.alone: Callable[[int, int], Tensor] | None = None
        self.cache: list[Tensor] = []
        self._first: list[Tensor] = []  # of each layer, (2, 1, K, room, D)
        self._make_room(min(self.config.block_size, FIRST_ROOM))

    def hidden(self, ids: Tensor, *, cache: None = None, documents: Tensor | None = None) -> Tensor:
        """Return the stream before the last norm, which `head` takes, (B, T, C), as `GPT.hidden` but without a cache.

        So is measured what is decoded.

        Args:
            ids: (B, T).
            cache: none; a slot serves for that.
            documents: (B, T), the document of each position; attention then stays inside it.
        """
        mask = None
        if documents is not None:
            mask = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
        places = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
        return self.hidden_at(ids, places, mask)

    def hidden_at(self, ids: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """Return the stream before the last norm, (B, T, C), of tokens that need not stand in their order.

        Args:
            ids: (B, T).
            places: (B, T), the position of each.
            mask: (B, 1, T, T), true where a token may look; None: it looks at itself and what is before it.
        """
        shape = ids.shape

        def look(layer: int, query: Tensor, key_value: Tensor) -> Tensor:
            parts = (
                part.to(self.dtype).unflatten(0, shape).transpose(1, 2)
                for part in (query, *key_value.chunk(2, dim=1))
            )  # (B, H or K, T, D)
            return attend(*parts, mask).transpose(1, 2).flatten(0, 1).flatten(1)

        stream = self.stream(*self.begin(ids.flatten(), places.flatten()), look)
        return stream.unflatten(0, shape)

    @torch.inference_mode()
    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> Tensor:
        """Return the logits after the last of new tokens in one slot, (V,).

        Args:
            slot: where they are remembered.
            ids: the new tokens.
            start: how many stand before them in the slot.
        """
        self._make_room(start + len(ids))
        for i in range(0, len(ids), READ_AT_ONCE):
            logits = self._read(slot, ids[i : i + READ_AT_ONCE], start + i)
        return logits

    def _read(self, slot: int, ids: Sequence[int], start: int) -> Tensor:
        end = start + len(ids)
        mask = None
        if start and len(ids) > 1:
            mask = torch.ones(len(ids), end, dtype=torch.bool, device=self.device).tril(start)

        def look(layer: int, query: Tensor, key_value: Tensor) -> Tensor:
            part = self.cache[layer][:, slot, :, :end]  # (2, K, S, D)
            part[:, :, start:] = key_value.unflatten(1, (2, -1)).permute(1, 2, 0, 3)
            query = query.transpose(0, 1).unsqueeze(0).to(self.dtype)  # (1, H, T, D)
            return attend(query, part[:1], part[1:], mask)[0].transpose(0, 1).flatten(1)

        x = self.stream(*self.begin(torch.tensor(ids, device=self.device), slice(start, end)), look)
        return self.head(x[-1:])[0]

    def step(self, ids: Sequence[int], places: Sequence[int]) -> Tensor:
        """Return the logits after one more token in each of the first slots, (B, V).

        Args:
            ids: the token of each slot.
            places: how many stand before it there.
        """
        self._make_room(max(places) + 1)
        if len(ids) > 1:
            return self._step_together(ids, places)
        if self.alone is not None and places[0]:
            return self.alone(ids[0], places[0])
        return self.step_alone(ids[0], places[0])

    @torch.inference_mode()
    def _step_together(self, ids: Sequence[int], places: Sequence[int]) -> Tensor:
        at = torch.tensor(places, device=self.device)
        end, rows = max(places) + 1, torch.arange(len(ids), device=self.device)
        mask = None
        if min(places) + 1 < end:
            seen = torch.arange(end, device=self.device) <= at[:, None]  # (B, S)
            mask = seen[:, None, None]

        def look(layer: int, query: Tensor, key_value: Tensor) -> Tensor:
            part = self.cache[layer][:, : len(ids)]  # (2, B, K, room, D)
            part[:, rows, :, at] = key_value.unflatten(1, (2, -1)).to(self.dtype)
            query = query.unsqueeze(2).to(self.dtype)  # (B, H, 1, D)
            keys, values = part[:, :, :, :end].unbind(0)
            return attend(query, keys, values, mask).flatten(1)

        return self(*self.begin(torch.tensor(ids, device=self.device), at), look)

    @torch.inference_mode()
    def step_alone(self, token: int, place: int) -> Tensor:
        """Return the logits after one more token in the first slot, (1, V); without N there are fewer operations."""

        def look(layer: int, query: Tensor, key_value: Tensor) -> Tensor:
            part, shape = self._first[layer], (1, -1, 1, c.head_dim)
            part.select(3, place).copy_(key_value.view(2, 1, -1, c.head_dim))
            keys, values = part.narrow(3, 0, place + 1).unbind(0)  # (1, K, S, D)
            return attend(query.to(self.dtype).view(shape), keys, values).view(-1)

        c, x = self.config, self.embedding[token].float()
        if self.places is not None:
            x = x + self.places[place]
        rotation = None if self.rotations is None else self.rotations[place]
        return self(x, rotation, look).unsqueeze(0)

    def _make_room(self, wanted: int) -> None:
        """Have place for so many positions in each slot, and for one more than is used: compiled.py."""
        c, room = self.config, self.cache[0].size(3) - 1 if self.cache else 0
        if wanted <= room:
            return
        more = min(c.block_size, max(wanted, 2 * room))
        shape = (2, self.slots, c.n_kv_head, more + 1, c.head_dim)
        before = self.cache
        self.cache = [_zeros(shape, self.dtype, self.device) for _ in self.blocks]
        for new, old in zip(self.cache, before, strict=False):
            new[:, :, :, : room + 1] = old
        self._first = [part[:, :1] for part in self.cache]
        self.alone = None  # it was for slots of the former size

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Have a slot remember the first tokens of another."""
        for part in self.cache:
            part[:, target, :, :length] = part[:, source, :, :length]

    def begin(self, ids: Tensor, places: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Return what the blocks start from: the stream, (N, C), and the rotations, (N, 1, D/2).

        Args:
            ids: (N,).
            places: the position of each.
        """
        x = F.embedding(ids, self.embedding).float()
        if self.places is not None:
            x = x + self.places[places]
        return x, None if self.rotations is None else self.rotations[places].unsqueeze(-2)

    def stream(self, x: Tensor, rotation: Tensor | None, look: Look) -> Tensor:
        """Return the stream before the last norm, (N, C), from what `begin` returns and how a layer attends."""
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, functools.partial(look, layer))
        return x

    def __call__(self, x: Tensor, rotation: Tensor | None, look: Look) -> Tensor:
        """Return the logits of every row, (N, V)."""
        return self.head(self.stream(x, rotation, look))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on a CPU such that takes no memory before it is written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    kind = {4: np.float32, 2: np.int16}[dtype.itemsize]
    return torch.from_numpy(np.zeros(shape, kind)).view(dtype)


def _by_head(part: Any, order: Tensor) -> Any:
    """Return weights or biases, (heads * D, …), with the channels of each head in another order; None stays None."""
    if part is None:
        return None
    return part.unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)


def _stacked(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Return weights and biases one above the other; what is alone stays what it is."""
    if len(parts) == 1:
        return parts[0]
    weights, biases = zip(*parts, strict=True)
    return torch.cat(weights), None if biases[0] is None else torch.cat(biases)


def _rotated(heads: Tensor, turned: Tensor, value: Tensor, rotation: Tensor) -> Tensor:
    """Return (N, H + 2K, D) with the pairs of channels turned, in queries and keys, in place.

    For the compiler, which knows neither complex numbers nor places, the rotation comes as (N, 1, D/2, 2).
    """
    pairs = turned.view(*turned.shape[:-1], -1, 2)
    if rotation.is_complex():
        torch.view_as_complex(pairs).mul_(rotation)
        return heads
    (a, b), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
    after = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).view(turned.shape)
    return torch.cat([after, value], dim=-2)
