"""The part of a block that looks back: each position takes from the earlier ones what it asks for.

Vaswani et al. (2017), section 3.2; grouped heads as in Ainslie et al. (2023), multi-query as in Shazeer (2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.model.casting import Linear, RMSNorm, scaled_dot_product_attention
from minigpt.model.rope import rotate

Rotation = tuple[Tensor, Tensor] | None
Mask = Tensor | None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask = None) -> Tensor:
    """Return the attention of each query over keys and values, (B, H, T, D).

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D), where K divides H: query head h uses key/value head h // (H / K).
        value: like key.
        mask: (T, S) or (B, 1, T, S), true where a query may look; None: a single query sees all, several are causal.
    """
    causal, grouped = mask is None and query.size(2) > 1, query.size(1) != key.size(1)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def attend_by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Mask = None) -> Tensor:
    """Return what `attend` returns, written out: the oracle of the fused kernel."""
    (_, H, T, D), S = query.shape, key.size(2)  # noqa: N806 - the letters of the legend
    key, value = (x.repeat_interleave(H // x.size(1), dim=1) for x in (key, value))  # (B, H, S, D)
    scores = query @ key.transpose(-2, -1) / D**0.5  # (B, H, T, S)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights @ value


class Cache:
    """Keys and values of the positions already seen: attention writes, `GPT` advances once for all layers.

    Room for `block_size` positions is made at the first write, of its kind. Used without gradients (`torch.no_grad`).

    Attributes:
        length: positions seen.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.length = 0
        self._config = config.resolve()
        self._stored: Tensor | None = None

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new positions, (B, K, T, D); return all of the layer's, (B, K, S, D)."""
        if self._stored is None:
            (B, K, _, D), c = key.shape, self._config  # noqa: N806 - the letters of the legend
            self._stored = key.new_zeros(c.n_layer, 2, B, K, c.block_size, D)
        end = self.length + key.size(2)
        keys, values = self._stored[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]


class Attention(nn.Module):
    """(B, T, C) -> (B, T, C), causal, with H query heads over K key/value heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        queries, keys = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        self.query = Linear(config.n_embd, queries, bias=config.bias)
        self.key = Linear(config.n_embd, keys, bias=config.bias)
        self.value = Linear(config.n_embd, keys, bias=config.bias)
        self.output = Linear(queries, config.n_embd, bias=config.bias)
        # Henry et al. (2020), as RMSNorm in Qwen3.
        kind = RMSNorm if config.qk_norm else nn.Identity
        self.query_norm, self.key_norm = (kind(config.head_dim, eps=config.norm_eps) for _ in "qk")
        gated = config.attention_gate == "silu"
        self.gate = Linear(config.n_embd, queries, bias=config.bias) if gated else None

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Mask = None, cache: Cache | None = None
    ) -> Tensor:
        """Return what each position has gathered, (B, T, C)."""
        query, key, value = (
            part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H or K, T, D)
            for part in (self.query, self.key, self.value)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if cache is not None:
            key, value = cache.write(self.layer, key, value)
        gathered = attend(query, key, value, mask).transpose(1, 2).flatten(2)  # (B, T, H * D)
        if self.gate is not None:
            gathered = gathered * F.silu(self.gate(x))
        return self.output(gathered)
