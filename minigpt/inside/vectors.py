"""Queries, keys and values in, places in a plane out: principal components (Pearson, 1901), written out."""

import torch
from torch import Tensor

from minigpt.inside.trace import Trace


def project(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (…, N, D) in the plane in which they differ most, (…, N, 2), and the share of variance in it, (…).

    Of the two directions that an axis can have, it takes the one in which its largest part is positive.
    """
    centred = points - points.mean(dim=-2, keepdim=True)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    variance = sizes.square()
    axes = axes[..., :2, :]  # (…, 2, D)
    largest = axes.gather(-1, axes.abs().argmax(dim=-1, keepdim=True))
    found = centred @ (axes * largest.sign()).transpose(-2, -1)
    if found.size(-1) < 2:  # a single channel, or a single point
        found = torch.nn.functional.pad(found, (0, 2 - found.size(-1)))
    total = variance.sum(dim=-1)
    within = variance[..., :2].sum(dim=-1)
    return found, torch.where(total > 0, within / total, 1.0)


def planes(trace: Trace) -> dict[str, Tensor]:
    """Return the vectors of each head in two planes: "query", "key", "value" (L, H, T, 2), and the shares of variance.

    Queries and keys share one, for they meet in a product. First the keys are moved by what takes their mean to that of
    the queries: that adds the same to all scores of a row, and so changes no attention (Yeh et al., 2023). Values have
    their own. "explained" and "value_explained", (L, H), are the shares of variance.
    """
    key, value = (
        x.repeat_interleave(trace.query.size(1) // x.size(1), dim=1)
        for x in (trace.key, trace.value)
    )
    moved = key - key.mean(dim=-2, keepdim=True) + trace.query.mean(dim=-2, keepdim=True)
    together, explained = project(torch.cat([trace.query, moved], dim=-2))
    query, key = together.chunk(2, dim=-2)
    value, value_explained = project(value)
    return {
        "query": query,
        "key": key,
        "value": value,
        "explained": explained,
        "value_explained": value_explained,
    }
