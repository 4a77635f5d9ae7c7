"""Tensors in, safetensors files out, one or several with an index, and back; nothing half written is ever read.

    model.safetensors
    model-00001-of-00003-1.safetensors …  model.safetensors.index.json     beyond 5 GB

The index of shards comes last, and shards written later get new names: a reader sees the old weights or the new ones.
"""

import contextlib
import errno
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from minigpt.errors import UserError, plain
from minigpt.files import read_json, replace_json, replacing

Tensors = dict[str, Tensor]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
_SHARD = re.compile(r"model-\d+-of-\d+(-(\d+))?\.safetensors")


def write_weights(folder: Path, tensors: Tensors, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors into a folder that is there, in files of at most `max_shard_bytes` (a larger tensor alone)."""
    groups = _groups(tensors, max_shard_bytes)
    before = [path for path in folder.iterdir() if _SHARD.fullmatch(path.name)]
    if len(groups) == 1:
        _write(folder / WEIGHTS, tensors)
        (folder / INDEX).unlink(missing_ok=True)
    else:
        generation = 1 + max((_generation(path) for path in before), default=0)
        places: dict[str, str] = {}
        for number, group in enumerate(groups, 1):
            name = f"model-{number:05d}-of-{len(groups):05d}-{generation}.safetensors"
            _write(folder / name, {key: tensors[key] for key in group})
            places |= dict.fromkeys(group, name)
        size = sum(tensor.nbytes for tensor in tensors.values())
        metadata = {"total_size": size, "written_by": "minigpt"}
        replace_json(folder / INDEX, {"metadata": metadata, "weight_map": places})
        (folder / WEIGHTS).unlink(missing_ok=True)
    for path in before:
        path.unlink()


def read_weights(folder: Path) -> Tensors:
    """Return the tensors in a folder, from one file or from those that its index names.

    Raises:
        UserError: a file is missing, cut short or damaged, or lacks a tensor that the index promises.
    """
    if not (folder / INDEX).is_file():
        return read_tensors(folder / WEIGHTS)
    index = read_json(folder / INDEX)
    if (folder / WEIGHTS).is_file():
        if not _is_ours(index):
            # Some programs write shards beside an older single file, and then read the older one.
            raise UserError(
                f"it has both {WEIGHTS} and {INDEX}, which may be two models; remove the older one"
            )
        if (folder / WEIGHTS).stat().st_mtime_ns > (folder / INDEX).stat().st_mtime_ns:
            return read_tensors(folder / WEIGHTS)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise UserError(f"{INDEX} has no weight_map of tensor names to file names")
    tensors: Tensors = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in ("", ".."):
            raise UserError(f"{INDEX} names the file {name!r}; wanted one in the same folder")
        found = read_tensors(folder / name)
        if elsewhere := sorted(key for key in found if places.get(key, name) != name):
            raise UserError(
                f"{plain(elsewhere[0])} is in {plain(name)}, but {INDEX} says that it is in another file"
            )
        tensors |= found
    if missing := sorted(places.keys() - tensors.keys()):
        raise UserError(
            f"{plain(', '.join(missing[:4]))} {'is' if len(missing) == 1 else 'are'} not in the files that "
            f"{INDEX} names"
        )
    return tensors


def read_tensors(path: Path) -> Tensors:
    """Return the tensors in a safetensors file.

    Raises:
        UserError: the file is missing, cut short or damaged.
    """
    with reading(path):
        return safetensors.torch.load_file(path)


@contextlib.contextmanager
def reading(path: Path) -> Generator[None]:
    """Open a safetensors file in the block.

    Raises:
        UserError: the file is missing, cut short or damaged.
    """
    name = plain(path.name)
    if not _is_file(path):
        raise UserError(f"{name} is missing")
    try:
        with path.open("rb"):  # the library calls a file missing that may not be read
            yield
    except PermissionError:
        raise UserError(f"{name} may not be read; change its permissions") from None
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{name} is cut short or damaged ({plain(error)})") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except ValueError:  # a name that no file can have
        return False


def save_tensors(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: it cannot be written; the disk may be full.
    """
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None


def _is_ours(index: dict[str, Any]) -> bool:
    """Return whether `write_weights` wrote an index: of it and a single file beside it the newer one then counts."""
    metadata = index.get("metadata")
    return isinstance(metadata, dict) and metadata.get("written_by") == "minigpt"


def _write(path: Path, tensors: Tensors) -> None:
    with replacing(path) as temporary:
        save_tensors(tensors, temporary, {"format": "pt"})
        # safetensors makes files that only their owner may read; the model is as readable as its settings.
        temporary.chmod((path.parent / "config.json").stat().st_mode & 0o777)


def _groups(tensors: Tensors, limit: int) -> list[list[str]]:
    """Return the names in their order, in groups of at most `limit` bytes."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    return groups


def _generation(path: Path) -> int:
    found = _SHARD.fullmatch(path.name)
    return int(found[2]) if found and found[2] else 0
