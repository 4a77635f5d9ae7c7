"""A config.json of Hugging Face in, our shape out, and back; what this model does not have is refused by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from minigpt.config import ModelConfig, from_dict
from minigpt.errors import UserError

GPT2_MLP = {"gelu": "gelu_new", "gelu_exact": "gelu", "relu2": "relu2"}
_GPT2_ACTIVATION = {theirs: ours for ours, theirs in GPT2_MLP.items()} | {
    "gelu_pytorch_tanh": "gelu"
}
_ROTARY_ACTIVATION = {"swiglu": "silu", "relu2": "relu2"}


class Settings:
    """The keys of a config.json, each refused by name where it is missing or not what it should be."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least 1; without a default it must be there."""
        value = self._value(key, default)
        if type(value) is not int or value < 1:
            raise UserError(f"{key} is {_shown(value)}; wanted a whole number of at least 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._value(key, default)
        if type(value) not in (int, float) or abs(value) > 1e300:
            raise UserError(f"{key} is {_shown(value)}; wanted a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise UserError(f"{key} is {_shown(value)}; wanted true or false")
        return value

    def table(self, key: str) -> "Settings":
        """Return the settings under a key; none where it is not there."""
        value = self._content.get(key) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"{key} is {_shown(value)}; wanted an object")
        return Settings(value)

    def get(self, key: str, default: Any = None) -> Any:
        """Return whatever stands there."""
        return self._content.get(key, default)

    def only(self, key: str, wanted: Any) -> None:
        """Refuse another value than the one that this model has."""
        value = self._content.get(key, wanted)
        if type(value) is not type(wanted) or value != wanted:
            raise UserError(f"{key} is {_shown(value)}; this model has only {wanted!r}")

    def nothing_but(self, known: set[str], what: str) -> None:
        """Refuse keys that are not known here."""
        if unknown := sorted(map(str, self._content.keys() - known)):
            raise UserError(f"{what} settings that this model lacks: {', '.join(unknown)[:80]}")

    def __bool__(self) -> bool:
        return bool(self._content)

    def _value(self, key: str, default: Any) -> Any:
        value = self._content.get(key)
        if value is None and default is None:
            raise UserError(f"its config.json lacks {key!r}")
        return default if value is None else value


def _shown(value: Any) -> str:
    shown = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return shown if len(shown) < 80 else f"{shown[:80]}…"


# ------------------------------------------------------------------------------------------------------------- GPT-2


def gpt2_settings(c: ModelConfig) -> dict[str, Any]:
    """Return a shape as the keys of a GPT-2."""
    return {
        "n_positions": c.block_size,
        "n_ctx": c.block_size,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_inner": c.mlp_hidden,
        "activation_function": GPT2_MLP[c.mlp],
        "layer_norm_epsilon": c.norm_eps,
        "embd_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "attn_pdrop": 0.0,
        "minigpt": {"bias": c.bias, "dropout": c.dropout},  # a GPT-2 always has biases: zeros here
    }


def gpt2_shape(content: Mapping[str, Any]) -> ModelConfig:
    """Return the shape of a GPT-2.

    Raises:
        UserError: a setting that is missing, no value for it, or one that this model does not have.
    """
    s = Settings(content)
    _refuse_foreign(s)
    s.only("scale_attn_weights", True)
    s.only("scale_attn_by_inverse_layer_idx", False)
    s.only("add_cross_attention", False)
    activation = s.get("activation_function", "gelu_new")
    if activation not in tuple(_GPT2_ACTIVATION):
        raise UserError(
            f"activation_function is {_shown(activation)}; this model has {', '.join(_GPT2_ACTIVATION)}"
        )
    own = s.table("minigpt")
    own.nothing_but({"bias", "dropout"}, "its config.json has under 'minigpt'")
    channels = s.whole("n_embd", 768)
    return ModelConfig(
        block_size=s.whole("n_positions", 1024),
        n_embd=channels,
        n_layer=s.whole("n_layer", 12),
        n_head=s.whole("n_head", 12),
        mlp_hidden=s.whole("n_inner", 4 * channels),
        mlp=_GPT2_ACTIVATION[activation],  # ty: ignore[invalid-argument-type]
        norm_eps=s.number("layer_norm_epsilon", 1e-5),
        position="learned",
        norm="layernorm",
        bias=own.flag("bias", True),
        dropout=own.number("dropout", s.number("resid_pdrop", 0.1)),
        tie_embeddings=s.flag("tie_word_embeddings", True),
        vocab_size=s.whole("vocab_size", 50257),
    )


# ---------------------------------------------------------------------------------------------- Llama, Qwen3, Arcee


def rotary_settings(c: ModelConfig) -> dict[str, Any]:
    """Return a shape as the keys of a Llama and its kin."""
    return {
        "hidden_size": c.n_embd,
        "intermediate_size": c.mlp_hidden,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "max_position_embeddings": c.block_size,
        "hidden_act": _ROTARY_ACTIVATION[c.mlp],
        "rms_norm_eps": c.norm_eps,
        **_rope_settings(c),
        "attention_bias": c.bias,
        "mlp_bias": c.bias,
        "attention_dropout": 0.0,
        "minigpt": {"dropout": c.dropout},
    }


def _rope_settings(c: ModelConfig) -> dict[str, Any]:
    """Return the rotary settings twice: as they are written since 2025, and as older programs read them."""
    scaling: dict[str, Any] = {}
    if c.rope_scaling != "none":
        scaling |= {"rope_type": c.rope_scaling, "factor": c.rope_factor}
    if c.rope_scaling == "llama3":
        scaling |= {
            "low_freq_factor": c.rope_low_freq,
            "high_freq_factor": c.rope_high_freq,
            "original_max_position_embeddings": c.rope_old_context,
        }
    new = {"rope_type": "default", "rope_theta": c.rope_theta} | scaling
    old = {"rope_theta": c.rope_theta} | ({"rope_scaling": scaling} if scaling else {})
    return old | {"rope_parameters": new}


def rotary_shape(content: Mapping[str, Any], mlp: str, qk_norm: bool) -> ModelConfig:
    """Return the shape of a Llama, Qwen3 or Arcee; errors as `gpt2_shape`."""
    s = Settings(content)
    s.only("hidden_act", _ROTARY_ACTIVATION[mlp])
    s.only("use_sliding_window", False)
    _refuse_foreign(s)
    bias = s.flag("attention_bias", False)
    if bias != s.flag("mlp_bias", False) and not qk_norm:
        raise UserError(
            "it has biases in only one of attention and MLP; this model has both or none"
        )
    if qk_norm:
        s.only("attention_bias", False)
    own = s.table("minigpt")
    own.nothing_but({"dropout"}, "its config.json has under 'minigpt'")
    channels, heads = s.whole("hidden_size"), s.whole("num_attention_heads")
    return ModelConfig(
        block_size=s.whole("max_position_embeddings"),
        n_embd=channels,
        n_layer=s.whole("num_hidden_layers"),
        n_head=heads,
        n_kv_head=s.whole("num_key_value_heads", heads),
        head_dim=s.whole("head_dim", max(1, channels // heads)),
        mlp_hidden=s.whole("intermediate_size"),
        mlp=mlp,  # ty: ignore[invalid-argument-type]
        qk_norm=qk_norm,
        norm_eps=s.number("rms_norm_eps", 1e-6),
        **_rope_shape(s),
        position="rope",
        norm="rmsnorm",
        bias=bias,
        dropout=own.number("dropout", 0.0),
        tie_embeddings=s.flag("tie_word_embeddings", False),
        vocab_size=s.whole("vocab_size"),
    )


def _rope_shape(s: Settings) -> dict[str, Any]:
    """Return the rotary settings of a config.json, old or new, as ours."""
    base = s.number("rope_theta", 10_000.0)
    new, old = s.table("rope_parameters"), s.table("rope_scaling")
    if new and old:
        found, other = _rope_kind(new, base), _rope_kind(old, base)
        if any(found.get(key) != value for key, value in other.items() if key != "rope_theta"):
            raise UserError(
                "its rope_parameters and rope_scaling differ, and programs take either; leave one of them"
            )
        return found
    return _rope_kind(new or old, base)


def _rope_kind(rope: Settings, base: float) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "factor"}
    if kind not in ("default", "linear", "llama3"):
        raise UserError(
            f"its rotary positions are scaled by {_shown(kind)}; this model has linear and llama3"
        )
    ours: dict[str, Any] = {"rope_theta": rope.number("rope_theta", base)}
    ours["rope_scaling"] = "none" if kind == "default" else kind
    if kind in ("linear", "llama3"):
        ours["rope_factor"] = rope.number("factor")
    if kind == "llama3":
        ours |= {
            "rope_low_freq": rope.number("low_freq_factor"),
            "rope_high_freq": rope.number("high_freq_factor"),
            "rope_old_context": rope.whole("original_max_position_embeddings"),
        }
        known |= {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    rope.nothing_but(known, "its rotary positions have")
    return ours


# --------------------------------------------------------------------------------------------------------------- ours


def own_settings(c: ModelConfig) -> dict[str, Any]:
    """Return a shape that no other architecture can hold, under our own names."""
    return {"minigpt": dataclasses.asdict(c)}


def own_shape(content: Mapping[str, Any]) -> ModelConfig:
    """Return the shape under our own names."""
    if not isinstance(content.get("minigpt"), Mapping):
        raise UserError("its config.json lacks 'minigpt', an object with the shape")
    return from_dict({"model": content["minigpt"]}, "its config.json").model


def _refuse_foreign(s: Settings) -> None:
    """Refuse by name what several architectures may have and this model has not."""
    for key, wanted in (
        ("quantization_config", None),
        ("partial_rotary_factor", 1.0),
        ("pretraining_tp", 1),
    ):
        if s.get(key, wanted) != wanted:
            raise UserError(f"{key} is {_shown(s.get(key))}; this model has only {wanted!r}")
    kinds = s.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        others = sorted({str(kind) for kind in kinds} - {"full_attention"})
        raise UserError(
            f"layer_types has {', '.join(others)[:80]}; this model has only full_attention"
        )
