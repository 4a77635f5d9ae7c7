import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from minigpt.errors import UserError
from minigpt.model.rope import rotary_frequencies
from minigpt.model.rope_scaling import scale_frequencies

from .conftest import tiny

LLAMA3 = {
    "rope_scaling": "llama3", "rope_factor": 8.0, "rope_low_freq": 1.0, "rope_high_freq": 4.0,
    "rope_old_context": 64, "block_size": 256, "rope_theta": 500_000.0,
}  # fmt: skip


def scaled(**switches):
    config = tiny(head_dim=32, **switches)
    return scale_frequencies(rotary_frequencies(32, config.rope_theta), config)


def test_unscaled_frequencies_stay():
    assert torch.equal(scaled(), rotary_frequencies(32, 10_000.0))


def test_linear_scaling_divides_every_frequency():
    torch.testing.assert_close(
        scaled(rope_scaling="linear", rope_factor=4.0), rotary_frequencies(32, 10_000.0) / 4
    )


def test_llama3_keeps_the_fast_and_slows_the_slow():
    before, after = rotary_frequencies(32, 500_000.0), scaled(**LLAMA3)
    turns = 64 * before / (2 * torch.pi)
    assert torch.equal(after[turns > 4], before[turns > 4])
    torch.testing.assert_close(after[turns < 1], before[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((after < before) & (after > before / 8))[between].all()


@pytest.mark.parametrize(
    "factors", [(8.0, 1.0, 4.0, 64), (32.0, 1.0, 4.0, 8192), (2.5, 0.5, 7.0, 100)]
)
def test_llama3_is_the_one_of_transformers(factors):
    factor, low, high, original = factors
    parameters = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": factor, "low_freq_factor": low,
        "high_freq_factor": high, "original_max_position_embeddings": original,
    }  # fmt: skip
    theirs = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=4, head_dim=32, max_position_embeddings=4 * original,
        rope_parameters=parameters,
    )  # fmt: skip
    wanted, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")
    assert attention_factor == 1.0
    ours = scaled(
        rope_scaling="llama3", rope_factor=factor, rope_low_freq=low, rope_high_freq=high,
        rope_old_context=original, rope_theta=500_000.0,
    )  # fmt: skip
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=0)


def test_contradictions_are_refused():
    with pytest.raises(UserError, match=r"needs model\.rope_old_context"):
        tiny(rope_scaling="llama3").resolve()
    with pytest.raises(UserError, match="must lie above"):
        tiny(**(LLAMA3 | {"rope_high_freq": 1.0})).resolve()
