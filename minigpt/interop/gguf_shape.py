"""A model's shape in, the settings of a GGUF file that say it out; and such settings back.

llama.cpp has a few architectures, each with fixed switches, so many a shape has none.
"""

from typing import Any

import numpy as np

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.interop.gguf_reader import Settings, StoredTensor
from minigpt.model.families import family_of

ARCHITECTURES = ("llama", "arcee", "qwen3", "gpt2")  # of llama.cpp, named as our families
FREQUENCIES = "rope_freqs.weight"  # how much slower each pair of channels turns, (D/2,)


def family_for_llama_cpp(config: ModelConfig) -> str:
    """Return the family, which is llama.cpp's architecture of the same name too.

    Raises:
        UserError: there is none, because of which setting.
    """
    family = family_of(config)
    lacking = _lacking(config, family)
    if lacking or family not in ARCHITECTURES:
        lacking = lacking or "these settings of the model"
        raise UserError(
            f"llama.cpp has no architecture with {lacking}; export the model with --to hf instead"
        )
    return family


def _lacking(config: ModelConfig, family: str) -> str | None:
    """Return the settings for which llama.cpp has no architecture, or None."""
    c, rotary = config, config.position == "rope"
    activations = ("swiglu", "relu2") if rotary else ("gelu",)
    reasons = {
        f"attention_gate = {c.attention_gate}": c.attention_gate != "none",
        f"position = {c.position} and norm = {c.norm}": c.norm
        != ("rmsnorm" if rotary else "layernorm"),
        f"position = {c.position} and mlp = {c.mlp}": c.mlp not in activations,
        "position = learned and qk_norm": not rotary and c.qk_norm,
        "position = learned and n_kv_head < n_head": not rotary and c.n_kv_head < c.n_head,
        "position = learned and n_head x head_dim other than n_embd": not rotary
        and c.n_head * c.head_dim != c.n_embd,
        "mlp = relu2 and qk_norm": c.mlp == "relu2" and c.qk_norm,
        "bias and qk_norm": c.bias and c.qk_norm,
        "bias and mlp = relu2": c.bias and c.mlp == "relu2",
        "qk_norm and rope_scaling = llama3": family == "qwen3" and c.rope_scaling == "llama3",
    }
    return next((f"model.{setting}" for setting, is_so in reasons.items() if is_so), None)


def settings_of(family: str, config: ModelConfig) -> Settings:
    """Return a shape as {key of the file: value}; what GGUF cannot say goes under keys of our own."""
    c = config
    shape: Settings = {
        "vocab_size": c.vocab_size,
        "context_length": c.block_size,
        "embedding_length": c.n_embd,
        "block_count": c.n_layer,
        "feed_forward_length": c.mlp_hidden,
        "attention.head_count": c.n_head,
    }
    if c.position == "learned":
        shape["attention.layer_norm_epsilon"] = c.norm_eps
    else:
        shape |= {
            "attention.head_count_kv": c.n_kv_head,
            "attention.key_length": c.head_dim,
            "attention.value_length": c.head_dim,
            "attention.layer_norm_rms_epsilon": c.norm_eps,
            "rope.dimension_count": c.head_dim,
            "rope.freq_base": c.rope_theta,
        }
    scaling = c.rope_scaling if c.position == "rope" else "none"
    if scaling == "linear":
        shape |= {"rope.scaling.type": "linear", "rope.scaling.factor": c.rope_factor}
    beyond = ["bias", "dropout"]
    if scaling == "llama3":  # GGUF has only what comes of them
        beyond += ["rope_factor", "rope_low_freq", "rope_high_freq", "rope_old_context"]
    own = {f"minigpt.{key}": getattr(c, key) for key in beyond}
    return {f"{family}.{key}": value for key, value in shape.items()} | own


def shape_in(settings: Settings, stored: dict[str, StoredTensor]) -> ModelConfig:
    """Return the shape that the settings say, and the tensors where those do not.

    Raises:
        UserError: a setting is missing, not what it should be, or not this model's.
    """
    family = settings.get("general.architecture")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise UserError(
            f"general.architecture is {family!r}; wanted one of {', '.join(ARCHITECTURES)}"
        )
    if "token_embd.weight" not in stored:
        raise UserError("it has no token_embd.weight")
    reader = _Reader(settings, f"{family}.")
    rows, *width = stored["token_embd.weight"].shape or (0,)
    if width != [reader.whole("embedding_length")]:
        raise UserError(f"token_embd.weight is not {reader.whole('embedding_length')} wide")
    layers = reader.whole("block_count")
    if 6 * layers > len(stored):  # so many has the smallest layer
        raise UserError(f"{family}.block_count is {layers}, but it has only {len(stored)} tensors")
    learned = family == "gpt2"
    own = _Reader(settings, "minigpt.")
    return ModelConfig(
        vocab_size=rows,
        block_size=reader.whole("context_length"),
        n_layer=layers,
        n_head=reader.whole("attention.head_count"),
        n_embd=reader.whole("embedding_length"),
        mlp_hidden=reader.whole("feed_forward_length"),
        norm_eps=reader.real(f"attention.layer_norm_{'' if learned else 'rms_'}epsilon"),
        position="learned" if learned else "rope",
        norm="layernorm" if learned else "rmsnorm",
        mlp={"gpt2": "gelu", "arcee": "relu2"}.get(family, "swiglu"),  # ty: ignore[invalid-argument-type]
        qk_norm=family == "qwen3",
        bias=bool(settings.get("minigpt.bias", "blk.0.attn_output.bias" in stored)),
        tie_embeddings="output.weight" not in stored,
        dropout=own.real("dropout", 0.0),
        **({} if learned else _rotary_shape(reader, own, FREQUENCIES in stored)),
    ).resolve()


def _rotary_shape(reader: "_Reader", own: "_Reader", slowed: bool) -> dict[str, Any]:
    heads = reader.whole("attention.head_count")
    head_dim = reader.whole("attention.key_length", 0)
    reader.expect("attention.value_length", head_dim)
    reader.expect("rope.dimension_count", head_dim or reader.whole("embedding_length") // heads)
    reader.expect("attention.sliding_window", 0)
    kind = reader.settings.get(f"{reader.prefix}rope.scaling.type", "none")
    if kind not in ("none", "linear") or (slowed and kind != "none"):
        raise UserError(
            f"its rotary positions are scaled by {kind!r}; this model has linear and llama3"
        )
    shape: dict[str, Any] = {
        "n_kv_head": reader.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rope_theta": reader.real("rope.freq_base", 10_000.0),
        "rope_scaling": kind,
    }
    if kind == "linear":
        shape["rope_factor"] = reader.real("rope.scaling.factor")
    if slowed:
        shape |= {
            "rope_scaling": "llama3",
            "rope_factor": own.real("rope_factor"),
            "rope_low_freq": own.real("rope_low_freq"),
            "rope_high_freq": own.real("rope_high_freq"),
            "rope_old_context": own.whole("rope_old_context"),
        }
    return shape


class _Reader:
    """The settings under one prefix, each refused by name where it is missing or not what it should be."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self.settings, self.prefix = settings, prefix

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        # Larger ones are lies, and sizes made of them would not fit 64 bits.
        if type(value) is not int or (value != default and not 1 <= value <= 2**24):
            raise UserError(
                f"{self.prefix}{key} is {_shown(value)}; wanted a whole number from 1 to 2^24"
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if type(value) is not float:
            raise UserError(f"{self.prefix}{key} is {_shown(value)}; wanted a number")
        return float(str(np.float32(value)))  # 1e-05 as it was meant, not as fp32 has it

    def expect(self, key: str, wanted: int) -> None:
        value = self.settings.get(self.prefix + key, wanted)
        if value != wanted:
            raise UserError(f"{self.prefix}{key} is {_shown(value)}; this model has only {wanted}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.settings.get(self.prefix + key, default)
        if value is None:
            raise UserError(f"it has no setting {self.prefix}{key}")
        return value


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 80 else f"{repr(value)[:80]}…"
