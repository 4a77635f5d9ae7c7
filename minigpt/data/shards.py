"""Token ids in, a folder of flat token files out, and back as memory-mapped arrays.

    manifest.json  train.bin  val.bin  tokenizer.json  tokenizer_config.json

A `.bin` file is nothing but little-endian uint16 (uint32 from 65,537 ids on). The manifest is written last, so a folder
with a manifest is whole.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import UserError
from minigpt.files import read_json, replace_json, replacing, sha256_of

SPLITS = ("train", "val")


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest of uint16 and uint32 that holds every id, little-endian."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_tokens(folder: Path, split: str, parts: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write the concatenation of `parts` as `{split}.bin`; return the number of tokens."""
    dtype = token_dtype(vocab_size)
    total = 0
    with replacing(folder / f"{split}.bin") as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part.astype(dtype).tobytes())
            total += len(part)
    return total


def write_manifest(folder: Path, vocab_size: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Record what the folder holds, with the SHA-256 of each token file, and return it."""
    files = {
        split: {
            "bytes": (folder / f"{split}.bin").stat().st_size,
            "sha256": sha256_of(folder / f"{split}.bin"),
        }
        for split in SPLITS
    }
    manifest = {**facts, "dtype": token_dtype(vocab_size).str, "files": files}
    replace_json(folder / "manifest.json", manifest)
    return manifest


def open_tokens(folder: Path, manifest: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the train and the held-out tokens, memory-mapped, (tokens,) each.

    Raises:
        UserError: a file is missing or has another size than the manifest says.
    """
    arrays = []
    for split in SPLITS:
        path = folder / f"{split}.bin"
        wanted = manifest["files"][split]["bytes"]
        found = path.stat().st_size if path.is_file() else None
        if found != wanted:
            raise UserError(
                f"{path} has {found or 'no'} bytes, but its manifest says {wanted}; "
                f"remove the folder {folder} and run again to make it anew"
            )
        dtype = np.dtype(manifest["dtype"])
        arrays.append(np.memmap(path, dtype, "r") if wanted else np.empty(0, dtype))
    return arrays[0], arrays[1]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a token folder, or None where the folder is not whole: it can be made again."""
    try:
        manifest = read_json(folder / "manifest.json")
    except UserError:
        return None
    whole = all((folder / name).is_file() for name in ("tokenizer.json", "train.bin", "val.bin"))
    return manifest if whole and "files" in manifest and "fingerprint" in manifest else None
