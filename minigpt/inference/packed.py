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


class Product:
    """(N, inputs) -> (N, outputs) by one matrix; (inputs,) -> (outputs,) in the same way.

    Attributes:
        weight: (outputs, inputs), in the precision it is read in.
        scale: (outputs,) of int8 weights.
        bias: (outputs,), in fp32.
        is_plain: whether a product with one row is one operation of torch, which can do more at once.
    """

    def __init__(
        self, weight: Tensor, precision: str, bias: Tensor | None = None, rows: int = 1
    ) -> None:
        """Take a matrix over.

        Args:
            weight: (outputs, inputs).
            precision: fp32, bf16, fp16 or int8.
            bias: (outputs,).
            rows: how many there will be at a time.
        """
        self._dtype = DTYPES.get(precision, torch.bfloat16)
        self.bias, self.scale, self.is_plain = bias, None, precision == "fp32"
        if precision == "int8":
            self.weight, self.scale = int8_rows(weight)
            self._low_scale = self.scale.to(self._dtype)
            self._multiply = self._by_int8 if weight.device.type == "cpu" else self._by_dequantised
            return
        self.weight = weight.to(self._dtype)
        self._multiply = self._by_linear
        wanted = precision == "bf16" or (precision == "fp32" and rows > 1)
        if wanted and (packed := _prepacked(self.weight, rows)) is not None:
            self._packed = packed
            self._multiply = self._by_prepacked

    def __call__(self, x: Tensor) -> Tensor:
        """Return the products, in fp32 or in the precision of the weights."""
        y = self._multiply(x)
        return y if self.bias is None else y + self.bias

    def onto(self, x: Tensor, v: Tensor) -> Tensor:
        """Return x and the products of v."""
        if self.is_plain and v.dim() == 1 and self.bias is None:
            return x.addmv(self.weight, v)
        return x + self(v)

    def write_out(self) -> None:
        """Multiply by sums from now on, of which torch's compiler makes one loop over the weights."""
        self._multiply, self.is_plain = self._by_sums, False

    def _by_linear(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._dtype), self.weight)

    def _by_prepacked(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            x.to(self._dtype), self._packed, None, "none", [], ""
        )

    def _by_int8(self, x: Tensor) -> Tensor:
        """Return the products of one row by a kernel of torch's; it is slow with many."""
        if x.dim() > 1:
            return self._by_dequantised(x)
        low = x.to(self._dtype).unsqueeze(0)
        return torch._weight_int8pack_mm(low, self.weight, self._low_scale).view(-1)

    def _by_dequantised(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self._dtype), self.weight.to(self._dtype))
        return y if self.scale is None else y * self.scale

    def _by_sums(self, x: Tensor) -> Tensor:
        sums = (x.float().unsqueeze(1) * self.weight.float()).sum(dim=-1)
        return sums if self.scale is None else sums * self.scale


def _prepacked(weight: Tensor, rows: int) -> Tensor | None:
    """Return the weights in the order in which oneDNN reads them; None where there is no oneDNN, or it cannot use them.

    It halves the time of a bf16 product with one row, and of one in fp32 with sixteen: docs/experiments.md.
    """
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return None
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None  # it needs AVX-512
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


class NormedProduct:
    """(N, C) -> (N, outputs): a norm and the matrix that reads it.

    RMSNorm divides a row by one number, which may as well be done to the product; its gains go into the matrix.
    """

    def __init__(
        self, norm: Any, weight: Tensor, bias: Tensor | None, precision: str, rows: int = 1
    ) -> None:
        """Take the parts over.

        Args:
            norm: RMSNorm or LayerNorm over C.
            weight: (outputs, C).
            bias: (outputs,).
            precision: of the weights.
            rows: how many there will be at a time.
        """
        gain, shift = norm.weight, getattr(norm, "bias", None)
        self.is_rms = isinstance(norm, nn.RMSNorm)
        self.eps = torch.finfo(gain.dtype).eps if norm.eps is None else norm.eps
        self.product = Product(weight * gain if self.is_rms else weight, precision, rows=rows)
        self.gain, self.shift, self.bias = None if self.is_rms else gain, shift, bias
        self._nothing = weight.new_zeros(1)

    @property
    def weight(self) -> Tensor:
        """(outputs, C)."""
        return self.product.weight

    def __call__(self, x: Tensor) -> Tensor:
        """Return the products of the normalised rows, in fp32."""
        if not self.is_rms:
            x = F.layer_norm(x, x.shape[-1:], self.gain, self.shift, self.eps)
        if self.is_rms and x.dim() == 1:
            return self._of_one(x, (x.dot(x).item() / len(x) + self.eps) ** -0.5)
        y = self.product(x).float()
        if self.is_rms:
            y = y * x.square().mean(dim=-1, keepdim=True).add(self.eps).rsqrt()
        return y if self.bias is None else y + self.bias

    def _of_one(self, x: Tensor, scale: float) -> Tensor:
        """Return the products of one row, (outputs,), times a number."""
        if self.product.is_plain:
            onto, share = (self._nothing, 0) if self.bias is None else (self.bias, 1)
            return torch.addmv(onto, self.product.weight, x, beta=share, alpha=scale)
        y = self.product(x).float() * scale
        return y if self.bias is None else y + self.bias
