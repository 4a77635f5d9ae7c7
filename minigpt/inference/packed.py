"""Weights in, the same products out, as decoding takes them: few rows at a time, in the precision that was asked for.

With one row a product is as fast as its weights can be read, so that smaller weights are faster.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.runtime import DTYPES


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (outputs, inputs) weights as int8 and a scale for each row; weight = int8 * scale, within half a scale."""
    scale = weight.abs().amax(dim=1).float() / 127  # (outputs,)
    rounded = (weight / scale.clamp(min=1e-30)[:, None]).round()
    return rounded.to(torch.int8), scale


class Product(nn.Module):
    """(N, inputs) -> (N, outputs) by one matrix.

    Attributes:
        weight: (outputs, inputs), in the precision it is read in.
        scale: (outputs,) of int8 weights.
        bias: (outputs,), in fp32.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, precision: str, bias: Tensor | None = None) -> None:
        super().__init__()
        self.dtype, scale = DTYPES.get(precision, torch.bfloat16), None
        if precision == "int8":
            weight, scale = int8_rows(weight)
        else:
            weight = weight.to(self.dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self._low_scale = None if scale is None else scale.to(self.dtype)
        self._prepacked = _prepacked(weight) if precision == "bf16" else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the products, in fp32 or in the precision of the weights."""
        y = self._multiply(x)
        return y if self.bias is None else y + self.bias

    def _multiply(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # of a sum the compiler makes one loop over the weights
            sums = (x.float().unsqueeze(1) * self.weight.float()).sum(dim=-1)
            return sums if self.scale is None else sums * self.scale
        x = x.to(self.dtype)
        if self._prepacked is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._prepacked, None, "none", [], "")
        if self.scale is None:
            return F.linear(x, self.weight)
        if self._low_scale is not None and x.dim() == 1 and x.device.type == "cpu":
            return torch._weight_int8pack_mm(x.unsqueeze(0), self.weight, self._low_scale).view(-1)
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


def _prepacked(weight: Tensor) -> Tensor | None:
    """Return the weights in the order in which oneDNN reads them; None where there is no oneDNN.

    It halves the time of a bf16 product with one row: docs/experiments.md.
    """
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)


class NormedProduct(nn.Module):
    """(N, C) -> (N, outputs): a norm and the matrix that reads it.

    RMSNorm divides a row by one number, which may as well be done to the product; its gains go into the matrix.
    """

    gain: Tensor | None
    shift: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: Any, weight: Tensor, bias: Tensor | None, precision: str) -> None:
        """Take the parts over.

        Args:
            norm: RMSNorm or LayerNorm over C.
            weight: (outputs, C).
            bias: (outputs,).
            precision: of the weights.
        """
        super().__init__()
        gain, shift = norm.weight, getattr(norm, "bias", None)
        self.is_rms = isinstance(norm, nn.RMSNorm)
        self.eps = torch.finfo(gain.dtype).eps if norm.eps is None else norm.eps
        self.product = Product(weight * gain if self.is_rms else weight, precision)
        self.register_buffer("gain", None if self.is_rms else gain)
        self.register_buffer("shift", shift)
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """(outputs, C)."""
        return self.product.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the products of the normalised rows, in fp32."""
        if not self.is_rms:
            x = F.layer_norm(x, x.shape[-1:], self.gain, self.shift, self.eps)
        y = self.product(x).float()
        if self.is_rms and x.dim() == 1:
            y = y * (x.dot(x).item() / len(x) + self.eps) ** -0.5
        elif self.is_rms:
            y = y * x.square().mean(dim=-1, keepdim=True).add(self.eps).rsqrt()
        return y if self.bias is None else y + self.bias
