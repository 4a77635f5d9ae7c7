"""Positions of any size in, positions of size one out."""

from torch import Tensor


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) · gain, the mean over the last dimension; computed in float32, of the dtype of x.

    Args:
        x: (…, C).
        gain: (C,).
        eps: added to the mean of the squares.
    """
    wide = x.float()
    size = (wide.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return (wide / size * gain.float()).to(x.dtype)


def layer_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) · gain, over the last dimension; computed and returned as above."""
    wide = x.float()
    return rms_norm(wide - wide.mean(dim=-1, keepdim=True), gain, eps).to(x.dtype)
