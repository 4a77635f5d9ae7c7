import pytest
import torch

from minigpt.model.attention import Attention, Cache, attend, attend_by_hand

from .conftest import tiny


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("new", "seen"), [(7, 7), (1, 7)])
def test_the_fused_kernel_is_the_attention_written_out(kv_heads, new, seen):
    torch.manual_seed(0)
    query = torch.randn(2, 4, new, 8)
    key, value = torch.randn(2, 2, kv_heads, seen, 8)
    torch.testing.assert_close(attend(query, key, value), attend_by_hand(query, key, value))


def test_the_same_with_a_mask():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    mask = torch.rand(2, 1, 5, 5) < 0.5
    mask |= torch.eye(5, dtype=torch.bool)  # a query that may look nowhere has no attention
    torch.testing.assert_close(
        attend(query, key, value, mask), attend_by_hand(query, key, value, mask)
    )


def test_equal_scores_are_a_running_mean():
    query, value = (
        torch.zeros(1, 1, 4, 2),
        torch.tensor([[1.0], [3.0], [5.0], [7.0]]).expand(1, 1, 4, 2),
    )
    expected = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1).expand(1, 1, 4, 2)
    torch.testing.assert_close(attend_by_hand(query, query, value), expected)


def test_a_cache_hands_back_all_that_was_written():
    cache = Cache(tiny(n_kv_head=2))
    first, second = torch.randn(2, 3, 2, 4, 8)
    cache.write(1, first, first)
    cache.length = 4
    keys, values = cache.write(1, second, second)
    torch.testing.assert_close(keys, torch.cat([first, second], dim=2))
    torch.testing.assert_close(values, keys)
    assert cache.length == 4  # the model advances, not the layers


def test_the_gate_closes_the_output():
    torch.manual_seed(0)
    attention = Attention(tiny(attention_gate="silu").resolve(), 0)
    torch.nn.init.zeros_(attention.gate.weight)
    assert attention(torch.randn(1, 3, 32), None).abs().max() == 0


def test_queries_and_keys_are_normed_for_each_head():
    torch.manual_seed(0)
    attention = Attention(tiny(qk_norm=True).resolve(), 0)
    x = torch.randn(1, 5, 32)
    before = attention(x, None)
    with torch.no_grad():
        attention.query.weight *= 10
        attention.key.weight *= 3
    torch.testing.assert_close(attention(x, None), before, atol=1e-4, rtol=1e-3)
