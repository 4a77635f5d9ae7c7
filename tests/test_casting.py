import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minigpt.model.casting import LayerNorm, Linear, RMSNorm, scaled_dot_product_attention

LOW = [torch.bfloat16, torch.float16]


def random(*size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(*size, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize(
    "layer", [Linear(8, 8), Linear(8, 8, bias=False), LayerNorm(8), LayerNorm(8, bias=False), RMSNorm(8)]
)  # fmt: skip
def test_what_comes_out_is_as_what_comes_in_and_gradients_are_as_the_weights(layer, dtype):
    x = random(3, 8)
    low = x.to(dtype).requires_grad_()
    out = layer(low)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), layer(x), atol=0.05, rtol=0.02)
    out.sum().backward()
    assert low.grad.dtype == dtype
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


@pytest.mark.parametrize(
    "layer", [Linear(64, 64), LayerNorm(64), RMSNorm(64, eps=1e-5)], ids=lambda one: type(one).__name__
)  # fmt: skip
def test_gradients_of_weights_are_summed_over_many_rows_without_loss(layer):
    x, gradient = random(4096, 64), random(4096, 64).roll(1, 0) + 0.5
    low, exact = copy.deepcopy(layer), copy.deepcopy(layer).double()
    low(x.bfloat16()).backward(gradient.bfloat16())
    if isinstance(exact, RMSNorm):
        exact = nn.RMSNorm(64, eps=1e-5).double()
    exact(x.bfloat16().double()).backward(gradient.bfloat16().double())
    for ours, theirs in zip(low.parameters(), exact.parameters(), strict=True):
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.01


def test_in_fp32_nothing_is_cast():
    x = random(3, 8)
    for ours, theirs in ((Linear(8, 8), nn.Linear(8, 8)), (LayerNorm(8), nn.LayerNorm(8))):
        theirs.load_state_dict(ours.state_dict())
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("size", [(64,), (5, 64), (2, 3, 4, 8), (2, 1, 256)])
def test_rms_norm_and_its_gradients_are_those_of_torch(size):
    x, gradient = random(*size), random(*size[::-1]).reshape(size)
    layer, exact = RMSNorm(size[-1], eps=1e-3), nn.RMSNorm(size[-1], eps=1e-3).double()
    with torch.no_grad():
        layer.weight.copy_(1 + 0.1 * random(size[-1]))
        exact.weight.copy_(layer.weight)
    low, high = x.clone().requires_grad_(), x.double().requires_grad_()
    layer(low).backward(gradient)
    exact(high).backward(gradient.double())
    torch.testing.assert_close(layer(x), exact(x.double()).float())
    torch.testing.assert_close(low.grad, high.grad.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.weight.grad, exact.weight.grad.float(), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), exact(x.double()).float())


def test_rms_norm_takes_heads_that_lie_across_each_other_in_memory():
    x = random(2, 3, 4, 8)
    layer = RMSNorm(8)
    results = []
    for heads in (x.transpose(1, 2), x.transpose(1, 2).contiguous()):
        across = heads.detach().requires_grad_()
        layer(across).sin().sum().backward()
        results.append(across.grad)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", LOW)
def test_attention_is_trained_on_a_cpu_in_fp32(dtype, monkeypatch):
    seen = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, **o: seen.append(q.dtype) or real(q, k, v, **o)
    )  # fmt: skip
    query = random(1, 2, 4, 8, dtype=dtype)
    with torch.no_grad():
        assert scaled_dot_product_attention(query, query, query).dtype == dtype
    assert scaled_dot_product_attention(query.requires_grad_(), query, query).dtype == dtype
    assert seen == [dtype, torch.float32]
