"""A batch in, its loss out: the one module that is compiled, wrapped and sharded."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minigpt.model.transformer import GPT

IGNORED = -100  # a target that is not counted
# Numbers: 128 MB in fp32. Larger logits are made chunk by chunk and never exist whole.
LOGITS_AT_ONCE = 1 << 25


class TrainStep(nn.Module):
    """The model with its loss around it."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: Tensor, targets: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the summed loss in nats over the counted targets, and their number.

        Args:
            ids: (B, T).
            targets: (B, T); -100 is not counted.
            documents: (B, T), the document of each position, or None.
        """
        hidden = self.model.hidden(ids, documents=documents).flatten(0, 1)  # (B * T, C)
        loss_sum = next_token_loss(self.model.head, hidden, targets.flatten())
        return loss_sum, (targets != IGNORED).sum()


def next_token_loss(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy in nats; over a large vocabulary in chunks that are computed again backward.

    Args:
        head: (N, C) -> (N, V).
        hidden: (N, C).
        targets: (N,); -100 is not counted.
    """
    rows = max(1, LOGITS_AT_ONCE // head.weight.size(0))
    if rows >= len(targets):
        return _cross_entropy(head, hidden, targets)
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    losses = [checkpoint(_cross_entropy, head, h, t, use_reentrant=False) for h, t in chunks]
    return torch.stack(losses).sum()


def _cross_entropy(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, ignore_index=IGNORED, reduction="sum")
