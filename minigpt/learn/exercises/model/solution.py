"""Ids in, logits of the next id at every position out: a small GPT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


# Given.
class Attention(nn.Module):
    """(B, T, C) -> (B, T, C), causal, with heads: the last exercise, by torch's fused kernel."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.query, self.key, self.value, self.output = (
            nn.Linear(n_embd, n_embd, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position has gathered."""
        query, key, value = (
            layer(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(gathered.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """(B, T, C) -> (B, T, C), each position alone, with GELU between two layers.

    Attributes:
        up: a linear layer from C to 4C, without bias.
        down: a linear layer from 4C to C, without bias.
    """

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.up = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.down = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the MLP of each position."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """(B, T, C) -> (B, T, C): what attention gathers and what the MLP makes of it, added to the stream.

    Attributes:
        attention_norm, mlp_norm: an nn.LayerNorm each.
        attention: an Attention.
        mlp: an MLP.
    """

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd)
        self.attention = Attention(n_embd, n_head)
        self.mlp_norm = nn.LayerNorm(n_embd)
        self.mlp = MLP(n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after this block."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """(B, T) ids -> (B, T, V) logits.

    Attributes:
        embedding: V rows of C channels.
        position_embedding: block_size rows of C channels.
        blocks: L of them.
        norm: an nn.LayerNorm before the head.
        head: a linear layer from C to V, without bias; its weight is the embedding's.
    """

    def __init__(
        self, vocab_size: int, block_size: int, n_layer: int, n_head: int, n_embd: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the id after each position."""
        x = self.embedding(ids) + self.position_embedding(torch.arange(ids.size(1)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
