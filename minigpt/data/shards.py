"""Token ids in, a folder of flat token files out, and back as one sequence that is read from the disk as it is needed.

    manifest.json  train-00000-00000.bin …  val-00000-00000.bin …  tokenizer.json  tokenizer_config.json

A shard is nothing but little-endian uint16 (uint32 from 65,537 ids on). Its name says the part of the source and its
number there; the manifest lists the shards in the order of the text. It is written last, so a folder with a manifest is
whole.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import UserError
from minigpt.files import read_json, sha256_of

SPLITS = ("train", "val")
MANIFEST = "manifest.json"
PLAN = "plan.json"  # in a folder whose tokens are not whole yet


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest of uint16 and uint32 that holds every id, little-endian."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class TokenSequence:
    """Token files one after the other as one sequence of ids; a slice of it is an array, (tokens,)."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        """Take arrays, (tokens,) each, memory-mapped or not."""
        self._arrays = [array for array in arrays if len(array)]
        self._ends = list(accumulate(map(len, self._arrays)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def reach(self, count: int) -> bool:
        """Return whether there are `count` tokens; a stream waits for them."""
        return len(self) >= count

    def __getitem__(self, place: slice) -> np.ndarray:
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError("token sequences are sliced without a step")
        parts, index = [], bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[index] - len(self._arrays[index])
            part = self._arrays[index][start - first : stop - first]
            parts.append(part)
            start += len(part)
            index += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.uint16)

    @property
    def arrays(self) -> list[np.ndarray]:
        """The files' arrays, in order."""
        return list(self._arrays)

    def add(self, array: np.ndarray) -> None:
        """Append a file."""
        if len(array):
            self._arrays.append(array)
            self._ends.append(len(self) + len(array))


def open_shards(folder: Path, shards: Sequence[dict[str, Any]], dtype: str) -> list[np.ndarray]:
    """Return the arrays of shards as the manifest lists them, memory-mapped.

    Raises:
        UserError: a file is missing or has another size than the manifest says.
    """
    kind, arrays = np.dtype(dtype), []
    for shard in shards:
        path = folder / shard["file"]
        wanted = shard["tokens"] * kind.itemsize
        found = path.stat().st_size if path.is_file() else None
        if found != wanted:
            raise UserError(
                f"{path} has {'no' if found is None else found} bytes, but its manifest says {wanted}; "
                f"remove the folder {folder} and run again to make it anew"
            )
        arrays.append(np.memmap(path, kind, "r"))
    return arrays


def damaged(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the names of the shards whose content is not what the manifest says, by SHA-256."""
    return [
        shard["file"]
        for shard in manifest["shards"]
        if not (folder / shard["file"]).is_file()
        or sha256_of(folder / shard["file"]) != shard["sha256"]
    ]


def is_token_folder(folder: Path, name: str = "") -> bool:
    """Return whether a folder was written by `prepare`: its manifest or plan (or the named one of them) says so.

    Other programs have files called `manifest.json`, too.
    """
    for file in (name,) if name else (MANIFEST, PLAN):
        try:
            if "fingerprint" in read_json(folder / file):
                return True
        except UserError:
            continue
    return False


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a token folder, or None where the folder is not whole: it can be made again."""
    try:
        manifest = read_json(folder / MANIFEST)
    except UserError:
        return None
    known = isinstance(manifest.get("shards"), list) and "fingerprint" in manifest
    names = ("tokenizer.json", *(shard["file"] for shard in manifest["shards"])) if known else ()
    return manifest if known and all((folder / name).is_file() for name in names) else None
