"""The parts of a block that look at one position at a time: normalisation and MLP.

Letters for dimensions, here and in the whole package: B batch, T new positions, S attended positions, C channels,
H query heads, K key/value heads, D head channels, F hidden channels of the MLP, V vocabulary, L layers.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.model.casting import LayerNorm, Linear, RMSNorm


def make_norm(config: ModelConfig) -> nn.Module:
    """Return RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016) over the channels."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, eps=config.norm_eps)
    return LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)


class MLP(nn.Module):
    """(B, T, C) -> (B, T, C) through F hidden channels.

    gelu: `down(gelu(up(x)))` (Hendrycks and Gimpel, 2016, the tanh form), gelu_exact: the form with the error function
    relu2: `down(relu(up(x))²)` (So et al., 2021)
    swiglu: `down(silu(gate(x)) * up(x))` (Shazeer, 2020).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        if config.mlp == "swiglu":
            self.gate = Linear(config.n_embd, config.mlp_hidden, bias=config.bias)
        self.up = Linear(config.n_embd, config.mlp_hidden, bias=config.bias)
        self.down = Linear(config.mlp_hidden, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the MLP of each position, (B, T, C)."""
        if self.kind == "swiglu":
            hidden = F.silu(self.gate(x)) * self.up(x)  # (B, T, F)
        elif self.kind == "relu2":
            hidden = F.relu(self.up(x)).square()
        else:
            hidden = F.gelu(self.up(x), approximate="tanh" if self.kind == "gelu" else "none")
        return self.down(hidden)
