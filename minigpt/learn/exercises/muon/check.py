"""Muon: orthogonal matrices of all shapes, and steps."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


@check()
def kind(module):
    """float32 in, float32 out"""
    return str(module.orthogonal(drawn(2, 3)).dtype)


@check(within=1e-3)
def one_iteration(module):
    """one iteration on a small matrix"""
    return module.orthogonal(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]), 1)


@check(within=1e-3)
def wide(module):
    """five iterations on a wide matrix"""
    return module.orthogonal(drawn(3, 5))


@check(within=1e-3)
def tall(module):
    """a tall matrix"""
    return module.orthogonal(drawn(6, 2))


@check(within=1e-3)
def any_size(module):
    """a matrix a thousand times as large or small has the same directions"""
    return [module.orthogonal(factor * drawn(4, 4)) for factor in (1000.0, 0.001)]


@check(within=1e-3)
def first_step(module):
    """the first step"""
    return module.muon_step(drawn(2, 3), drawn(2, 3, seed=1), torch.zeros(2, 3), 0.1)


@check(within=1e-3)
def later_step(module):
    """a later step, with a mean that points elsewhere"""
    return module.muon_step(drawn(5, 2), drawn(5, 2, seed=1), 0.1 * drawn(5, 2, seed=2), 0.02, 0.8)


MISTAKES = [
    Mistake(
        "not divided by its norm",
        """The matrix is not divided by its norm first. The polynomial is for singular values up to 1; beyond it they explode.""",
        {"x = matrix / matrix.norm()": "x = matrix"},
    ),
    Mistake(
        "another norm",
        """It is divided by another norm than the root of the sum of all squares, matrix.norm().""",
        {"matrix.norm()": "matrix.abs().max()"},
        {"matrix.norm()": "matrix.norm(dim=-1, keepdim=True)"},
        {"matrix.norm()": "matrix.norm() ** 2"},
    ),
    Mistake(
        "coefficients in another order",
        """The coefficients stand at other powers: a x + b A x + c A A x.""",
        {"A * x + B * square @ x + C": "B * x + A * square @ x + C"},
        {"B * square @ x + C * square @ square @ x": "C * square @ x + B * square @ square @ x"},
    ),
    Mistake(
        "a term missing",
        """A term of the polynomial is missing: a x + b A x + c A A x.""",
        {" + C * square @ square @ x": ""},
    ),
    Mistake(
        "A not squared",
        """The last term is c A A X, with A twice.""",
        {"C * square @ square @ x": "C * square @ x"},
    ),
    Mistake(
        "numbers, not matrices",
        """Powers are taken of each number by itself. The polynomial works on the singular values: A = X Xᵀ is a product of
        matrices.""",
        {
            "square = x @ x.T\n        x = A * x + B * square @ x + C * square @ square @ x": "x = A * x + B * x**3 + C * x**5"
        },
    ),
    Mistake(
        "iterations ignored",
        """The number of iterations is an argument.""",
        {"range(iterations)": "range(5)"},
        {"range(iterations)": "range(1)"},
    ),
    Mistake(
        "bfloat16",
        """It is computed in bfloat16, with three digits. That is how it is done on a GPU, where it is faster and good enough; here
        float32 is asked for, so that it can be compared.""",
        {"x = matrix / matrix.norm()": "x = matrix.bfloat16() / matrix.bfloat16().norm()"},
        {
            "x = matrix / matrix.norm()": "x = matrix.bfloat16()\n    x = x / (x.norm() + 1e-7)",
            "A * x + B * square @ x + C * square @ square @ x\n    return x": "A * x + (B * square + C * square @ square) @ x\n    return x.to(matrix.dtype)",
        },
        {
            "x = matrix / matrix.norm()": "x = (matrix / matrix.norm()).bfloat16()",
            "A * x + B * square @ x + C * square @ square @ x\n    return x": "A * x + (B * square + C * square @ square) @ x\n    return x.to(matrix.dtype)",
        },
    ),
    Mistake(
        "left transposed",
        """The result of a tall matrix is not transposed back.""",
        {"orthogonal(matrix.T, iterations).T": "orthogonal(matrix.T, iterations)"},
    ),
    Mistake(
        "no mean",
        """The newest gradient alone is used. It is the mean gradient that is made orthogonal.""",
        {"orthogonal(ahead)": "orthogonal(gradient)"},
    ),
    Mistake(
        "no look ahead",
        """The mean is used as it is. Nesterov's look ahead mixes the newest gradient in once more.""",
        {"orthogonal(ahead)": "orthogonal(mean)"},
    ),
    Mistake(
        "mean of the look ahead",
        """What is kept is the look ahead. Kept is the mean alone, mixed with each gradient once.""",
        {"orthogonal(ahead), mean": "orthogonal(ahead), ahead"},
    ),
    Mistake(
        "sum for mean",
        """The gradient is added in full: that is a sum and not a mean. It is μ M + (1 - μ) G.""",
        {
            "    mean = momentum * mean + (1 - momentum) * gradient\n    ahead = momentum * mean + (1 - momentum) * gradient": "    mean = momentum * mean + gradient\n    ahead = momentum * mean + gradient"
        },
        {
            "    mean = momentum * mean + (1 - momentum) * gradient": "    mean = momentum * mean + gradient"
        },
    ),
    Mistake(
        "momentum the wrong way round",
        """Old and new are exchanged: μ is how much of the mean is kept.""",
        {
            "    mean = momentum * mean + (1 - momentum) * gradient": "    mean = (1 - momentum) * mean + momentum * gradient"
        },
    ),
    Mistake(
        "no scale",
        """The step is not scaled by 0.2 √max(rows, columns).""",
        {"lr * scale *": "lr *"},
        {"0.2 * max(weight.shape) ** 0.5": "0.2"},
        {"0.2 * max": "max"},
    ),
    Mistake(
        "scale of another side",
        """The scale is of the larger side: √max(rows, columns).""",
        {"max(weight.shape)": "min(weight.shape)"},
        {"max(weight.shape)": "weight.size(0)"},
        {"max(weight.shape)": "weight.size(1)"},
    ),
    Mistake(
        "exchanged",
        """Weight and mean are exchanged. The weight comes first.""",
        {
            "return weight - lr * scale * orthogonal(ahead), mean": "return mean, weight - lr * scale * orthogonal(ahead)"
        },
    ),
    Mistake(
        "uphill",
        """The step is added. It is taken off: against the gradient.""",
        {"weight - lr": "weight + lr"},
    ),
    Mistake(
        "not orthogonal",
        """The step is the mean gradient itself; it is made orthogonal first.""",
        {"orthogonal(ahead)": "ahead"},
    ),
]
