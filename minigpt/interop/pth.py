"""A checkpoint file of PyTorch in, shape and tensors out, whoever wrote it; and our own as a plain state dict.

Nothing in a file is ever run: it holds tensors and plain values, or it is refused. `layouts` knows the names.
"""

import dataclasses
import errno
import io
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from minigpt.config import ModelConfig, build
from minigpt.errors import UserError, first_line, plain
from minigpt.files import read_json, replacing
from minigpt.interop.layouts import Found, read_layout
from minigpt.model.families import from_hugging_face
from minigpt.model.weights import Tensors

Source = Path | bytes | io.BytesIO
ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # where a checkpoint keeps its state dict


def read_checkpoint(source: Source, given: Mapping[str, Any] | None = None) -> Found:
    """Return the model in a .pth, .pt, .bin, .ckpt or .safetensors file, or in the bytes of one.

    Args:
        source: a path, bytes, or a stream of bytes. Where the file has no settings, a config.json beside it is taken.
        given: fields of ModelConfig that the file does not know, n_head for instance.

    Raises:
        UserError: it is damaged, wants to run code, or holds no model that is known here.
    """
    name = source.name if isinstance(source, Path) else "the checkpoint"
    try:
        state, arguments = _state_of(_unpack(source))
        own = _own_settings(state)
        state = _without_prefixes(_checked(state))
        beside = source.with_name("config.json") if isinstance(source, Path) else None
        has_config = own is None and beside is not None and beside.is_file() and not arguments
        if given and (own is not None or has_config):
            where = "config.json beside it" if has_config else "metadata"
            raise UserError(f"its shape is in the {where}; leave --model.{next(iter(given))} out")
        if own is not None:
            return Found(own, state)
        if beside is not None and has_config:
            return Found(*from_hugging_face(read_json(beside), state))
        return read_layout(state, arguments, given or {})
    except UserError as error:
        raise UserError(f"{plain(name)} cannot be loaded: {error}") from None
    except RecursionError:
        raise UserError(f"{plain(name)} cannot be loaded: it is nested too deeply") from None


def write_pth(path: Path, config: ModelConfig, state: Tensors) -> None:
    """Write a plain state dict, {name: tensor}; its shape goes along in the metadata that PyTorch keeps with one."""
    kept = OrderedDict((key, tensor.detach().cpu()) for key, tensor in state.items())
    metadata = {"version": 1, "minigpt": dataclasses.asdict(config)}
    vars(kept)["_metadata"] = OrderedDict({"": metadata})
    try:
        with replacing(path) as temporary:
            torch.save(kept, temporary)
    except RuntimeError as error:  # of a full or broken disk
        raise OSError(errno.EIO, f"it cannot be written ({first_line(error)})", str(path)) from None


# -------------------------------------------------------------------------------------------------------- unpacking


def _unpack(source: Source) -> Any:
    """Return what a file or its bytes hold, tensors and plain values only."""
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    begin = source[:9] if isinstance(source, bytes) else _begin_of(source)
    if begin[8:] == b"{":  # after the length of its header
        return _unpack_safetensors(source)
    readable = io.BytesIO(source) if isinstance(source, bytes) else source
    mapped = isinstance(source, Path) and begin.startswith(b"PK")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the age of a pickle
            return torch.load(readable, map_location="cpu", weights_only=True, mmap=mapped or None)
    except Exception as error:  # what damaged bytes make the unpickler raise has no class in common
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise UserError(
                f"it asks for {wanted[1]} when it is opened, which may run code; nothing was run. Wanted are tensors "
                "and plain values: save model.state_dict() alone where it was made"
            ) from None
        reason = type(error).__name__ + (f", {error}" if str(error) else "")
        raise UserError(
            "it is cut short, damaged, wants to run code, or is no checkpoint of PyTorch; nothing was run "
            f"({plain(reason.splitlines()[0][:80])})"
        ) from None


def _begin_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}") from None


def _unpack_safetensors(source: Path | bytes) -> Tensors:
    try:
        if isinstance(source, bytes):
            return safetensors.torch.load(source)
        return safetensors.torch.load_file(source)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"it is cut short or damaged ({plain(error)})") from None


def _state_of(content: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the state dict of a checkpoint, and the settings that nanoGPT keeps beside it."""
    if isinstance(content, dict):
        whole = dict(content.items())
        for wrapper in _WRAPPERS:
            if isinstance(whole.get(wrapper), dict):
                arguments = whole.get("model_args")
                return whole[wrapper], arguments if isinstance(arguments, dict) else {}
        return content, {}
    raise UserError(f"it holds a {type(content).__name__}; wanted a state dict, tensors by name")


def _own_settings(state: Mapping[str, Any]) -> ModelConfig | None:
    """Return the shape that `write_pth` has kept with a state dict, or None."""
    metadata = getattr(state, "_metadata", None)
    kept = metadata.get("") if isinstance(metadata, Mapping) else None
    settings = kept.get("minigpt") if isinstance(kept, Mapping) else None
    if not isinstance(settings, Mapping):
        return None
    return build(
        [("its metadata", {"model": {str(name): value for name, value in settings.items()}})]
    ).model.resolve()


def _checked(state: Mapping[str, Any]) -> Tensors:
    """Return the state dict if it holds tensors by name, each as large as its storage; refuse anything else."""
    if not state:
        raise UserError("it holds no tensors")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            raise UserError(
                f"{_name(name)} is a {type(value).__name__}; wanted a state dict, tensors by name"
            )
        simple = value.layout is torch.strided and not value.is_meta and not value.is_quantized
        if not simple or value.is_nested or value.nbytes > value.untyped_storage().nbytes():
            raise UserError(
                f"{_name(name)} is no plain tensor: sparse, quantised, or larger than what is stored"
            )
    return dict(state)


def _without_prefixes(state: Tensors) -> Tensors:
    """Return the state dict without what DataParallel and `torch.compile` put before the names."""
    clean = {}
    for name, tensor in state.items():
        bare = name.replace("_orig_mod.", "")
        while bare.startswith("module."):
            bare = bare.removeprefix("module.")
        if bare in clean:
            raise UserError(f"{plain(bare)} is there twice, with and without a prefix")
        clean[bare] = tensor
    return clean


def _name(name: object) -> str:
    return plain(name) if isinstance(name, str | int) else f"a name of type {type(name).__name__}"
