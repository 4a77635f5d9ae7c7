"""A stream and the parts of a model in, what becomes of the stream with norms before or after each part out."""

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]  # (…, C) -> (…, C): a part, or a norm


def pre_norm(x: Tensor, norm: Function, part: Function) -> Tensor:
    """Return the stream after a part that has its norm before it."""
    return x + part(norm(x))


def post_norm(x: Tensor, norm: Function, part: Function) -> Tensor:
    """Return the stream after a part that has its norm after it."""
    return norm(x + part(x))


def stack(x: Tensor, norm: Function, parts: list[Function], kind: str) -> list[Tensor]:
    """Return the stream before each part, and at last what comes out of the whole stack: len(parts) + 1 tensors.

    Args:
        x: the stream, (…, C).
        norm: the same for all parts; of a pre-norm stack at its end, too.
        parts: in their order.
        kind: pre or post.
    """
    step = pre_norm if kind == "pre" else post_norm
    stream = [x]
    for part in parts:
        stream.append(step(stream[-1], norm, part))
    if kind == "pre":
        stream[-1] = norm(stream[-1])
    return stream


def gradient_sizes(
    x: Tensor, norm: Function, parts: list[Function], kind: str, factors: Tensor
) -> list[float]:
    """Return the norm of the gradient at the stream before each part, of the loss sum(output · factors)."""
    stream = stack(x.clone().requires_grad_(), norm, parts, kind)
    loss = (stream[-1] * factors).sum()
    return [gradient.norm().item() for gradient in torch.autograd.grad(loss, stream[:-1])]
