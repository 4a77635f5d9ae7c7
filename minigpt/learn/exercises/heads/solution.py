"""Positions in, what each has gathered from itself and those before it out: by several heads."""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """(B, T, C) -> (B, T, C), causal.

    Attributes:
        query, key, value, output: linear layers from C to C without bias.
    """

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_embd, n_embd, bias=False)
        self.key = nn.Linear(n_embd, n_embd, bias=False)
        self.value = nn.Linear(n_embd, n_embd, bias=False)
        self.output = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position has gathered."""
        B, T, C = x.shape  # noqa: N806 - the letters of the legend
        query, key, value = (
            layer(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / query.size(-1) ** 0.5  # (B, H, T, T)
        hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        gathered = weights @ value  # (B, H, T, D)
        return self.output(gathered.transpose(1, 2).reshape(B, T, C))
