"""Token files of other programs in, the same files as sequences out, read where they lie.

.npy   one array of ids, as pre-tokenised FineWeb-Edu comes
.bin   llm.c's: 256 int32 of header (magic, version, number of ids), then the ids
.bin   nanoGPT's: nothing but ids; what kind of numbers they are has to be said
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.data.shards import MANIFEST, TokenSequence
from minigpt.errors import UserError
from minigpt.progress import bar

SUFFIXES = (".npy", ".bin")
_HELD_OUT = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])")
_TOKENS = re.compile(r"train|val|token")  # in the name of a file of a folder that is read as tokens
_HEADER = 256  # int32
# {magic: (version, type of the ids)}: GPT-2's and Llama 3's files of llm.c.
_MAGIC = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
_BLOCK = 1 << 22  # ids looked at together


@dataclass(frozen=True)
class ForeignTokens:
    """Token files of another program, in the order of their names."""

    train: TokenSequence
    val: TokenSequence
    fingerprint: str


def foreign_files(path: Path) -> list[Path]:
    """Return the token files at a place: one file, or those in a folder that say so by their names."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir() or (path / MANIFEST).exists():
        return []
    there = (p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    return sorted(p for p in there if _TOKENS.search(p.name.lower()))


def open_foreign(
    files: list[Path], *, vocab_size: int, dtype: str, val_fraction: float
) -> ForeignTokens:
    """Return the ids in these files; those with `val` in their name are held out, or else the last share of all ids.

    Args:
        files: of one corpus.
        vocab_size: of the tokenizer that made them.
        dtype: "uint16" or "uint32", for files that do not say it themselves; empty: unknown.
        val_fraction: share of the ids that is held out where no file is.

    Raises:
        UserError: a file is damaged, or holds ids that the tokenizer does not know.
    """
    arrays, digest = {}, hashlib.sha256(f"{val_fraction}".encode())
    for path in files:
        array = arrays[path] = _open(path, dtype)
        digest.update(f"{path.name} {len(array)} {array.dtype}".encode())
        with bar(f"checking {path.name}", array.nbytes) as report:
            for start in range(0, len(array), _BLOCK):
                block = np.array(array[start : start + _BLOCK])
                digest.update(block.tobytes())
                low, high = int(block.min(initial=0)), int(block.max(initial=0))
                if low < 0 or high >= vocab_size:
                    raise UserError(
                        f"{path} holds the id {low if low < 0 else high}, but the tokenizer has {vocab_size} ids; "
                        "pass the tokenizer that made the file, or the right --data.token-dtype"
                    )
                report(start * array.itemsize)
    held_out = [path for path in files if _HELD_OUT.search(path.name.lower())]
    train = [array for path, array in arrays.items() if path not in held_out]
    val = [arrays[path] for path in held_out]
    if not train:
        raise UserError(
            f"{', '.join(path.name for path in held_out)} is held out by its name, and there is nothing to train on; "
            "pass the folder that holds the files to train on, too"
        )
    if not val:
        whole = TokenSequence(train)
        cut = int(len(whole) * (1 - val_fraction) + 1e-9)
        train, val = _cut(train, cut)
    return ForeignTokens(TokenSequence(train), TokenSequence(val), digest.hexdigest())


def _cut(arrays: list[np.ndarray], place: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    before, behind = [], []
    for array in arrays:
        before.append(array[: max(0, place)])
        behind.append(array[max(0, place) :])
        place -= len(array)
    return before, behind


def _open(path: Path, dtype: str) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            array = np.lib.format.open_memmap(path, mode="r")
            if array.ndim != 1 or array.dtype.kind not in "ui":
                raise UserError(
                    f"{path} holds an array of shape {array.shape} and type {array.dtype}; wanted one row of "
                    "whole numbers"
                )
            return array
        return _open_bin(path, dtype)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as token ids: {error}") from None


def _open_bin(path: Path, dtype: str) -> np.ndarray:
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", _HEADER)
    if len(header) >= 3 and int(header[0]) in _MAGIC:
        version, kind = _MAGIC[int(header[0])]
        count = int(header[2])
        wanted = 4 * _HEADER + count * np.dtype(kind).itemsize
        if int(header[1]) != version or size != wanted:
            raise UserError(
                f"{path} has version {int(header[1])} and {size} bytes; wanted version {version} and the {wanted} "
                f"bytes of the {count} ids that its header names; fetch it again"
            )
        return np.memmap(path, kind, "r", offset=4 * _HEADER, shape=(count,))
    if not dtype:
        raise UserError(
            f"{path} has no header that says what its numbers are; pass --data.token-dtype uint16 (or uint32)"
        )
    kind = np.dtype(dtype).newbyteorder("<")
    if size == 0 or size % kind.itemsize:
        raise UserError(f"{path} has {size} bytes, which are no whole {dtype} numbers")
    return np.memmap(path, kind, "r")
