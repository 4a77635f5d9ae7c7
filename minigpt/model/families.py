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
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.errors import UserError, plain
from minigpt.files import read_json, replace_json
from minigpt.model.config_json import (
    GPT2_MLP,
    gpt2_settings,
    gpt2_shape,
    own_settings,
    own_shape,
    rotary_settings,
    rotary_shape,
)
from minigpt.model.undrawn import Undrawn
from minigpt.model.weights import MAX_SHARD_BYTES, Tensors, read_weights, write_weights
from minigpt.tokenizer import Tokenizer

Model = TypeVar("Model", bound=nn.Module)
FLOATING = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
)  # that weights are stored in
LARGEST_ROTARY_TABLE = 2**31  # numbers: 8 GB each of cosines and sines in halves


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


# ------------------------------------------------------------------------------------------------------------ fitting


def _is_rotary(c: ModelConfig, mlp: str, qk_norm: bool) -> bool:
    parts = (c.position, c.norm, c.mlp, c.qk_norm, c.attention_gate)
    return parts == ("rope", "rmsnorm", mlp, qk_norm, "none")


def _is_gpt2(c: ModelConfig) -> bool:
    parts = (c.position, c.norm, c.qk_norm, c.attention_gate)
    plain = c.n_kv_head == c.n_head and c.n_head * c.head_dim == c.n_embd
    return parts == ("learned", "layernorm", False, "none") and c.mlp in GPT2_MLP and plain


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
        to_settings=rotary_settings,
        to_shape=lambda s: rotary_shape(s, mlp, qk_norm),
        once=_ROTARY_ONCE,
        per_layer=_ROTARY_LAYER,
        layer_prefix="model.layers",
    )


FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        fits=_is_gpt2,
        to_settings=gpt2_settings,
        to_shape=gpt2_shape,
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
        to_settings=own_settings,
        to_shape=own_shape,
        once={},
        per_layer={},
        layer_prefix="",
    ),
}


# The settings that the families of others can say, or are asked about in `fits`.
SAID = {
    "vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "mlp_hidden", "position",
    "rope_theta", "rope_scaling", "rope_factor", "rope_low_freq", "rope_high_freq", "rope_old_context", "norm",
    "norm_eps", "mlp", "qk_norm", "attention_gate", "bias", "tie_embeddings", "dropout",
}  # fmt: skip


def family_of(config: ModelConfig) -> str:
    """Return the first family in which this shape can be written exactly.

    With a setting that is on and none of the others knows, it is our own.
    """
    for item in dataclasses.fields(config):
        if item.name not in SAID and getattr(config, item.name) != item.default:
            return "minigpt"
    return next(name for name, family in FAMILIES.items() if family.fits(config.resolve()))


# --------------------------------------------------------------------------------------------------- out and back


def to_hugging_face(config: ModelConfig, state: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Return config.json and the tensors of a model under the names of its architecture; a tied head is left out."""
    if any(".base." in key for key in state):
        raise ValueError("an adapter is in the model; write it alone, or merge it first")
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
                flip = bool(theirs.endswith(family.transposed) and family.transposed)
                _check_parts(theirs, whole, len(ours), flip)
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
        embedding = state["embedding.weight"]
        if not _is_same(state.setdefault("head.weight", embedding), embedding):
            config = dataclasses.replace(config, tie_embeddings=False)  # as `transformers` does
    return config, state


def _check_parts(name: str, tensor: Tensor, parts: int, is_matrix: bool) -> None:
    """Refuse a tensor that cannot be turned or cut into so many equal parts."""
    if is_matrix and tensor.dim() != 2:
        raise UserError(f"{plain(name)} has {tensor.dim()} dimensions, wanted 2")
    rows = tensor.size(-1 if is_matrix else 0) if tensor.dim() else 0
    if parts > 1 and (rows == 0 or rows % parts):
        raise UserError(f"{plain(name)} is {tuple(tensor.shape)}; wanted {parts} parts of one size")


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


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
    return family.to_shape(settings).resolve()


def _with_prefix(tensors: Tensors) -> Tensors:
    """Return GPT-2's tensors as `GPT2LMHeadModel` names them; the published files lack the prefix and hold masks."""
    named: Tensors = {}
    for key, tensor in tensors.items():
        name = key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}"
        if name in named:
            raise UserError(f"{plain(name)} is there twice, with and without its prefix")
        named[name] = tensor
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
    """Return the model of a shape with these tensors, in eval mode; errors as `fill`.

    Sizes are compared before any memory is taken for them.
    """
    c = config.resolve()
    wanted = {
        "embedding.weight": (c.vocab_size, c.n_embd),
        "blocks.0.attention.query.weight": (c.n_head * c.head_dim, c.n_embd),
        "blocks.0.attention.key.weight": (c.n_kv_head * c.head_dim, c.n_embd),
        "blocks.0.mlp.up.weight": (c.mlp_hidden, c.n_embd),
    }
    if c.position == "learned":
        wanted["position_embedding.weight"] = (c.block_size, c.n_embd)
    elif c.block_size * c.head_dim > LARGEST_ROTARY_TABLE:
        raise UserError(
            f"{where} cannot be loaded: its context of {c.block_size:,} tokens needs a table of "
            f"{c.block_size * c.head_dim:,} angles; state a shorter one in its config.json"
        )
    norms = [f"blocks.{layer}.attention_norm.weight" for layer in range(c.n_layer)]
    problems = [f"{key} is missing" for key in (*wanted, *norms) if key not in tensors]
    problems += [
        _other_shape(key, tensors[key], shape)
        for key, shape in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    _refuse_all(problems, where)
    with Undrawn():
        model = made(config)
    return fill(model, tensors, where).eval()


def fill(model: Model, tensors: Tensors, where: str) -> Model:
    """Put tensors into a model, all of them and no others, and return it; errors as `check_tensors`."""
    check_tensors(model, tensors, where)
    model.load_state_dict(tensors)
    return model


def check_tensors(model: nn.Module, tensors: Tensors, where: str) -> None:
    """Refuse tensors that are not those of a model.

    Raises:
        UserError: tensors that are missing, have no place in the model, another shape, or are no finite floating-point
            numbers: the first four of them by name.
    """
    wanted = model.state_dict()
    both = wanted.keys() & tensors.keys()
    problems = [f"{key} is missing" for key in wanted.keys() - tensors.keys()]
    problems += [f"{plain(key)} is not part of the model" for key in tensors.keys() - wanted.keys()]
    problems += [
        _other_shape(key, tensors[key], tuple(wanted[key].shape))
        for key in both
        if tensors[key].shape != wanted[key].shape
    ]
    problems += [
        f"{key} is {str(tensors[key].dtype).removeprefix('torch.')}, wanted floating point"
        for key in both
        if tensors[key].dtype not in FLOATING
    ]
    _refuse_all(problems, where)
    _refuse_all(
        [
            f"{key} holds numbers that are not finite (a run that diverged, or a damaged file)"
            for key in both
            if not tensors[key].isfinite().all()
        ],
        where,
    )


def _other_shape(name: str, tensor: Tensor, wanted: tuple[int, ...]) -> str:
    return f"{name} is {tuple(tensor.shape)}, wanted {wanted}"


def _refuse_all(problems: list[str], where: str) -> None:
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        listed = ", ".join(sorted(problems)[:4])
        raise UserError(
            f"{where} cannot be loaded: its tensors do not fit its settings: {listed}{more}"
        )
