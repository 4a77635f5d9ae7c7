"""Ids in; a model that knows which token follows which, and what it is worth on text it has not seen, out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bigram(nn.Module):
    """(B, T) ids -> (B, T, V) logits of the id that comes next.

    Attributes:
        embedding: V rows of `hidden` channels.
        output: a linear layer from `hidden` to V.
    """

    def __init__(self, vocab_size: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden)
        self.output = nn.Linear(hidden, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits."""
        return self.output(self.embedding(ids).tanh())


def pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs and the targets in a text of (n,) ids, (n - 1,) each."""
    return ids[:-1], ids[1:]


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return how badly a model foretells a text of (n,) ids: the mean in nats, a tensor of one number."""
    inputs, targets = pairs(ids)
    return F.cross_entropy(model(inputs), targets)


def train_bigram(ids: Tensor, vocab_size: int, steps: int = 40) -> tuple[nn.Module, float]:
    """Return a `Bigram` of 32 hidden channels, trained on all but the last tenth of (n,) ids, and its loss there.

    Each step takes the whole training part; the optimiser is AdamW with a learning rate of 0.03.
    """
    cut = len(ids) * 9 // 10
    train, held_out = ids[:cut], ids[cut:]
    model = Bigram(vocab_size, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(steps):
        step_loss = loss(model, train)
        optimizer.zero_grad()
        step_loss.backward()
        optimizer.step()
    return model, loss(model, held_out).item()
