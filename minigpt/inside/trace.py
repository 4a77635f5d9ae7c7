"""A model and ids in, all that happens on the way to the logits out: the stream, what is added to it, who looks where.

The forward pass of `GPT`, written out with the model's own parts, so that the model knows nothing of being looked at
and may be computing something else meanwhile. A test holds it to the real one, bit for bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt.model.attention import Attention, Rotation
from minigpt.model.rope import rotate
from minigpt.model.transformer import GPT


@dataclass(frozen=True)
class Pass:
    """What one block does with a batch.

    Attributes:
        query: (B, H, T, D), as it meets the keys: normed and turned.
        key: (B, K, T, D), likewise; query head h meets key head h // (H / K).
        value: (B, K, T, D).
        weights: (B, H, T, T), how much of each value (column) each position (row) takes; rows sum to 1.
        attention: (B, T, C), what attention adds to the stream.
        mlp: (B, T, C), what the MLP adds.
        stream: (B, T, C), afterwards.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    attention: Tensor
    mlp: Tensor
    stream: Tensor


@dataclass(frozen=True)
class Trace:
    """What a model does with one text, on the CPU in fp32.

    Attributes:
        ids: (T,).
        stream: (L + 1, T, C), after the embedding and after each block.
        attention: (L, T, C), what attention adds.
        mlp: (L, T, C), what the MLP adds.
        query: (L, H, T, D).
        key: (L, K, T, D).
        value: (L, K, T, D).
        weights: (L, H, T, T).
    """

    ids: Tensor
    stream: Tensor
    attention: Tensor
    mlp: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor


def embedded(model: GPT, ids: Tensor) -> Tensor:
    """Return the stream before the first block, (B, T, C), of ids (B, T)."""
    x = model.embedding(ids)
    if model.config.position == "learned":
        x = x + model.position_embedding.weight[: ids.size(1)]
    return x


def passes(model: GPT, ids: Tensor) -> Iterator[Pass]:
    """Yield what each block does with ids (B, T); at most the context, without dropout."""
    x = embedded(model, ids)
    rotation = None if model.config.position == "learned" else model.rotary(0, ids.size(1))
    blocks: Any = model.blocks
    for block in blocks:
        normed = block.attention_norm(x)
        query, key, value = meeting(block.attention, normed, rotation)
        attention = block.attention(normed, rotation)
        x = x + attention
        mlp = block.mlp(block.mlp_norm(x))
        x = x + mlp
        yield Pass(query, key, value, weights_of(query, key), attention, mlp, x)


def meeting(attention: Attention, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of normed positions (B, T, C) as the softmax gets them."""
    query, key, value = (
        part(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    )
    query, key = attention.query_norm(query), attention.key_norm(key)
    if rotation is not None:
        query, key = rotate(query, *rotation), rotate(key, *rotation)
    return query, key, value


def weights_of(query: Tensor, key: Tensor) -> Tensor:
    """Return the causal attention weights, (B, H, T, T) in fp32, of queries (B, H, T, D) over keys (B, K, T, D)."""
    query, key = query.float(), key.float().repeat_interleave(query.size(1) // key.size(1), dim=1)
    scores = query @ key.transpose(-2, -1) / query.size(-1) ** 0.5
    above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(above, float("-inf")).softmax(dim=-1)


@torch.inference_mode()
def trace(model: GPT, ids: list[int]) -> Trace:
    """Return what a model does with one text of at most its context."""
    given = torch.tensor([ids], device=model.head.weight.device)
    start, done = embedded(model, given), list(passes(model, given))

    def layers(name: str) -> Tensor:
        return torch.stack([getattr(one, name)[0] for one in done]).float().cpu()

    stream = torch.cat([start.float().cpu(), layers("stream")])
    names = ("attention", "mlp", "query", "key", "value", "weights")
    return Trace(given[0].cpu(), stream, **{name: layers(name) for name in names})
