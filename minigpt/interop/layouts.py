"""A state dict under the names of some program in, shape and tensors under ours out.

Known are our names, those of nanoGPT, of both layouts of minGPT, and of GPT-2 in `transformers`. What a file does not
say is read off its tensors, or assumed to be as these programs have it, and said.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from minigpt.config import ModelConfig, convert_all
from minigpt.errors import UserError, plain
from minigpt.model.families import from_hugging_face
from minigpt.model.weights import Tensors

# What nanoGPT keeps beside its tensors; the names are ours, too.
_ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
# Heads that minGPT's named shapes have, by (layers, channels); elsewhere 64 channels a head, as in every GPT-2.
_KNOWN_HEADS = {(3, 48): 3, (4, 128): 4, (6, 192): 6, (8, 512): 16}


@dataclass
class Found:
    """A model as a file holds it.

    Attributes:
        config: its shape, every derived field written out.
        tensors: under our names, ready for `families.fill`.
        notes: sentences on what was not in the file and how it was settled.
    """

    config: ModelConfig
    tensors: Tensors
    notes: list[str] = field(default_factory=list)


def read_layout(state: Tensors, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> Found:
    """Return the model that a state dict of tensors holds.

    Args:
        state: tensors by name.
        arguments: the `model_args` that nanoGPT keeps beside them, or nothing.
        given: fields of ModelConfig that a person knows better.

    Raises:
        UserError: names of no known layout, a size that cannot be told, or settings that contradict the tensors.
    """
    if "embedding.weight" in state:
        return _infer_own(state, given)
    return _read_gpt2(_as_gpt2(state), arguments, given)


# ------------------------------------------------------------------------------------------------------ our own names


def _infer_own(state: Tensors, given: Mapping[str, Any]) -> Found:
    """Return the model of a state dict of ours that has lost its settings."""
    names, first = state.keys(), "blocks.0."
    rows, channels = _matrix(state, "embedding.weight")
    queries = _matrix(state, f"{first}attention.query.weight")[0]
    keys = _matrix(state, f"{first}attention.key.weight")[0]
    qk_norm = f"{first}attention.query_norm.weight" in names
    width = state[f"{first}attention.query_norm.weight"].numel() if qk_norm else 0
    learned = "position_embedding.weight" in names
    gated_mlp = f"{first}mlp.gate.weight" in names
    layers = _layers(state, r"blocks\.(\d{1,6})\.")
    heads = given.get("n_head") or (queries // width if width else _heads(layers, queries))
    width = width or queries // heads
    seen: dict[str, Any] = {
        "vocab_size": rows,
        "n_embd": channels,
        "n_layer": layers,
        "n_kv_head": max(1, keys // max(1, width)),
        "head_dim": width,
        "mlp_hidden": _matrix(state, f"{first}mlp.up.weight")[0],
        "position": "learned" if learned else "rope",
        "qk_norm": qk_norm,
        "attention_gate": "silu" if f"{first}attention.gate.weight" in names else "none",
        "bias": f"{first}attention.query.bias" in names,
        "tie_embeddings": _is_tied(state, "head.weight", "embedding.weight"),
    }
    if learned:
        seen["block_size"] = _matrix(state, "position_embedding.weight")[0]
    assumed: dict[str, Any] = {"norm_eps": ModelConfig.norm_eps}
    assumed |= {} if learned else {"block_size": 1024, "rope_theta": ModelConfig.rope_theta}
    (seen if "norm.bias" in names else assumed)["norm"] = (
        "layernorm" if learned or "norm.bias" in names else "rmsnorm"
    )
    (seen if qk_norm else assumed)["n_head"] = heads
    (seen if gated_mlp else assumed)["mlp"] = "swiglu" if gated_mlp else "gelu"
    config = dataclasses.replace(ModelConfig(**(seen | assumed)), **given).resolve()
    tied = {"head.weight": state["embedding.weight"]} if seen["tie_embeddings"] else {}
    return Found(config, state | tied, [_note(config, assumed, given)])


# ----------------------------------------------------------------------------------------- nanoGPT, minGPT and GPT-2

_OLD_MINGPT = {
    r"tok_emb\.weight": "transformer.wte.weight",
    r"ln_f\.(weight|bias)": r"transformer.ln_f.\1",
    r"head\.weight": "lm_head.weight",
    r"blocks\.(\d+)\.ln([12])\.(weight|bias)": r"transformer.h.\1.ln_\2.\3",
    r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": r"transformer.h.\1.attn.c_proj.\2",
    r"blocks\.(\d+)\.mlp\.0\.(weight|bias)": r"transformer.h.\1.mlp.c_fc.\2",
    r"blocks\.(\d+)\.mlp\.2\.(weight|bias)": r"transformer.h.\1.mlp.c_proj.\2",
}


def _as_gpt2(state: Tensors) -> Tensors:
    """Return a state dict of nanoGPT, minGPT or GPT-2 under GPT-2's names in `transformers`.

    Raises:
        UserError: names of none of them.
    """
    if "tok_emb.weight" in state and "pos_emb" in state:
        return _from_old_mingpt(state)
    if "transformer.wte.weight" in state:
        return state
    if "wte.weight" in state:
        return {
            name if name.startswith("lm_head.") else f"transformer.{name}": t
            for name, t in state.items()
        }
    listed = plain(", ".join(sorted(state)[:3]))
    raise UserError(
        f"its tensors have names of no layout that is known without a config.json ({listed}, …); wanted ours, "
        "nanoGPT's, minGPT's or GPT-2's. Of a Hugging Face model pass the folder"
    )


def _from_old_mingpt(state: Tensors) -> Tensors:
    """Return the first layout of minGPT (2020), with query, key and value apart, under GPT-2's names."""
    positions = state["pos_emb"]
    if positions.dim() != 3 or positions.size(0) != 1:
        raise UserError(f"pos_emb is {tuple(positions.shape)}; wanted (1, positions, channels)")
    renamed: Tensors = {"transformer.wpe.weight": positions[0]}
    taken = {"pos_emb"}
    for name, tensor in state.items():
        layer = re.fullmatch(r"blocks\.(\d+)\.attn\.query\.(weight|bias)", name)
        if layer:
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            if missing := [part for part in parts if part not in state]:
                raise UserError(f"{missing[0]} is missing")
            if len({(state[part].shape, state[part].dtype) for part in parts}) > 1:
                raise UserError(f"{', '.join(parts)} differ in shape or type; wanted three alike")
            whole = torch.cat([torch.atleast_1d(state[part]) for part in parts])
            renamed[f"transformer.h.{layer[1]}.attn.c_attn.{layer[2]}"] = whole
            taken |= set(parts)
        elif mask := re.fullmatch(r"blocks\.(\d+)\.attn\.mask", name):
            renamed[f"transformer.h.{mask[1]}.attn.bias"] = tensor
        else:
            renamed[next(_renamings(name), name)] = tensor
    return {name: tensor for name, tensor in renamed.items() if name not in taken}


def _renamings(name: str) -> Iterator[str]:
    for old, new in _OLD_MINGPT.items():
        if match := re.fullmatch(old, name):
            yield match.expand(new)


def _read_gpt2(state: Tensors, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> Found:
    """Return the model of a state dict under GPT-2's names, its matrices turned as any of these programs has them."""
    first = "transformer.h.0."
    masks = any(name.endswith(".attn.bias") for name in state)
    rows, columns = _matrix(state, f"{first}attn.c_attn.weight")
    as_linear = rows == 3 * columns  # (outputs, inputs): nanoGPT and minGPT; GPT-2's own are turned
    if as_linear:
        turned = (
            "attn.c_attn.weight",
            "attn.c_proj.weight",
            "mlp.c_fc.weight",
            "mlp.c_proj.weight",
        )
        state = {n: t.t() if n.endswith(turned) and t.dim() == 2 else t for n, t in state.items()}
    vocabulary, channels = _matrix(state, "transformer.wte.weight")
    layers = _layers(state, r"transformer\.h\.(\d{1,6})\.")
    arguments = _understood(arguments)
    heads = given.get("n_head") or arguments.get("n_head") or _heads(layers, channels)
    exact = as_linear and not masks
    settings = {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_embd": channels,
        "n_positions": _matrix(state, "transformer.wpe.weight")[0],
        "n_layer": layers,
        "n_head": heads,
        "n_inner": _matrix(state, f"{first}mlp.c_fc.weight")[1],
        "activation_function": "gelu" if exact else "gelu_new",
        "tie_word_embeddings": _is_tied(state, "lm_head.weight", "transformer.wte.weight"),
        "minigpt": {
            "bias": f"{first}attn.c_attn.bias" in state,
            "dropout": arguments.get("dropout", 0.0),
        },
    }
    _compare(arguments, settings)
    if settings["tie_word_embeddings"]:
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    config, tensors = from_hugging_face(settings, state)
    assumed: dict[str, Any] = {} if "n_head" in arguments else {"n_head": config.n_head}
    assumed |= {"mlp": config.mlp} if as_linear else {}
    config = dataclasses.replace(config, **given).resolve()
    return Found(config, tensors, [_note(config, assumed, given)])


def _understood(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `model_args` of nanoGPT; refuse what this model does not have, and values of another type."""
    if unknown := sorted(plain(name) for name in arguments if name not in _ARGUMENTS):
        raise UserError(
            f"its model_args have {', '.join(unknown)[:80]}, which this model lacks; wanted nanoGPT's own"
        )
    for name, value in arguments.items():
        if type(value) not in (int, float, bool):
            raise UserError(
                f"its model_args say {name} as a {type(value).__name__}; wanted a number"
            )
    return convert_all("model", arguments)


def _compare(arguments: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
    """Refuse settings that contradict the tensors they come with."""
    names = {
        "n_layer": "n_layer",
        "n_embd": "n_embd",
        "block_size": "n_positions",
        "vocab_size": "vocab_size",
    }
    found = {theirs: seen[ours] for theirs, ours in names.items()} | {
        "bias": seen["minigpt"]["bias"]
    }
    for name, value in found.items():
        if arguments.get(name, value) != value:
            raise UserError(
                f"its model_args say {name} = {arguments[name]}, but its tensors are of {value}"
            )


# ----------------------------------------------------------------------------------------------------------- sizes


def _matrix(state: Tensors, name: str) -> tuple[int, int]:
    if name not in state:
        raise UserError(f"{name} is missing")
    if state[name].dim() != 2:
        raise UserError(f"{name} has {state[name].dim()} dimensions, wanted 2")
    return state[name].size(0), state[name].size(1)


def _layers(state: Tensors, pattern: str) -> int:
    return 1 + max((int(f[1]) for name in state if (f := re.match(pattern, name))), default=0)


def _heads(layers: int, channels: int) -> int:
    heads = _KNOWN_HEADS.get((layers, channels), channels // 64)
    if heads < 1 or channels % heads:
        raise UserError(
            f"it does not say how many heads its {channels} channels make; import it with --model.n-head N"
        )
    return heads


def _is_tied(state: Tensors, head: str, embedding: str) -> bool:
    if head not in state:
        return True
    one, other = state[head], state[embedding]
    return one.dtype == other.dtype and torch.equal(one, other)


def _note(config: ModelConfig, assumed: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return a sentence on what was read off the tensors and what had to be assumed."""
    parts = [
        f"{config.n_layer} layers", f"{config.n_embd} channels", f"{config.vocab_size:,} ids",
        "biases" if config.bias else "no biases", f"{'a tied' if config.tie_embeddings else 'an untied'} head",
    ]  # fmt: skip
    note = f"read off its tensors: {', '.join(parts)}"
    open_fields = {name: value for name, value in assumed.items() if name not in given}
    if open_fields:
        listed = ", ".join(f"{name} = {value}" for name, value in open_fields.items())
        option = next(iter(open_fields)).replace("_", "-")
        note += f"; not in it, so assumed: {listed} (minigpt import with --model.{option} … says otherwise)"
    return note
