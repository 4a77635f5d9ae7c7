"""A text in pieces in, the same results as for the whole text at once out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cache:
    """The keys and values of the positions of one text that were seen.

    Attributes:
        length: how many positions there are.
    """

    def __init__(self) -> None:
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new positions, (B, H, T, D) each; return those of all, (B, H, S, D) each."""
        if self.keys is not None and self.values is not None:
            key = torch.cat((self.keys, key), dim=2)
            value = torch.cat((self.values, value), dim=2)
        self.keys, self.values, self.length = key, value, key.size(2)
        return key, value


def visible(new: int, seen: int) -> Tensor:
    """Return which keys each of `new` queries after `seen` positions may see, (new, seen + new) bool."""
    return torch.ones(new, seen + new, dtype=torch.bool).tril(seen)


# Given.
class Layer(nn.Module):
    """What `forward` works with: tables of tokens and positions, and four matrices without biases."""

    def __init__(self, vocab_size: int, block_size: int, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.query, self.key, self.value, self.output = (
            nn.Linear(n_embd, n_embd, bias=False) for _ in range(4)
        )

    def heads(self, x: Tensor) -> Tensor:
        """Cut (B, T, C) into heads, (B, H, T, D)."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)


def forward(layer: Layer, ids: Tensor, cache: Cache) -> Tensor:
    """Return the causal attention of new ids, (B, T), after those in the cache, (B, T, C); they are in it afterwards.

    The stream is the sum of both tables' rows; queries, keys and values are made of it and cut into heads; what is
    gathered is put together and goes through `layer.output`.
    """
    seen, new = cache.length, ids.size(1)
    x = layer.embedding(ids) + layer.position_embedding(torch.arange(seen, seen + new))
    query, key, value = (layer.heads(part(x)) for part in (layer.query, layer.key, layer.value))
    keys, values = cache.write(key, value)
    mask = visible(new, seen)
    gathered = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return layer.output(gathered.transpose(1, 2).flatten(2))
