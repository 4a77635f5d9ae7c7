"""A model and its tokenizer in, one GGUF file out, which llama.cpp runs; and such a file back.

Tensors are renamed, stacked and rounded. For a Llama or an Arcee the rows of queries and keys change places as well:
we turn channel i with channel i + D/2, llama.cpp there turns 2i with 2i + 1.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.extras import importing
from minigpt.files import replacing
from minigpt.interop.gguf_reader import Settings, StoredTensor, read_header
from minigpt.interop.gguf_shape import FREQUENCIES, family_for_llama_cpp, settings_of, shape_in
from minigpt.interop.gguf_vocabulary import Vocabulary, vocabulary_in, vocabulary_of
from minigpt.model.rope import rotary_frequencies
from minigpt.model.rope_scaling import scale_frequencies
from minigpt.model.transformer import GPT
from minigpt.model.weights import Tensors
from minigpt.tokenizer import Tokenizer

with importing("gguf", "GGUF"):
    import gguf

NumberType = Literal["f32", "f16", "bf16", "q8_0"]
_Kind = gguf.GGMLQuantizationType
_FP32 = np.dtype(np.float32)
_F32, _F16 = _Kind.F32, _Kind.F16
_TYPES = {
    "f32": (_F32, gguf.LlamaFileType.ALL_F32),
    "f16": (_F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (_Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (_Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
# The largest number of a type; that of q8_0 is 127 times a scale, which is an f16.
_LARGEST = {_F16: 65504.0, _Kind.Q8_0: 127 * 65504.0}

# ----------------------------------------------------------------------------------------------------------- names

_ONCE = {
    "token_embd.weight": "embedding.weight",
    "position_embd.weight": "position_embedding.weight",
    "output_norm.weight": "norm.weight",
    "output_norm.bias": "norm.bias",
    "output.weight": "head.weight",
}
_LAYER = {
    "attn_norm": ("attention_norm",),
    "attn_q_norm": ("attention.query_norm",),
    "attn_k_norm": ("attention.key_norm",),
    "attn_output": ("attention.output",),
    "ffn_norm": ("mlp_norm",),
    "ffn_gate": ("mlp.gate",),
    "ffn_up": ("mlp.up",),
    "ffn_down": ("mlp.down",),
}
_APART = {
    "attn_q": ("attention.query",),
    "attn_k": ("attention.key",),
    "attn_v": ("attention.value",),
}
_FUSED = {"attn_qkv": ("attention.query", "attention.key", "attention.value")}
_ATTENTION = {  # family -> what stands for queries, keys and values, and whether their rows change places
    "llama": (_APART, True),
    "arcee": (_APART, True),
    "qwen3": (_APART, False),
    "gpt2": (_FUSED, False),
}


def _names(family: str, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return their name -> our names, stacked along the outputs, for every tensor that either side may have."""
    table: dict[str, tuple[str, ...]] = {theirs: (ours,) for theirs, ours in _ONCE.items()}
    for layer in range(config.n_layer):
        for theirs, parts in (_LAYER | _ATTENTION[family][0]).items():
            for kind in ("weight", "bias"):
                ours = tuple(f"blocks.{layer}.{part}.{kind}" for part in parts)
                table[f"blk.{layer}.{theirs}.{kind}"] = ours
    return table


def _heads_to_turn(family: str, theirs: str, config: ModelConfig) -> int:
    """Return how many heads' rows change places in this tensor: 0 for most tensors."""
    heads = {"attn_q": config.n_head, "attn_k": config.n_kv_head}
    changes = _ATTENTION[family][1]
    return heads.get(theirs.split(".")[-2], 0) if changes and theirs.startswith("blk.") else 0


def _interleave(rows: Tensor, heads: int) -> Tensor:
    """Return the rows of each head with i and i + D/2 as neighbours, (heads * D, ...)."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _part(rows: Tensor, heads: int) -> Tensor:
    """Return what `_interleave` was given."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


# ------------------------------------------------------------------------------------------------------------- out


def write_gguf(
    path: Path,
    config: ModelConfig,
    state: Tensors,
    tokenizer: Tokenizer,
    *,
    dtype: NumberType = "f32",
    chat_template: str | None = None,
    name: str = "",
    say: Callable[[str], None] = warnings.warn,
) -> None:
    """Write a model and its tokenizer as one GGUF file, which takes the place of an older one in one step.

    Args:
        path: the file.
        config: the model's shape.
        state: its tensors, under our names.
        tokenizer: of the model; rows beyond its ids become unused tokens.
        dtype: how the matrices are stored; vectors and learned positions stay f32.
        chat_template: how a conversation becomes text, in Jinja.
        name: of the model, for people.
        say: is told of tensors that had to be stored as f16, and of rare text that llama.cpp reads otherwise.

    Raises:
        UserError: llama.cpp has no such architecture or tokenizer, or the numbers do not fit `dtype`.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; pass the name of the .gguf file to write")
    config = config.resolve()
    family = family_for_llama_cpp(config)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size, say)
    _check_fit(config, state)
    wanted, file_type = _TYPES[dtype]
    settings = {"general.type": "model", "general.name": name, "general.file_type": int(file_type)}
    if dtype == "q8_0":
        settings["general.quantization_version"] = gguf.GGML_QUANT_VERSION
    settings |= settings_of(family, config) | vocabulary.settings()
    if chat_template is not None:
        settings["tokenizer.chat_template"] = chat_template
    kinds = {theirs: _kind_of(theirs, t, wanted) for theirs, t in _tensors(family, config, state)}
    if coarse := [theirs for theirs, kind in kinds.items() if kind == _F16 != wanted]:
        say(f"stored as f16, because their rows are no multiple of 32 long: {', '.join(coarse)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        contextlib.closing(gguf.GGUFWriter(temporary, family)) as writer,
    ):
        _write_settings(writer, settings)
        for theirs, tensor in _tensors(family, config, state):
            nbytes = _bytes_of(tensor.shape, kinds[theirs])
            writer.add_tensor_info(theirs, tensor.shape, _FP32, nbytes, kinds[theirs])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for theirs, tensor in _tensors(family, config, state):  # one at a time, none is kept
            writer.write_tensor_data(_stored(theirs, tensor, kinds[theirs]))


def _write_settings(writer: gguf.GGUFWriter, settings: Settings) -> None:
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in settings.items():
        add[type(value)](key, value)


def _tensors(family: str, config: ModelConfig, state: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model under llama.cpp's names, one at a time; a tied head is left out."""
    if config.position == "rope" and config.rope_scaling == "llama3":
        yield FREQUENCIES, _slowing(config)
    for theirs, ours in _names(family, config).items():
        if theirs == "output.weight" and config.tie_embeddings:
            continue
        if ours[0] in state:
            whole = torch.cat([state[key].detach() for key in ours])
            heads = _heads_to_turn(family, theirs, config)
            yield theirs, _interleave(whole, heads) if heads else whole
        elif family == "gpt2" and theirs.endswith(".bias"):
            weights = [key.removesuffix("bias") + "weight" for key in ours]
            if weights[0] in state:  # its architecture always has biases
                yield theirs, torch.zeros(sum(len(state[key]) for key in weights))


def _slowing(config: ModelConfig) -> Tensor:
    """Return by what llama.cpp is to divide each frequency, (D/2,)."""
    frequencies = rotary_frequencies(config.head_dim, config.rope_theta)
    return frequencies / scale_frequencies(frequencies, config)


def _kind_of(theirs: str, tensor: Tensor, wanted: _Kind) -> _Kind:
    """Return how a tensor is stored, by the rules of llama.cpp's own converter."""
    if tensor.dim() == 1 or theirs == "position_embd.weight":
        return _F32
    return _F16 if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def _bytes_of(shape: Sequence[int], kind: _Kind) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size


def _stored(theirs: str, tensor: Tensor, kind: _Kind) -> np.ndarray:
    """Return a tensor as the file holds it: fp32 or fp16, or (rows, bytes) uint8."""
    numbers = tensor.float().cpu().contiguous().numpy()
    largest, found = _LARGEST.get(kind), np.abs(numbers).max(initial=0.0)
    if largest is not None and not found <= largest:  # true of what is no number, too
        raise UserError(
            f"{theirs} has numbers up to {found:g}, and {kind.name.lower()} ends at {largest:g}; write f32 or bf16"
        )
    return gguf.quants.quantize(numbers, kind)


# ------------------------------------------------------------------------------------------------------------ back


def read_gguf(path: Path) -> tuple[ModelConfig, Tensors]:
    """Return shape and tensors of a GGUF file, under our names and as fp32, ready for `GPT.load_state_dict`.

    Raises:
        UserError: it is no GGUF file, damaged, or this model cannot represent it.
    """
    settings, stored = read_header(path)
    try:
        config = shape_in(settings, stored)
        return config, _state(settings["general.architecture"], config, stored)
    except UserError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from None


def read_gguf_vocabulary(path: Path) -> Vocabulary:
    """Return what a GGUF file says of its tokenizer; that of ours is `vocabulary_of(tokenizer, rows, say)`.

    Raises:
        UserError: it is no GGUF file, damaged, or has no tokenizer of a kind that is written here.
    """
    settings, _ = read_header(path)
    try:
        return vocabulary_in(settings)
    except UserError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from None


def _state(family: str, config: ModelConfig, stored: dict[str, StoredTensor]) -> Tensors:
    """Return the tensors under our names, checked against the shape."""
    left, state = dict(stored), {}
    for theirs, ours in _names(family, config).items():
        if theirs in left:
            whole = _numbers(theirs, left.pop(theirs))
            # Of zeros, because the architecture always has biases and the model has none.
            filled = theirs.endswith(".bias") and not config.bias and not whole.any()
            if not filled:
                state |= _divided(theirs, ours, whole, _heads_to_turn(family, theirs, config))
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    _check_slowing(config, left.pop(FREQUENCIES, None))
    if left:
        raise UserError(f"its tensor {min(left)} is not part of the model")
    _check_fit(config, state)
    return state


def _divided(theirs: str, ours: tuple[str, ...], whole: Tensor, heads: int) -> Tensors:
    """Return one tensor of the file as those of ours that it was made from."""
    parts = 2 * heads if heads else len(ours)
    if not whole.dim() or len(whole) % parts:
        raise UserError(f"{theirs} is {tuple(whole.shape)}; wanted a multiple of {parts} rows")
    whole = _part(whole, heads) if heads else whole
    pieces = whole.tensor_split(len(ours))
    return {key: piece.contiguous() for key, piece in zip(ours, pieces, strict=True)}


def _check_fit(config: ModelConfig, state: Tensors) -> None:
    """Refuse tensors that are missing, have another shape or no place in the model."""
    with torch.device("meta"):
        wanted = {key: tensor.shape for key, tensor in GPT(config).state_dict().items()}
    problems = [f"{key} is missing" for key in wanted.keys() - state.keys()]
    problems += [f"{key} is not part of the model" for key in state.keys() - wanted.keys()]
    problems += [
        f"{key} is {tuple(state[key].shape)}, wanted {tuple(wanted[key])}"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key]
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"the tensors do not fit the shape: {', '.join(sorted(problems)[:4])}{more}"
        )


def _check_slowing(config: ModelConfig, stored: StoredTensor | None) -> None:
    if stored is not None:
        found, wanted = _numbers(FREQUENCIES, stored), _slowing(config)
        if found.shape != wanted.shape or not torch.allclose(found, wanted):
            raise UserError(f"{FREQUENCIES} is not what the settings minigpt.rope_… make")


def _numbers(name: str, stored: StoredTensor) -> Tensor:
    """Return a tensor of the file as fp32."""
    try:
        kind = _Kind(stored.kind)
        shape = gguf.quants.quant_shape_to_byte_shape(stored.shape, kind)
        size = _bytes_of(stored.shape, kind)
        if size > len(stored.data):
            raise UserError(
                f"{name} wants {size} bytes, but {len(stored.data)} are left of the file"
            )
        data = np.array(stored.data[:size]).reshape(shape)
        return torch.from_numpy(np.array(gguf.quants.dequantize(data, kind)))
    except (ValueError, IndexError, NotImplementedError) as error:
        raise UserError(f"{name} cannot be read: {error}") from None
