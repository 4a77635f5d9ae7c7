import json

import pytest

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.model.config_json import (
    Settings,
    gpt2_settings,
    gpt2_shape,
    rotary_settings,
    rotary_shape,
)
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny


def test_a_shape_comes_back_from_its_settings():
    shape = tiny(**SWITCHES["gpt2"]).resolve()
    assert gpt2_shape(gpt2_settings(shape) | {"vocab_size": 29}).resolve() == shape
    shape = tiny(**SWITCHES["llama"], rope_scaling="linear", rope_factor=2.0).resolve()
    settings = rotary_settings(shape) | {
        "vocab_size": 29,
        "head_dim": 8,
        "tie_word_embeddings": True,
    }
    assert rotary_shape(settings, "swiglu", qk_norm=False).resolve() == shape


def test_an_empty_config_json_is_gpt2_as_published():
    assert gpt2_shape({}).resolve() == ModelConfig(
        vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768, position="learned", norm="layernorm",
        mlp="gelu", bias=True, dropout=0.1,
    ).resolve()  # fmt: skip


def test_what_is_not_there_or_null_is_the_default():
    settings = Settings({"a": None})
    assert (settings.whole("a", 3), settings.number("b", 0.5), settings.flag("a", True)) == (
        3,
        0.5,
        True,
    )
    assert not settings.table("a")


WRONG = {
    "vocab_size is '27'; wanted a whole number": {"vocab_size": "27"},
    "num_attention_heads is '4'; wanted a whole number": {"num_attention_heads": "4"},
    "num_hidden_layers is True; wanted": {"num_hidden_layers": True},
    "hidden_size is 0; wanted a whole number of at least 1": {"hidden_size": 0},
    "intermediate_size is -1; wanted": {"intermediate_size": -1},
    "head_dim is 0; wanted": {"head_dim": 0},
    r"num_key_value_heads is \[2\]; wanted": {"num_key_value_heads": [2]},
    "rms_norm_eps is '1e-5'; wanted a number": {"rms_norm_eps": "1e-5"},
    "rms_norm_eps is a huge number; wanted": {"rms_norm_eps": 10**400},
    "rms_norm_eps is nan|norm_eps is nan": {"rms_norm_eps": float("nan")},
    "tie_word_embeddings is 'false'; wanted true or false": {"tie_word_embeddings": "false"},
    "attention_bias is 1; wanted true or false": {"attention_bias": 1},
    "its config.json lacks 'hidden_size'": {"hidden_size": None},
    "rope_parameters is 'yarn'; wanted an object": {"rope_parameters": "yarn"},
    "factor is '4'; wanted a number": {"rope_parameters": {"rope_type": "linear", "factor": "4"}},
    "lacks 'factor'": {"rope_parameters": {"rope_type": "linear"}},
    "rope_theta is a huge number": {"rope_parameters": {"rope_theta": 10**400}},
    "rope_parameters and rope_scaling differ": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "are scaled by 'yarn'": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "has under 'minigpt' settings that this model lacks: qk_norm": {"minigpt": {"qk_norm": True}},
    "dropout is '0.1'; wanted a number": {"minigpt": {"dropout": "0.1"}},
    "model.vocab_size is 1000000000000000000; wanted": {"vocab_size": 10**18},
    r"embedding\.weight is \(29, 32\), wanted \(16777216, 32\)": {"vocab_size": 2**24},
    r"mlp\.up\.weight is .*, wanted \(1000000000000": {"intermediate_size": 10**18},
    r"blocks\.10\.attention_norm\.weight is missing.* and 9993 more": {"num_hidden_layers": 9_999},
    "needs a table of 4,294,967,296 angles": {"max_position_embeddings": 2**24, "head_dim": 256},
    "layer_types has sliding_attention": {"layer_types": ["full_attention", "sliding_attention"]},
}


@pytest.mark.parametrize(("sentence", "change"), WRONG.items(), ids=range(len(WRONG)))
def test_a_value_that_cannot_be_is_refused_by_its_key(sentence, change, tmp_path):
    GPT(tiny(**SWITCHES["llama"])).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=sentence) as refused:
        GPT.from_pretrained(tmp_path)
    assert "\n" not in str(refused.value)
