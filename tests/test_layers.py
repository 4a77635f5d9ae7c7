import pytest
import torch
import torch.nn.functional as F

from minigpt.model.layers import MLP, make_norm

from .conftest import tiny


def test_norms_are_what_their_names_say():
    x = torch.randn(2, 3, 32)
    rms = make_norm(tiny(norm="rmsnorm").resolve())(x)
    torch.testing.assert_close(rms, x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    layer = make_norm(tiny(norm="layernorm", bias=True).resolve())(x)
    torch.testing.assert_close(layer.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    assert make_norm(tiny(norm="layernorm").resolve()).bias is None


@pytest.mark.parametrize("kind", ["swiglu", "gelu", "relu2"])
def test_mlps_are_what_their_names_say(kind):
    torch.manual_seed(0)
    mlp, x = MLP(tiny(mlp=kind).resolve()), torch.randn(2, 3, 32)
    up = x @ mlp.up.weight.T
    if kind == "swiglu":
        gate = x @ mlp.gate.weight.T
        hidden = gate * torch.sigmoid(gate) * up
    else:
        hidden = F.gelu(up, approximate="tanh") if kind == "gelu" else up.clamp(min=0) ** 2
    torch.testing.assert_close(mlp(x), hidden @ mlp.down.weight.T)
