"""The gradient of a matrix in, a step that moves all its directions alike out."""

from torch import Tensor

A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return U S' Vᵀ for a matrix U S Vᵀ, (rows, columns), with singular values S' near 1."""
    if matrix.size(0) > matrix.size(1):
        return orthogonal(matrix.T, iterations).T
    x = matrix / matrix.norm()
    for _ in range(iterations):
        square = x @ x.T
        x = A * x + B * square @ x + C * square @ square @ x
    return x


def muon_step(
    weight: Tensor, gradient: Tensor, mean: Tensor, lr: float, momentum: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return the weight and the mean gradient after a step; what is passed in stays as it is.

    Args:
        weight: (rows, columns).
        gradient: of it.
        mean: the mean gradient so far, zeros at first.
        lr: the learning rate.
        momentum: how much of the mean is kept.
    """
    mean = momentum * mean + (1 - momentum) * gradient
    ahead = momentum * mean + (1 - momentum) * gradient
    scale = 0.2 * max(weight.shape) ** 0.5
    return weight - lr * scale * orthogonal(ahead), mean
