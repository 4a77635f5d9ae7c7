"""Our shapes and tensor names to those of Hugging Face and back: config.json and model.safetensors.

Which architecture is written follows from the settings. Tensors are renamed, transposed and stacked, never computed
with, so a round trip is equal bit for bit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from minigpt.config import ModelConfig, from_dict
from minigpt.errors import UserError
from minigpt.files import read_json, replace_json
from minigpt.model.undrawn import Undrawn
from minigpt.model.weights import MAX_SHARD_BYTES, Tensors, read_weights, write_weights
from minigpt.tokenizer import Tokenizer

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Family:
    """One architecture of Hugging Face.

    Attributes:
        architecture: its class in `transformers`.
        fits: whether a shape is exactly this architecture.
        to_settings: a shape as the keys of config.json.
        to_shape: the keys of config.json as a shape.
        once, per_layer: their tensor name -> ours; several of ours are stacked along the outputs.
        transposed: their names that hold (inputs, outputs), as GPT-2's Conv1D does.
    """

    architecture: str
    fits: Callable[[ModelConfig], bool]
    to_settings: Callable[[ModelConfig], dict[str, Any]]
    to_shape: Callable[[Mapping[str, Any]], ModelConfig]
    once: dict[str, str]
    per_layer: dict[str, str | tuple[str, ...]]
    layer_prefix: str
    transposed: tuple[str, ...] = ()

    def names(self, config: ModelConfig) -> dict[str, tuple[str, ...]]:
        """Return their name -> our names, for every tensor that either side may have."""
        table: dict[str, tuple[str, ...]] = {theirs: (ours,) for theirs, ours in self.once.items()}
        for layer in range(config.n_layer):
            for theirs, ours in self.per_layer.items():
                parts = (ours,) if isinstance(ours, str) else ours
                key = f"{self.layer_prefix}.{layer}.{theirs}"
                table[key] = tuple(f"blocks.{layer}.{part}" for part in parts)
        return table


# ---------------------------------------------------------------------------------------------------------- shapes


def _is_rotary(c: ModelConfig, mlp: str, qk_norm: bool) -> bool:
    parts = (c.position, c.norm, c.mlp, c.qk_norm, c.attention_gate)
    return parts == ("rope", "rmsnorm", mlp, qk_norm, "none")


def _is_gpt2(c: ModelConfig) -> bool:
    parts = (c.position, c.norm, c.qk_norm, c.attention_gate)
    plain = c.n_kv_head == c.n_head and c.n_head * c.head_dim == c.n_embd
    return parts == ("learned", "layernorm", False, "none") and c.mlp in _GPT2_MLP and plain


_GPT2_MLP = {"gelu": "gelu_new", "gelu_exact": "gelu", "relu2": "relu2"}
_GPT2_ACTIVATION = {theirs: ours for ours, theirs in _GPT2_MLP.items()} | {
    "gelu_pytorch_tanh": "gelu"
}


def _gpt2_settings(c: ModelConfig) -> dict[str, Any]:
    return {
        "n_positions": c.block_size,
        "n_ctx": c.block_size,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_inner": c.mlp_hidden,
        "activation_function": _GPT2_MLP[c.mlp],
        "layer_norm_epsilon": c.norm_eps,
        "embd_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "attn_pdrop": 0.0,
        "minigpt": {"bias": c.bias, "dropout": c.dropout},  # a GPT-2 always has biases: zeros here
    }


def _gpt2_shape(s: Mapping[str, Any]) -> ModelConfig:
    _refuse_foreign(s)
    _refuse(s, "scale_attn_weights", True)
    _refuse(s, "scale_attn_by_inverse_layer_idx", False)
    _refuse(s, "add_cross_attention", False)
    activation = s.get("activation_function", "gelu_new")
    if activation not in _GPT2_ACTIVATION:
        raise UserError(
            f"activation_function is {activation!r}; this model has {', '.join(_GPT2_ACTIVATION)}"
        )
    extra = s.get("minigpt", {})
    return ModelConfig(
        block_size=s.get("n_positions", 1024),
        n_embd=s.get("n_embd", 768),
        n_layer=s.get("n_layer", 12),
        n_head=s.get("n_head", 12),
        mlp_hidden=s.get("n_inner") or 4 * s.get("n_embd", 768),
        mlp=_GPT2_ACTIVATION[activation],  # ty: ignore[invalid-argument-type]
        norm_eps=s.get("layer_norm_epsilon", 1e-5),
        position="learned",
        norm="layernorm",
        bias=extra.get("bias", True),
        dropout=extra.get("dropout", s.get("resid_pdrop", 0.1)),
        tie_embeddings=s.get("tie_word_embeddings", True),
        vocab_size=s.get("vocab_size", 50257),
    )


def _rotary_settings(c: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": c.n_embd,
        "intermediate_size": c.mlp_hidden,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "max_position_embeddings": c.block_size,
        "hidden_act": {"swiglu": "silu", "relu2": "relu2"}[c.mlp],
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


def _rope_shape(s: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings of a config.json, old or new, as ours."""
    rope = s.get("rope_parameters") or s.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "factor"}
    ours = {
        "rope_theta": float(rope.get("rope_theta", s.get("rope_theta", 10_000.0))),
        "rope_scaling": "none" if kind == "default" else kind,
    }
    if kind in ("linear", "llama3"):
        ours["rope_factor"] = float(rope["factor"])
    if kind == "llama3":
        ours |= {
            "rope_low_freq": float(rope["low_freq_factor"]),
            "rope_high_freq": float(rope["high_freq_factor"]),
            "rope_old_context": rope["original_max_position_embeddings"],
        }
        known |= {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    if kind not in ("default", "linear", "llama3"):
        raise UserError(
            f"its rotary positions are scaled by {kind!r}; this model has linear and llama3"
        )
    if unknown := sorted(rope.keys() - known):
        raise UserError(
            f"its rotary positions have settings that this model lacks: {', '.join(unknown)}"
        )
    return ours


def _rotary_shape(s: Mapping[str, Any], mlp: str, qk_norm: bool) -> ModelConfig:
    _refuse(s, "hidden_act", {"swiglu": "silu", "relu2": "relu2"}[mlp])
    _refuse(s, "use_sliding_window", False)
    _refuse_foreign(s)
    bias = s.get("attention_bias", False)
    if bias != s.get("mlp_bias", False) and not qk_norm:
        raise UserError(
            "it has biases in only one of attention and MLP; this model has both or none"
        )
    if qk_norm:
        _refuse(s, "attention_bias", False)
    return ModelConfig(
        block_size=s["max_position_embeddings"],
        n_embd=s["hidden_size"],
        n_layer=s["num_hidden_layers"],
        n_head=s["num_attention_heads"],
        n_kv_head=s.get("num_key_value_heads") or s["num_attention_heads"],
        head_dim=s.get("head_dim") or s["hidden_size"] // s["num_attention_heads"],
        mlp_hidden=s["intermediate_size"],
        mlp=mlp,  # ty: ignore[invalid-argument-type]
        qk_norm=qk_norm,
        norm_eps=s.get("rms_norm_eps", 1e-6),
        **_rope_shape(s),
        position="rope",
        norm="rmsnorm",
        bias=bias,
        dropout=s.get("minigpt", {}).get("dropout", 0.0),
        tie_embeddings=s.get("tie_word_embeddings", False),
        vocab_size=s["vocab_size"],
    )


def _own_settings(c: ModelConfig) -> dict[str, Any]:
    return {"minigpt": dataclasses.asdict(c)}


def _own_shape(s: Mapping[str, Any]) -> ModelConfig:
    return from_dict({"model": s["minigpt"]}, "its config.json").model


def _refuse_foreign(s: Mapping[str, Any]) -> None:
    """Refuse by name what several architectures may have and this model has not."""
    _refuse(s, "quantization_config", None)
    _refuse(s, "partial_rotary_factor", 1.0)
    _refuse(s, "pretraining_tp", 1)
    kinds = set(s.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise UserError(
            f"layer_types has {', '.join(sorted(kinds))}; this model has only full_attention"
        )


def _refuse(settings: Mapping[str, Any], key: str, wanted: Any) -> None:
    if settings.get(key, wanted) != wanted:
        raise UserError(f"{key} is {settings[key]!r}; this model has only {wanted!r}")


# ----------------------------------------------------------------------------------------------------------- names

_GPT2_ONCE = {
    "transformer.wte.weight": "embedding.weight",
    "transformer.wpe.weight": "position_embedding.weight",
    "transformer.ln_f.weight": "norm.weight",
    "transformer.ln_f.bias": "norm.bias",
    "lm_head.weight": "head.weight",
}
_GPT2_LAYER: dict[str, str | tuple[str, ...]] = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for kind in ("weight", "bias")
    for theirs, ours in {
        "ln_1": "attention_norm",
        "attn.c_proj": "attention.output",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }.items()
}
_GPT2_LAYER |= {
    f"attn.c_attn.{kind}": tuple(f"attention.{part}.{kind}" for part in ("query", "key", "value"))
    for kind in ("weight", "bias")
}
_ROTARY_ONCE = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
_ROTARY_LAYER: dict[str, str | tuple[str, ...]] = {
    "input_layernorm.weight": "attention_norm.weight",
    "post_attention_layernorm.weight": "mlp_norm.weight",
    "self_attn.q_norm.weight": "attention.query_norm.weight",
    "self_attn.k_norm.weight": "attention.key_norm.weight",
}
_ROTARY_LAYER |= {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for kind in ("weight", "bias")
    for theirs, ours in {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.down",
    }.items()
}


def _rotary_family(architecture: str, mlp: str, qk_norm: bool, with_bias: bool) -> Family:
    def fits(c: ModelConfig) -> bool:
        # `transformers` wants whole channels for a head of Llama and Arcee, even where head_dim says otherwise.
        whole = qk_norm or c.n_embd % c.n_head == 0
        return _is_rotary(c, mlp, qk_norm) and (with_bias or not c.bias) and whole

    return Family(
        architecture,
        fits=fits,
        to_settings=_rotary_settings,
        to_shape=lambda s: _rotary_shape(s, mlp, qk_norm),
        once=_ROTARY_ONCE,
        per_layer=_ROTARY_LAYER,
        layer_prefix="model.layers",
    )


FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        fits=_is_gpt2,
        to_settings=_gpt2_settings,
        to_shape=_gpt2_shape,
        once=_GPT2_ONCE,
        per_layer=_GPT2_LAYER,
        layer_prefix="transformer.h",
        transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    ),
    "llama": _rotary_family("LlamaForCausalLM", "swiglu", qk_norm=False, with_bias=True),
    "qwen3": _rotary_family("Qwen3ForCausalLM", "swiglu", qk_norm=True, with_bias=False),
    "arcee": _rotary_family("ArceeForCausalLM", "relu2", qk_norm=False, with_bias=False),
    "minigpt": Family(
        "MiniGPTForCausalLM",
        fits=lambda c: True,
        to_settings=_own_settings,
        to_shape=_own_shape,
        once={},
        per_layer={},
        layer_prefix="",
    ),
}


def family_of(config: ModelConfig) -> str:
    """Return the first family in which this shape can be written exactly."""
    return next(name for name, family in FAMILIES.items() if family.fits(config.resolve()))


# --------------------------------------------------------------------------------------------------- out and back


def to_hugging_face(config: ModelConfig, state: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Return config.json and the tensors of a model under the names of its architecture; a tied head is left out."""
    name = family_of(config)
    family = FAMILIES[name]
    settings = {
        "architectures": [family.architecture],
        "model_type": name,
        "vocab_size": config.vocab_size,
        "head_dim": config.head_dim,
        "tie_word_embeddings": config.tie_embeddings,
        "dtype": str(state["embedding.weight"].dtype).removeprefix("torch."),
        **family.to_settings(config),
    }
    if config.tie_embeddings:
        state = {key: tensor for key, tensor in state.items() if key != "head.weight"}
    if name == "minigpt":
        return settings, state
    if name == "gpt2" and not config.bias:
        state = _with_zero_biases(config, state)
    tensors = {}
    for theirs, ours in family.names(config).items():
        if ours[0] in state:
            stacked = state[ours[0]] if len(ours) == 1 else torch.cat([state[key] for key in ours])
            flip = theirs.endswith(family.transposed) and family.transposed
            tensors[theirs] = (stacked.t() if flip else stacked).contiguous()
    return settings, tensors


def from_hugging_face(settings: Mapping[str, Any], tensors: Tensors) -> tuple[ModelConfig, Tensors]:
    """Return shape and tensors under our names, ready for `GPT.load_state_dict`.

    Raises:
        UserError: an unknown architecture or setting.
    """
    config = shape_of(settings)
    family = FAMILIES[settings["model_type"]]
    if settings["model_type"] == "minigpt":
        state = dict(tensors)
    else:
        if settings["model_type"] == "gpt2":
            tensors = _with_prefix(tensors)
        state = {}
        for theirs, ours in family.names(config).items():
            if theirs in tensors:
                whole = tensors.pop(theirs)
                flip = theirs.endswith(family.transposed) and family.transposed
                parts = (whole.t() if flip else whole).tensor_split(len(ours))
                state |= {key: part.contiguous() for key, part in zip(ours, parts, strict=True)}
        state |= tensors  # what has no name in the table is reported as extra
        if settings["model_type"] == "gpt2" and not config.bias:
            biases = {key: tensor for key, tensor in state.items() if key.endswith(".bias")}
            if any(tensor.any() for tensor in biases.values()):
                config = dataclasses.replace(config, bias=True)  # learnt elsewhere since
            else:
                state = {key: tensor for key, tensor in state.items() if key not in biases}
    if config.tie_embeddings and "embedding.weight" in state:
        state["head.weight"] = state["embedding.weight"]
    return config, state


def shape_of(settings: Mapping[str, Any]) -> ModelConfig:
    """Return the shape that a config.json describes, every derived field written out.

    Raises:
        UserError: an unknown architecture, or a setting that this model does not have.
    """
    family = FAMILIES.get(str(settings.get("model_type")))
    if family is None:
        raise UserError(
            f"its model_type is {settings.get('model_type')!r}; wanted one of {', '.join(FAMILIES)}"
        )
    try:
        return family.to_shape(settings).resolve()
    except KeyError as error:
        raise UserError(f"its config.json lacks {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"its config.json holds a value of a wrong type: {error}") from None


def _with_prefix(tensors: Tensors) -> Tensors:
    """Return GPT-2's tensors as `GPT2LMHeadModel` names them; the published files lack the prefix and hold masks."""
    named = {
        key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}": tensor
        for key, tensor in tensors.items()
    }
    masks = (".attn.bias", ".attn.masked_bias")
    return {key: tensor for key, tensor in named.items() if not key.endswith(masks)}


def _with_zero_biases(config: ModelConfig, state: Tensors) -> Tensors:
    extended = dict(state)
    for key, tensor in state.items():
        if key.startswith(("blocks.", "norm.")):
            extended[key.removesuffix("weight") + "bias"] = tensor.new_zeros(tensor.shape[0])
    return extended


# ----------------------------------------------------------------------------------------------------- directories


def write_model(
    folder: Path,
    config: ModelConfig,
    state: Tensors,
    tokenizer: Tokenizer | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a Hugging Face model directory; each file takes the place of an older one in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, tensors = to_hugging_face(config, {key: t.detach().cpu() for key, t in state.items()})
    begin, end = (tokenizer.bos_id, tokenizer.eos_id) if tokenizer else (None, None)
    ends = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    generation: dict[str, Any] = dict(ends)
    if tokenizer and tokenizer.vocab_size < settings["vocab_size"]:
        generation["suppress_tokens"] = list(range(tokenizer.vocab_size, settings["vocab_size"]))
    replace_json(folder / "config.json", settings | ends)
    replace_json(folder / "generation_config.json", generation)
    if tokenizer:
        tokenizer.save(folder)
    write_weights(folder, tensors, max_shard_bytes)


def read_model(folder: Path) -> tuple[ModelConfig, Tensors]:
    """Return shape and tensors of a Hugging Face model directory, under our names.

    Raises:
        UserError: it is none, it is damaged, or this model cannot represent it.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is no model directory (it has no config.json); pass a run or a Hugging Face directory"
        )
    settings = read_json(folder / "config.json")
    try:
        return from_hugging_face(settings, read_weights(folder))
    except UserError as error:
        raise UserError(f"{folder} cannot be loaded: {error}") from None


def build(
    made: Callable[[ModelConfig], Model], config: ModelConfig, tensors: Tensors, where: str
) -> Model:
    """Return the model of a shape with these tensors, in eval mode; errors as `fill`."""
    with Undrawn():
        model = made(config)
    return fill(model, tensors, where).eval()


def fill(model: Model, tensors: Tensors, where: str) -> Model:
    """Put tensors into a model, all of them and no others, and return it.

    Raises:
        UserError: tensors that are missing, have no place in the model, another shape, or are no floating-point
            numbers: the first four of them by name.
    """
    wanted = model.state_dict()
    problems = [f"{key} is missing" for key in wanted.keys() - tensors.keys()]
    problems += [f"{key} is not part of the model" for key in tensors.keys() - wanted.keys()]
    problems += [
        f"{key} is {tuple(tensors[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in wanted.keys() & tensors.keys()
        if tensors[key].shape != wanted[key].shape
    ]
    problems += [
        f"{key} is {str(tensors[key].dtype).removeprefix('torch.')}, wanted floating point"
        for key in wanted.keys() & tensors.keys()
        if not tensors[key].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"{where} cannot be loaded: its tensors do not fit its settings: "
            f"{', '.join(sorted(problems)[:4])}{more}"
        )
    model.load_state_dict(tensors)
    return model
