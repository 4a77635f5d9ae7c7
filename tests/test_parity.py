"""Random shapes over all switches, both ways: `transformers` and this package compute the same logits."""

import random
from typing import Any

import pytest
import torch
import transformers

import minigpt.hf  # noqa: F401 - registers the architecture of the shapes that no other can hold
from minigpt.config import ModelConfig
from minigpt.model.families import family_of
from minigpt.model.transformer import GPT

SEEDS = range(24)


def random_shape(seed: int) -> ModelConfig:
    """Return a shape with every setting drawn; half of them of a family that others know."""
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4, 6])
    width = rng.choice([2, 4, 6, 8, 16])
    tied_width = rng.random() < 0.5
    known = rng.choice(["gpt2", "llama", "qwen3", "arcee", None, None, None, None])
    shape: dict[str, Any] = {
        "vocab_size": rng.choice([2, 17, 64, 257]),
        "block_size": rng.choice([8, 13, 32]),
        "n_layer": rng.choice([1, 2, 3]),
        "n_head": heads,
        "n_kv_head": rng.choice([k for k in range(1, heads + 1) if heads % k == 0]),
        "n_embd": heads * width if tied_width else rng.choice([8, 20, 30]),
        "head_dim": width,
        "mlp_hidden": rng.choice([1, 7, 24, 64]),
        "position": rng.choice(["rope", "learned"]),
        "rope_theta": rng.choice([100.0, 10_000.0, 5e5]),
        "norm": rng.choice(["rmsnorm", "layernorm"]),
        "norm_eps": rng.choice([1e-6, 1e-5, 0.01]),
        "mlp": rng.choice(["swiglu", "gelu", "gelu_exact", "relu2"]),
        "qk_norm": rng.random() < 0.5,
        "attention_gate": rng.choice(["none", "silu"]),
        "bias": rng.random() < 0.5,
        "tie_embeddings": rng.random() < 0.5,
    }
    rope = {"position": "rope", "norm": "rmsnorm", "attention_gate": "none"}
    if known == "gpt2":
        shape |= {
            "position": "learned",
            "norm": "layernorm",
            "attention_gate": "none",
            "qk_norm": False,
        }
        shape |= {"n_kv_head": heads, "n_embd": heads * width}
        shape |= {"mlp": rng.choice(["gelu", "gelu_exact", "relu2"])}
    elif known is not None:
        shape |= rope | {
            "mlp": "relu2" if known == "arcee" else "swiglu",
            "qk_norm": known == "qwen3",
        }
        shape["bias"] = shape["bias"] and known == "llama"
        shape["n_embd"] = shape["n_embd"] if known == "qwen3" else heads * rng.choice([3, 5, 8])
    if shape["position"] == "rope":
        shape |= random_scaling(rng)
    made = ModelConfig(**shape).resolve()
    assert known in (None, family_of(made))
    return made


def random_scaling(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(["none", "linear", "llama3"])
    if kind == "none":
        return {}
    found: dict[str, Any] = {"rope_scaling": kind, "rope_factor": rng.choice([1.5, 2.0, 8.0])}
    if kind == "llama3":
        found |= {"rope_low_freq": rng.choice([0.5, 1.0]), "rope_high_freq": rng.choice([2.0, 4.0])}
        found |= {"rope_old_context": rng.choice([4, 16, 64])}
    return found


def shaken(module: Any, seed: int) -> Any:
    """Return the model with weights so large that a mistake in any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.normal_(1.0 if parameter.dim() < 2 else 0.0, 0.3, generator=generator)
    return module.eval()


def assert_alike(ours: GPT, theirs: Any, seed: int) -> None:
    """Compare logits of a whole text, and of one that is read piece by piece into the caches of both."""
    shape = ours.config
    ids = torch.randint(
        shape.vocab_size, (2, shape.block_size), generator=torch.Generator().manual_seed(seed)
    )
    wanted = theirs(ids).logits
    scale = max(1.0, wanted.abs().max().item())
    assert (ours(ids) - wanted).abs().max() / scale < 1e-4
    cache, past = ours.new_cache(), None
    for part in ids.split([3, 1, 1, shape.block_size - 5], dim=1):
        answer = theirs(part, past_key_values=past, use_cache=True)
        past = answer.past_key_values
        assert (ours(part, cache=cache) - answer.logits).abs().max() / scale < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_a_random_model_of_ours_is_the_same_in_transformers(seed, tmp_path):
    ours = shaken(GPT(random_shape(seed)), seed)
    ours.save_pretrained(tmp_path)
    theirs, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_alike(ours, theirs.eval(), seed)


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_a_random_model_of_transformers_is_the_same_here_and_again_there(seed, tmp_path):
    GPT(random_shape(seed)).save_pretrained(tmp_path / "shape")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "shape")
    theirs = shaken(transformers.AutoModelForCausalLM.from_config(config), seed)
    theirs.save_pretrained(
        tmp_path / "theirs", max_shard_size=random.Random(seed).choice(["5GB", "4KB"])
    )
    ours = GPT.from_pretrained(tmp_path / "theirs")
    assert_alike(ours, theirs, seed)
    ours.save_pretrained(tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
