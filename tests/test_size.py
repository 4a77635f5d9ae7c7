import doctest
import math
import re
from collections import Counter

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.model import size
from minigpt.model.attention import Cache
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny
from .test_transformer import EVERY_COMBINATION


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(size) == (0, 1)


@pytest.mark.slow
def test_the_count_is_that_of_the_model():
    with torch.device("meta"):
        for switches in EVERY_COMBINATION[::5]:
            made = GPT(tiny(head_dim=16, **switches))
            assert size.parameter_count(made.config) == sum(p.numel() for p in made.parameters()), (
                switches
            )


GPT2 = {
    "vocab_size": 50257, "block_size": 1024, "position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True,
}  # fmt: skip
PUBLISHED = {
    "gpt2": (124_439_808, GPT2 | {"n_layer": 12, "n_head": 12, "n_embd": 768}),
    "gpt2-medium": (354_823_168, GPT2 | {"n_layer": 24, "n_head": 16, "n_embd": 1024}),
    "gpt2-large": (774_030_080, GPT2 | {"n_layer": 36, "n_head": 20, "n_embd": 1280}),
    "gpt2-xl": (1_557_611_200, GPT2 | {"n_layer": 48, "n_head": 25, "n_embd": 1600}),
    "TinyLlama-1.1B": (1_100_048_384, {
        "vocab_size": 32000, "block_size": 2048, "n_layer": 22, "n_head": 32, "n_kv_head": 4, "n_embd": 2048,
        "mlp_hidden": 5632, "tie_embeddings": False,
    }),
    "Llama-3.2-1B": (1_235_814_400, {
        "vocab_size": 128256, "block_size": 131072, "n_layer": 16, "n_head": 32, "n_kv_head": 8, "n_embd": 2048,
        "mlp_hidden": 8192,
    }),
    "Qwen3-0.6B": (596_049_920, {
        "vocab_size": 151936, "block_size": 40960, "n_layer": 28, "n_head": 16, "n_kv_head": 8, "n_embd": 1024,
        "head_dim": 128, "mlp_hidden": 3072, "qk_norm": True,
    }),
    "SmolLM2-135M": (134_515_008, {
        "vocab_size": 49152, "block_size": 8192, "n_layer": 30, "n_head": 9, "n_kv_head": 3, "n_embd": 576,
        "mlp_hidden": 1536,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name):
    parameters, shape = PUBLISHED[name]
    config = ModelConfig(**shape)
    assert size.parameter_count(config) == parameters
    assert sum(map(math.prod, size.parameter_shapes(config).values())) == parameters


def test_names_and_shapes_are_those_of_the_model():
    for switches in EVERY_COMBINATION[::7]:
        config = tiny(head_dim=16, **switches)
        shapes = {name: tuple(p.shape) for name, p in GPT(config).named_parameters()}
        assert size.parameter_shapes(config) == shapes


def test_the_parts_are_those_of_the_model():
    for switches in EVERY_COMBINATION[::5]:
        config = tiny(head_dim=16, **switches)
        counts = Counter()
        for name, shape in size.parameter_shapes(config).items():
            counts[re.sub(r"\.\d+\.", ".", name)] += math.prod(shape)
        layers, outer = config.n_layer, size.outer_parameters(config)
        block = size.block_parameters(config)
        assert outer["token_table"] == counts["embedding.weight"]
        assert outer["position_table"] == counts["position_embedding.weight"]
        assert outer["head"] == counts["head.weight"]
        norms = {name: n for name, n in counts.items() if "_norm." in name}
        assert layers * block["norms"] == sum(norms.values())
        mlp = sum(n for name, n in counts.items() if name.startswith("blocks.mlp."))
        assert layers * block["mlp"] == mlp


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_operations_are_those_that_are_done(switches):
    config = tiny(**switches)
    model = GPT(config)
    ids = torch.zeros(1, config.block_size, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        logits = model(ids)
        forward = counted.get_total_flops()
        logits.sum().backward()
    assert forward == config.block_size * size.forward_flops_per_token(config)
    assert counted.get_total_flops() == config.block_size * size.training_flops_per_token(config)


@pytest.mark.parametrize(("switches", "numbers"), [({}, 128), ({"n_kv_head": 1}, 32)])
def test_the_cache_takes_what_it_is_said_to_take(switches, numbers):
    config = tiny(**switches)  # 2 layers, 4 heads of 8 channels: 2 · 2 · 4 · 8 numbers
    cache = Cache(config)
    with torch.no_grad():
        GPT(config)(torch.zeros(1, 3, dtype=torch.long), cache=cache)
    assert size.cache_bytes_per_token(config, 4) == numbers * 4
    assert cache._stored.nbytes == config.block_size * numbers * 4


def test_a_given_number_of_rows_has_to_hold_every_id():
    assert size.with_vocabulary(ModelConfig(), 5000).vocab_size == 5056
    assert size.with_vocabulary(ModelConfig(vocab_size=5001), 5000).vocab_size == 5001
    with pytest.raises(UserError, match="is 4,999 but the tokenizer has 5,000 ids"):
        size.with_vocabulary(ModelConfig(vocab_size=4999), 5000)


@pytest.mark.parametrize(
    ("ids", "rows"), [(65, 65), (4095, 4095), (4096, 4096), (4097, 4160), (50304, 50304)]
)
def test_rows_are_padded_from_4096_on(ids, rows):
    assert size.padded_vocab_size(ids) == rows
