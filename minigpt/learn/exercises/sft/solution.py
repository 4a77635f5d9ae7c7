"""A conversation in, ids and the targets that count out."""

import torch
import torch.nn.functional as F
from torch import Tensor

START, END, USER, ASSISTANT = 1, 2, 3, 4
IGNORED = -100

Turn = tuple[int, list[int]]  # the role, USER or ASSISTANT, and the ids of what is said


def written(turns: list[Turn]) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation, and of each whether the assistant says it: its words and their END."""
    ids, said = [], []
    for role, words in turns:
        ids += [START, role, *words, END]
        said += [False, False] + [role == ASSISTANT] * (len(words) + 1)
    return ids, said


def example(turns: list[Turn]) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of n ids, (n - 1,) each; a target that the assistant does not say is -100."""
    ids, said = map(torch.tensor, written(turns))
    return ids[:-1], ids[1:].masked_fill(~said[1:], IGNORED)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of the targets that count, a tensor of one number.

    Args:
        logits: (B, T, V).
        targets: (B, T).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
