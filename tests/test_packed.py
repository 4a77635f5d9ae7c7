import pytest
import torch
from torch import nn

from minigpt.inference.packed import NormedProduct, Product, int8_rows


def test_int8_rows_are_within_half_a_scale_of_the_weights():
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-6], [1.0], [30.0], [0.0], [1e4]]
    )
    rounded, scale = int8_rows(weight)
    assert rounded.dtype == torch.int8
    assert rounded.abs().max() == 127
    assert ((rounded * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()
    assert not rounded[3].any()


@pytest.mark.parametrize(
    ("precision", "apart"), [("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2), ("int8", 3e-2)]
)
@pytest.mark.parametrize("rows", [None, 1, 3, 20])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_the_weights(precision, apart, rows, biased):
    dice = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(96, 64, generator=dice) / 8, torch.randn(96, generator=dice)
    x = torch.randn(*([rows] if rows else []), 64, generator=dice)
    with torch.inference_mode():
        found = Product(weight, precision, bias if biased else None)(x)
    wanted = x @ weight.T + (bias if biased else 0)
    assert found.shape == wanted.shape
    assert (found.float() - wanted).abs().max() < apart * wanted.abs().max()


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_a_norm_and_its_matrix_are_one(kind, rows, size):
    dice = torch.Generator().manual_seed(0)
    norm = kind(64, eps=1e-6)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += torch.randn(64, generator=dice) / 2
        weight, bias = torch.randn(32, 64, generator=dice) / 8, torch.randn(32, generator=dice)
        x = torch.randn(*([rows] if rows else []), 64, generator=dice) * size
        found = NormedProduct(norm, weight, bias, "fp32")(x)
        torch.testing.assert_close(found, norm(x) @ weight.T + bias, rtol=0, atol=1e-5)
