"""The settings that others have published, as their config.json says them, with few and random weights."""

import json

import pytest
import safetensors.torch
import torch
import transformers

from minigpt.model.attention import Cache
from minigpt.model.transformer import GPT

GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1,
    "embd_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "resid_pdrop": 0.1, "n_ctx": 1024,
    "n_positions": 1024, "bos_token_id": 50256, "eos_token_id": 50256, "task_specific_params": {},
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
    "mlp_bias": False, "pretraining_tp": 1, "use_cache": True, "initializer_range": 0.02,
}  # fmt: skip
# Heads, key/value heads, rates and scalings as published; channels, layers and vocabulary are few.
PUBLISHED = {
    "gpt2": GPT2 | {"n_head": 12, "n_embd": 48, "n_layer": 2},
    "gpt2-medium": GPT2 | {"n_head": 16, "n_embd": 64, "n_layer": 3},
    "gpt2-large": GPT2 | {"n_head": 20, "n_embd": 80, "n_layer": 2},
    "gpt2-xl": GPT2 | {"n_head": 25, "n_embd": 100, "n_layer": 2},
    "TinyLlama-1.1B": LLAMA | {
        "num_attention_heads": 32, "num_key_value_heads": 4, "hidden_size": 128, "intermediate_size": 352,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float32",
    },
    "Llama-3.2-1B": LLAMA | {
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 8, "hidden_size": 128,
        "intermediate_size": 512, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "tie_word_embeddings": True, "torch_dtype": "float32",
    },
    "SmolLM2-135M": LLAMA | {
        "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72, "intermediate_size": 192,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000, "rope_scaling": None,
        "rope_interleaved": False, "tie_word_embeddings": True, "torch_dtype": "float32",
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": False,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 16, "hidden_size": 128,
        "intermediate_size": 384, "max_position_embeddings": 40960, "max_window_layers": 28, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
        "tie_word_embeddings": True, "attention_dropout": 0.0, "torch_dtype": "float32",
    },
    "linearly scaled, new keys": LLAMA | {
        "num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 64, "intermediate_size": 128,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-06, "tie_word_embeddings": True, "dtype": "float32",
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    },
}  # fmt: skip


@pytest.fixture(params=PUBLISHED)
def theirs(request, tmp_path):
    """A directory as published, and the model that `transformers` makes of it, every weight drawn anew."""
    torch.manual_seed(0)
    settings = PUBLISHED[request.param] | {"vocab_size": 97}
    if settings["model_type"] != "gpt2":
        settings["num_hidden_layers"] = 2
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name or "ln_" in name else 0.0, 0.1)
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    if settings.get("tie_word_embeddings", True):
        tensors.pop("lm_head.weight")
    names = sorted(tensors)
    half = len(names) // 2
    places = {}
    for number, part in enumerate((names[:half], names[half:]), 1):  # sharded, as large ones are
        file = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({k: tensors[k] for k in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder, model


IDS = torch.randint(0, 97, (2, 100), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_it_loads_with_the_same_logits_prefilled_and_token_by_token(theirs):
    folder, model = theirs
    ours, wanted = GPT.from_pretrained(folder), model(IDS).logits
    assert (ours(IDS) - wanted).abs().max() < 1e-4
    cache = Cache(ours.config)
    steps = [ours(IDS[:, :60], cache=cache)]
    steps += [ours(IDS[:, i : i + 1], cache=cache) for i in range(60, 100)]
    assert (torch.cat(steps, 1) - wanted).abs().max() < 1e-4


@torch.no_grad()
def test_it_goes_back_with_the_same_logits_and_the_same_bits(theirs, tmp_path):
    folder, model = theirs
    ours = GPT.from_pretrained(folder)
    for name, options in {"one": {}, "sharded": {"max_shard_bytes": 20_000}}.items():
        ours.save_pretrained(tmp_path / name, **options)
        assert (tmp_path / name / "model.safetensors").exists() == (name == "one")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        assert type(again) is type(model)
        assert (again(IDS).logits - model(IDS).logits).abs().max() < 1e-4
        for (key, tensor), other in zip(
            model.state_dict().items(), again.state_dict().values(), strict=True
        ):
            assert torch.equal(tensor, other), key
        loaded = GPT.from_pretrained(tmp_path / name)
        assert loaded.config == ours.config
        pairs = zip(ours.state_dict().values(), loaded.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@torch.no_grad()
def test_greedy_text_is_that_of_transformers(theirs):
    folder, model = theirs
    ours, ids = GPT.from_pretrained(folder), IDS[:1, :20]
    made = model.generate(
        ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    for _ in range(20):
        ids = torch.cat([ids, ours(ids)[:, -1:].argmax(-1)], 1)
    assert ids.tolist() == made.tolist()
