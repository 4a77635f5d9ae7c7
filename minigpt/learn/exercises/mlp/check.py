"""Two kinds of MLP, and how wide they are."""

import torch

from minigpt.learn.rules import Mistake, check, drawn


@check()
def relu2_of_one(module):
    """ReLU² of two channels"""
    up = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    down = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    return module.relu2(torch.tensor([2.0, -3.0]), up, down)


@check()
def relu2_of_many(module):
    """ReLU² of a batch"""
    return module.relu2(drawn(2, 3, 4), drawn(8, 4, seed=1), drawn(4, 8, seed=2))


@check()
def swiglu_of_one(module):
    """SwiGLU of two channels"""
    gate, up = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.5]])
    return module.swiglu(
        torch.tensor([2.0, -3.0]), gate, up, torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    )


@check()
def swiglu_of_many(module):
    """SwiGLU of a batch"""
    return module.swiglu(
        drawn(2, 3, 4), drawn(8, 4, seed=1), drawn(8, 4, seed=2), drawn(4, 8, seed=3)
    )


@check()
def widths(module):
    """two thirds of 4C, rounded up to a multiple"""
    return {f"C {c}, multiple {m}": int(module.hidden_channels(c, m)) for c, m in ((96, 1), (100, 1), (100, 32), (384, 64), (12, 32), (768, 256))}  # fmt: skip


MISTAKES = [
    Mistake("not squared", """The square is missing: that is a plain ReLU.""", {".square()": ""}),
    Mistake(
        "not transposed",
        """The matrices are not transposed. up is (F, C), as in nn.Linear, and x is (…, C): x @ up.T, or F.linear(x, up).""",
        {"F.linear(F.relu(F.linear(x, up)).square(), down)": "F.relu(x @ up).square() @ down"},
    ),
    Mistake(
        "squared first",
        """It is squared before the ReLU, and a square is never negative: nothing is cut off. ReLU first, then the square.""",
        {"F.relu(F.linear(x, up)).square()": "F.relu(F.linear(x, up).square())"},
        {"F.relu(F.linear(x, up)).square()": "F.linear(x, up).square()"},
    ),
    Mistake(
        "squared last",
        """What comes out of down is squared. The square stands on the hidden channels.""",
        {
            "F.linear(F.relu(F.linear(x, up)).square(), down)": "F.linear(F.relu(F.linear(x, up)), down).square()"
        },
    ),
    Mistake(
        "silu on the wrong half",
        """The silu is on `up`; it belongs on `gate`, which decides how much of the other passes.""",
        {
            "F.silu(F.linear(x, gate)) * F.linear(x, up)": "F.linear(x, gate) * F.silu(F.linear(x, up))"
        },
    ),
    Mistake(
        "sigmoid",
        """The gate is a sigmoid: that is the first GLU. SwiGLU has silu(z) = z · sigmoid(z).""",
        {"F.silu": "F.sigmoid"},
    ),
    Mistake(
        "gelu",
        """The gate is a GELU: that is GEGLU. SwiGLU has silu(z) = z · sigmoid(z).""",
        {"F.silu": "F.gelu"},
        {"F.silu": "F.relu"},
    ),
    Mistake(
        "no gate",
        """Only one of the two halves is used. What comes out is their product.""",
        {"F.silu(F.linear(x, gate)) * F.linear(x, up)": "F.silu(F.linear(x, up))"},
        {"F.silu(F.linear(x, gate)) * F.linear(x, up)": "F.silu(F.linear(x, gate))"},
    ),
    Mistake(
        "added",
        """The two halves are added. They are multiplied: the gate says how much passes.""",
        {"(F.linear(x, gate)) * F": "(F.linear(x, gate)) + F"},
    ),
    Mistake(
        "silu of the product",
        """The silu is taken of the product. It is taken of the gate alone.""",
        {
            "F.silu(F.linear(x, gate)) * F.linear(x, up)": "F.silu(F.linear(x, gate) * F.linear(x, up))"
        },
    ),
    Mistake(
        "4C",
        """F is 4C (or more): with three matrices that costs half as much again. Two thirds of it, 8C/3.""",
        {"wanted = 8 * n_embd": "wanted = 12 * n_embd"},
    ),
    Mistake(
        "rounded down",
        """8C/3 is rounded down, or to the nearest multiple. It is rounded up.""",
        {"-(-wanted // (3 * multiple)) * multiple": "wanted // (3 * multiple) * multiple"},
        {"-(-wanted // (3 * multiple)) * multiple": "round(wanted / 3 / multiple) * multiple"},
        {"-(-wanted // (3 * multiple)) * multiple": "-(-(wanted // 3) // multiple) * multiple"},
    ),
    Mistake(
        "always one more",
        """8C/3 is raised to the next multiple even where it is one already.""",
        {"-(-wanted // (3 * multiple)) * multiple": "(wanted // (3 * multiple) + 1) * multiple"},
    ),
    Mistake(
        "not rounded",
        """F is not a multiple of `multiple`.""",
        {"-(-wanted // (3 * multiple)) * multiple": "wanted // 3"},
    ),
]
