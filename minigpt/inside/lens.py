"""The stream after each block in, what the model would foretell if it ended there out.

The logit lens (nostalgebraist, 2020): the last norm and the head, applied to the stream of every layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from minigpt.model.transformer import GPT

TOP = 5


@dataclass(frozen=True)
class Reading:
    """What the model would foretell after some block, for each of T positions.

    Attributes:
        top: (T, 5), the likeliest tokens, the likeliest first.
        probabilities: (T, 5), theirs.
        loss: (T - 1,), of the token that follows in the text, in nats.
        rank: (T - 1,), of the same among all tokens; 1: the likeliest.
    """

    top: Tensor
    probabilities: Tensor
    loss: Tensor
    rank: Tensor


def logits_after(model: GPT, stream: Tensor) -> Tensor:
    """Return the logits, (T, V), of a stream (T, C), as if the block it comes from were the last."""
    return model.head(model.norm(stream))


@torch.inference_mode()
def readings(model: GPT, stream: Tensor, ids: Tensor) -> Iterator[Reading]:
    """Yield what the model would foretell before the first block and after each; stream (L + 1, T, C) of ids (T,)."""
    for layer in stream:
        weight = model.head.weight
        logits = logits_after(model, layer.to(weight.device, weight.dtype)).float().cpu()
        yield read(logits, ids)


def read(logits: Tensor, ids: Tensor) -> Reading:
    """Return what logits (T, V) after ids (T,) foretell."""
    known = logits.log_softmax(dim=-1)
    best = known.topk(min(TOP, known.size(-1)), dim=-1)
    following = known[:-1].gather(-1, ids[1:, None])  # (T - 1, 1)
    rank = (known[:-1] > following).sum(dim=-1) + 1
    return Reading(best.indices, best.values.exp(), -following[:, 0], rank)
