"""Logits in, the next token out."""

import torch
from torch import Tensor


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Return the distribution to draw from, (V,).

    Args:
        logits: (V,), no two of them equal.
        temperature: 0 gives the likeliest token all.
        top_k: only so many of the likeliest stay; 0: all.
        top_p: only the likeliest stay that together reach it; 1: all.
    """
    if temperature == 0:
        return (logits == logits.max()).float()
    scaled = logits / temperature
    if top_k > 0:
        least = scaled.topk(min(top_k, len(scaled))).values[-1]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    shares = scaled.softmax(dim=0)
    if top_p < 1:
        ordered, ids = shares.sort(descending=True)
        before = ordered.cumsum(0) - ordered  # the share of those that are likelier
        dropped = before >= top_p
        dropped[0] = False
        shares[ids[dropped]] = 0.0
    return shares / shares.sum()


def sample(
    logits: Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> int:
    """Return a token drawn from that distribution with the generator."""
    shares = probabilities(logits, temperature, top_k, top_p)
    return int(torch.multinomial(shares, 1, generator=generator))
