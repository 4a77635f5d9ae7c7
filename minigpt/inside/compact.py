"""Tensors in; lists of short numbers out, or text with a byte for each: what a page can be sent."""

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

DIGITS = 6


def rounded(values: Tensor) -> Any:
    """Return a tensor as lists of numbers of six digits, or as a number.

    >>> rounded(torch.tensor([1 / 3, 0.0, 12345678.0]))
    [0.333333, 0.0, 12345700.0]
    """
    exact = values.double().numpy()
    size = np.where(exact == 0, 1.0, np.abs(exact))
    places = DIGITS - 1 - np.floor(np.log10(size))
    shift = 10.0 ** np.clip(places, 0, 22)  # powers of ten that are exact
    coarse = 10.0 ** np.clip(-places, 0, 22)
    return (np.round(exact * shift / coarse) * coarse / shift).tolist()


def pack_maps(weights: Tensor) -> str:
    """Return maps (…, T, T) as base64 of their lower triangles, row by row, a byte for each weight: 255 · √weight.

    The root leaves small weights apart that would be one step of 256; it is off by less than 0.004.
    """
    rows, columns = torch.tril_indices(*weights.shape[-2:]).unbind()
    return _bytes_as_text((weights[..., rows, columns].sqrt() * 255).round())


def pack_points(*clouds: Tensor) -> list[str]:
    """Return clouds of points (…, T, 2) as base64, a byte for each number: 128 plus 127 times its share of the largest.

    The largest is that of a head's points in all clouds on either axis, so that they have one scale.
    """
    largest = torch.stack([cloud.abs().amax(dim=(-2, -1), keepdim=True) for cloud in clouds])
    size = largest.amax(dim=0).clamp(min=1e-12)
    return [_bytes_as_text((cloud / size * 127).round() + 128) for cloud in clouds]


def _bytes_as_text(values: Tensor) -> str:
    return base64.b64encode(values.to(torch.uint8).contiguous().numpy().tobytes()).decode()
