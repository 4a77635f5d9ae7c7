import dataclasses
import json

import pytest
import safetensors.torch
import torch
import transformers

from minigpt.config import ModelConfig, setting
from minigpt.errors import UserError
from minigpt.model import families
from minigpt.model.transformer import GPT
from minigpt.tokenizer import char_tokenizer

from .conftest import SWITCHES, tiny
from .test_transformer import model

CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "arcee": "ArceeForCausalLM",
}
STANDARD = {name: switches for name, switches in SWITCHES.items() if not name.startswith("own")}


@pytest.mark.parametrize(("name", "switches"), STANDARD.items(), ids=STANDARD)
@torch.no_grad()
def test_transformers_gives_the_same_logits(name, switches, tmp_path):
    made = model(**switches)
    made.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == CLASSES[name.split(",")[0]]
    ids = torch.randint(0, 29, (3, 12))
    assert (theirs(ids).logits - made(ids)).abs().max() < 1e-4


@pytest.mark.parametrize("switches", STANDARD.values(), ids=STANDARD)
@torch.no_grad()
def test_what_transformers_saves_loads_here(switches, tmp_path):
    """Every tensor is drawn anew there: biases too, which a GPT-2 has even if ours had none."""
    model(**switches).save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = GPT.from_pretrained(tmp_path / "theirs")
    assert loaded.config.bias == any(
        name.endswith("q_proj.bias") or "c_attn.bias" in name for name in theirs.state_dict()
    )
    ids = torch.randint(0, 29, (3, 12))
    assert (theirs(ids).logits - loaded(ids)).abs().max() < 1e-4


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_a_round_trip_is_equal_bit_for_bit(switches, tmp_path):
    made = model(dropout=0.1, norm_eps=1e-4, **switches)
    made.save_pretrained(tmp_path)
    loaded = GPT.from_pretrained(tmp_path)
    assert loaded.config == made.config
    assert not loaded.training
    for (name, ours), theirs in zip(
        made.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(("name", "switches"), SWITCHES.items(), ids=SWITCHES)
def test_the_family_follows_from_the_settings(name, switches):
    wanted = name.split(",")[0] if not name.startswith("own") else "minigpt"
    assert families.family_of(tiny(**switches)) == wanted


def test_the_published_layout_of_gpt2_loads():
    """The published file lacks the prefix and the head, and holds the causal masks."""
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=29, n_positions=12, n_embd=32, n_layer=2, n_head=4)
    ).eval()
    tensors = {
        k.removeprefix("transformer."): v
        for k, v in theirs.state_dict().items()
        if k != "lm_head.weight"
    }
    tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 12, 12) for i in range(2)}
    config, state = families.from_hugging_face(theirs.config.to_dict(), tensors)
    made = GPT(config)
    made.load_state_dict(state)
    ids = torch.randint(0, 29, (2, 12))
    assert (theirs(ids).logits - made.eval()(ids)).abs().max() < 1e-4


def test_a_padded_vocabulary_is_never_drawn(tmp_path):
    made, tokenizer = GPT(tiny(vocab_size=64)), char_tokenizer([chr(97 + i) for i in range(26)])
    made.save_pretrained(tmp_path, tokenizer)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == list(range(27, 64))
    assert generation["eos_token_id"] == 26
    settings = json.loads((tmp_path / "config.json").read_text())
    assert (settings["head_dim"], settings["bos_token_id"], settings["vocab_size"]) == (8, 26, 64)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    drawn = theirs.generate(
        torch.tensor([[0]]), max_new_tokens=11, do_sample=True, temperature=100.0
    )
    assert drawn.max() < 27


def test_the_weights_are_as_readable_as_the_settings(tmp_path):
    GPT(tiny()).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode == (
        tmp_path / "config.json"
    ).stat().st_mode


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; this model has only 'silu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn"}},
            r"rotary positions are scaled by 'yarn'",
        ),
        ("llama", {"attention_bias": True}, "biases in only one of attention and MLP"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("gpt2", {"activation_function": "swish"}, "activation_function is 'swish'"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx is True",
        ),
        ("llama", {"model_type": "mamba"}, "model_type is 'mamba'; wanted one of gpt2, llama"),
        (
            "llama",
            {"hidden_size": 64},
            r"blocks.0.attention.key.weight is \(16, 32\), wanted \(16, 64\)",
        ),
        ("llama", {"num_hidden_layers": 3}, r"blocks\.2\.attention.* is missing"),
        ("llama", {"num_hidden_layers": 1}, "is not part of the model"),
    ],
)
def test_what_the_model_cannot_represent_is_refused_by_name(name, change, sentence, tmp_path):
    GPT(tiny(**SWITCHES[name])).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=sentence):
        GPT.from_pretrained(tmp_path)


def test_damaged_directories_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        GPT.from_pretrained(tmp_path)
    made = GPT(tiny())
    made.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4], b"", b"x" * 100):
        weights.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors is cut short or damaged"):
            GPT.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        GPT.from_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["hidden_size"]
    safetensors.torch.save_file({"a": torch.zeros(1)}, weights)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="lacks 'hidden_size'"):
        GPT.from_pretrained(tmp_path)


def test_every_setting_survives_in_our_own_family(tmp_path):
    changed = ModelConfig(
        vocab_size=31, block_size=9, n_layer=1, n_head=2, n_kv_head=1, n_embd=12, head_dim=4, mlp_hidden=20,
        position="learned", rope_theta=7.0, norm="rmsnorm", norm_eps=1e-3, mlp="gelu", qk_norm=True,
        attention_gate="silu", bias=True, tie_embeddings=False, dropout=0.25, rope_scaling="llama3", rope_factor=2.0,
        rope_low_freq=0.5, rope_high_freq=3.0, rope_old_context=5,
    )  # fmt: skip
    assert all(
        getattr(changed, item.name) != item.default
        for item in dataclasses.fields(ModelConfig)
        if item.name != "norm"
    )
    GPT(changed).save_pretrained(tmp_path)
    assert GPT.from_pretrained(tmp_path).config == changed


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "own: gate"])
def test_a_head_of_its_own_is_never_dropped(name, tmp_path):
    """As `transformers` does: what is said to be tied but stored twice, and differs, is two matrices."""
    made = model(**(SWITCHES[name] | {"tie_embeddings": False}))
    made.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    if name.startswith("own"):
        settings["minigpt"]["tie_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(settings))
    loaded = GPT.from_pretrained(tmp_path)
    ids = torch.randint(0, 29, (2, 12))
    assert torch.equal(loaded(ids), made(ids))
    assert not loaded.config.tie_embeddings


def test_a_head_of_another_shape_is_refused_where_it_should_be_tied(tmp_path):
    model(**SWITCHES["llama"]).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path) | {"lm_head.weight": torch.ones(3, 32)}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"head\.weight is \(3, 32\), wanted \(29, 32\)"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("h.0.attn.c_attn.weight", torch.tensor(1.0), "c_attn.weight has 0 dimensions, wanted 2"),
        (
            "h.0.attn.c_proj.weight",
            torch.ones(2, 32, 32),
            "c_proj.weight has 3 dimensions, wanted 2",
        ),
        ("h.0.attn.c_attn.bias", torch.tensor(1.0), r"c_attn\.bias is \(\); wanted 3 parts"),
        (
            "h.0.attn.c_attn.bias",
            torch.ones(95),
            r"c_attn\.bias is \(95,\); wanted 3 parts of one size",
        ),
        (
            "h.0.ln_1.weight",
            torch.ones(32).to(torch.float8_e4m3fn),
            "is float8_e4m3fn, wanted floating",
        ),
        ("h.0.ln_1.weight", torch.ones(32, dtype=torch.int8), "is int8, wanted floating point"),
        ("h.0.ln_1.weight", torch.full((32,), float("inf")), "numbers that are not finite"),
    ],
)
def test_a_tensor_of_another_kind_is_refused_by_name(name, tensor, sentence, tmp_path):
    model(**SWITCHES["gpt2"]).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path) | {f"transformer.{name}": tensor}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=sentence):
        GPT.from_pretrained(tmp_path)


def test_a_setting_that_no_architecture_of_others_knows_makes_it_our_own():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Capped(ModelConfig):
        cap: float = setting(0.0, "bounds the logits")

    assert {item.name for item in dataclasses.fields(ModelConfig)} >= families.SAID
    for name in ("gpt2", "llama"):
        shape = dataclasses.asdict(tiny(**SWITCHES[name]))
        assert families.family_of(Capped(**shape)) == name
        assert families.family_of(Capped(**shape, cap=30.0)) == "minigpt"
