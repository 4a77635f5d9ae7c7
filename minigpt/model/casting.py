"""Layers that compute in the precision of what comes in, whatever that of their weights.

Weights are kept in fp32, for an update is often smaller than what bf16 can tell apart (Micikevicius et al., 2018,
section 3.1). A model whose stream is bf16 casts them where it uses them. Autocast keeps the stream itself in fp32, and
its bookkeeping costs more than it saves on a CPU.
"""

import contextlib
from collections.abc import Generator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_pretending = False


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not _pretending


@contextlib.contextmanager
def as_on_a_gpu() -> Generator[None]:
    """Have tensors on a CPU keep for their gradients what a GPU's kernels keep, for those who count it.

    GPUs norm and attend in the precision of the input; here both take fp32 inside, where a CPU is slow or off in less.
    """
    global _pretending
    _pretending = True
    try:
        yield
    finally:
        _pretending = False


class Linear(nn.Linear):
    """(…, inputs) -> (…, outputs), in the precision of the input."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # ty: ignore[lost-keyword-for-regular-parameter]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """Over the last dimension (Ba et al., 2016), in the precision of the input."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # ty: ignore[lost-keyword-for-regular-parameter]
        # A CPU sums the gradients of gains and biases in the precision of its input: in bf16 they are off by a tenth.
        low = x.dtype.itemsize == 2 and _on_cpu(x)
        inside = torch.float32 if low else x.dtype
        weight, bias = (None if p is None else p.to(inside) for p in (self.weight, self.bias))
        return F.layer_norm(x.to(inside), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """Over the last dimension (Zhang and Sennrich, 2019); fp32 inside, as torch's; on a CPU in a third of its time."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        inside = torch.float32 if _on_cpu(x) else x.dtype
        return _RMSNorm.apply(x.to(inside), self.weight.to(inside), eps).to(x.dtype)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, **options: Any
) -> Tensor:
    """Return what torch's function of that name does.

    To train on a CPU it computes in fp32, for the backward pass of its kernel there takes four times as long in bf16.
    """
    dtype = query.dtype
    if query.requires_grad and _on_cpu(query) and dtype.itemsize == 2:
        query, key, value = query.float(), key.float(), value.float()
    return F.scaled_dot_product_attention(query, key, value, **options).to(dtype)


class Cast:
    """A forward hook that brings what a module returns into another precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.is_on = dtype, True

    def __call__(self, module: nn.Module, given: Any, returned: Tensor) -> Tensor:
        """Return what the module returned, cast."""
        return returned.to(self.dtype) if self.is_on else returned

    @contextlib.contextmanager
    def off(self) -> Generator[None]:
        """Leave it alone for a while."""
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = True


class _RMSNorm(torch.autograd.Function):
    """torch has no kernel for it on a CPU: its own composition reads and writes the tensor three times as often."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return x / root-mean-square(x) * weight."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # ty: ignore[incompatible-method-override]
        """Return the gradients of x and of the weight.

        They are those of a LayerNorm whose mean is 0, but for the path through the mean, which is added back.
        """
        x, weight, scale = ctx.saved_tensors
        into_x, into_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, weight.shape, torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )  # fmt: skip
        mean = (gradient @ weight).div_(len(weight)).unsqueeze(-1)
        return into_x.addcmul_(mean, scale), into_weight, None
