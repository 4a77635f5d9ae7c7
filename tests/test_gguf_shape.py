import pytest

from minigpt.errors import UserError
from minigpt.interop import gguf_shape
from minigpt.interop.gguf import read_gguf
from minigpt.model.families import family_of

from .conftest import SWITCHES
from .llama_cpp import made, rewritten, written

UNKNOWN = {
    "attention_gate = silu": SWITCHES["own: gate"],
    "position = learned and norm = rmsnorm": SWITCHES["own: learned with rmsnorm"],
    "position = rope and norm = layernorm": SWITCHES["own: rope with layernorm"],
    "position = rope and mlp = gelu": {"mlp": "gelu"},
    "position = learned and mlp = relu2": SWITCHES["gpt2, relu2, no bias"],
    "position = learned and mlp = gelu_exact": SWITCHES["gpt2, exact gelu"],
    "position = learned and qk_norm": SWITCHES["gpt2"] | {"qk_norm": True},
    "position = learned and n_kv_head": SWITCHES["gpt2"] | {"n_kv_head": 2},
    "position = learned and n_head x head_dim": SWITCHES["gpt2"] | {"head_dim": 16},
    "mlp = relu2 and qk_norm": {"mlp": "relu2", "qk_norm": True},
    "bias and qk_norm": {"bias": True, "qk_norm": True},
    "bias and mlp = relu2": {"bias": True, "mlp": "relu2"},
    "qk_norm and rope_scaling = llama3": {
        "qk_norm": True,
        "rope_scaling": "llama3",
        "rope_factor": 2.0,
        "rope_old_context": 8,
    },
}


@pytest.mark.parametrize(("setting", "switches"), UNKNOWN.items(), ids=UNKNOWN)
def test_a_shape_that_llama_cpp_lacks_is_refused_by_its_setting(setting, switches, tmp_path):
    with pytest.raises(UserError, match=f"no architecture with model.{setting}.* --to hf"):
        written(tmp_path, made(**switches))
    assert not list(tmp_path.iterdir())


def test_every_shape_of_our_own_family_is_refused(tmp_path):
    for position in ("rope", "learned"):
        for norm in ("rmsnorm", "layernorm"):
            for mlp in ("swiglu", "gelu", "gelu_exact", "relu2"):
                for more in ({}, {"bias": True}, {"qk_norm": True}, {"attention_gate": "silu"}):
                    model = made(position=position, norm=norm, mlp=mlp, n_layer=1, **more)
                    if family_of(model.config) == "minigpt":
                        with pytest.raises(UserError, match="no architecture with model"):
                            written(tmp_path, model)


FOREIGN = {
    "general.architecture is 'mamba'; wanted one of llama": {"arch": "mamba"},
    "its tensor extra is not part of the model": {},
    "it has no setting llama.context_length": {"drop": ["llama.context_length"]},
    "it has no token_embd.weight": {"drop": ["token_embd.weight"]},
    "scaled by 'yarn'": {"llama.rope.scaling.type": "yarn"},
    "dimension_count is 4; this model has only 8": {"llama.rope.dimension_count": 4},
    "sliding_window is 64": {"llama.attention.sliding_window": 64},
    r"head_count_kv is \[4, 4\]": {"llama.attention.head_count_kv": [4, 4]},
}


@pytest.mark.parametrize(("sentence", "settings"), FOREIGN.items(), ids=FOREIGN)
def test_what_this_model_lacks_is_refused_by_name(sentence, settings, tmp_path):
    path = rewritten(written(tmp_path, made()), **settings)
    with pytest.raises(UserError, match=sentence):
        read_gguf(path)


def test_a_shape_of_our_own_for_a_reason_not_listed_is_refused_as_well(monkeypatch):
    monkeypatch.setattr(gguf_shape, "family_of", lambda config: "minigpt")
    with pytest.raises(UserError, match="no architecture with these settings"):
        gguf_shape.family_for_llama_cpp(made().config)
