"""The name of a source in, the source out: a file, a folder, standard input, a named corpus, a data set of the Hub."""

import hashlib
import json
import logging
import os
import platform
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.config import did_you_mean
from minigpt.data.decoding import Reading
from minigpt.data.formats import Piece, is_binary
from minigpt.data.python_docs import python_docs
from minigpt.data.shards import is_token_folder
from minigpt.data.sources import FileSource, HubSource, Source, grouped
from minigpt.download import download
from minigpt.errors import UserError, first_line
from minigpt.extras import importing
from minigpt.files import cache_folder, place_of, replacing

STANDARD_INPUT = "-"
HUB = "hf:"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Download:
    """A corpus that is one file somewhere.

    Attributes:
        sha256: empty where its publisher may change it.
    """

    url: str
    sha256: str = ""


NAMED: dict[str, Download | str | None] = {
    "python-docs": None,  # extracted from the Python that runs this
    "shakespeare": Download(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    # Eldan and Li (2023); documents separated by <|endoftext|>, 2.2 GB.
    "tinystories": Download(
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt"
    ),
    "fineweb-edu": "hf:HuggingFaceFW/fineweb-edu:sample-10BT",
}


def open_source(name: str, reading: Reading | None = None, *, together: bool = False) -> Source:
    """Return the source of this name.

    Args:
        name: a file, a folder, `-`, one of NAMED, or `hf:OWNER/NAME[:CONFIG]`.
        reading: the field of records, and what to do with bytes that are not UTF-8.
        together: make one part of it, for a reading that ends early.

    Raises:
        UserError: there is no such source, or it cannot be reached.
    """
    reading = reading or Reading()
    if name == STANDARD_INPUT:
        return FileSource("standard input", [[_kept_standard_input()]], reading, temporary=True)
    if name in NAMED and place_of(name) is None:
        known = NAMED[name]
        if isinstance(known, str):
            return open_hub(known, reading, together=together)
        if known is None:
            shown, file = f"python-docs (Python {platform.python_version()})", python_docs()
            return FileSource(shown, [[file]], Reading(errors=reading.errors))
        instead = f"pass a local copy of the file instead of the name {name}"
        file = download(known.url, _kept(name), sha256=known.sha256, instead=instead)
        return FileSource(name, [[file]], reading)
    if name.startswith(HUB):
        return open_hub(name, reading, together=together)
    path = place_of(name)
    if path is not None and is_token_folder(path):
        raise UserError(f"{name} holds tokens that were prepared already; a text was wanted")
    if path is not None and path.is_dir():
        return _folder(path, reading, together)
    if path is not None and path.is_file():
        return FileSource(name, [[path]], reading)
    raise _nothing_at(name)


def check_name(name: str) -> None:
    """Refuse the name of a source that cannot be one; nothing is opened.

    Raises:
        UserError: as `open_source`.
    """
    known = name == STANDARD_INPUT or name in NAMED or name.startswith(HUB)
    if not known and place_of(name) is None:
        raise _nothing_at(name)


def is_elsewhere(name: str) -> bool:
    """Return whether reading the source of this name takes a network, or uses up standard input."""
    if name == STANDARD_INPUT or name.startswith(HUB):
        return True
    known = NAMED.get(name) if place_of(name) is None else None
    return isinstance(known, str) or (isinstance(known, Download) and not _kept(name).is_file())


def _kept(name: str) -> Path:
    return cache_folder() / "corpora" / f"{name}.txt"


def _nothing_at(name: str) -> UserError:
    return UserError(
        f"there is no text at {name!r}{did_you_mean(name, NAMED)}; pass a text file, .jsonl, .csv or .parquet, a "
        f"folder, - for standard input, hf:OWNER/NAME, or one of {', '.join(NAMED)}"
    )


def reopen(description: dict[str, Any], reading: Reading) -> Source:
    """Return the source that `describe` described."""
    if "hub" in description:
        return open_hub(description["hub"], reading, together=description["together"])
    groups = [[Path(path) for path in group] for group in description["files"]]
    return FileSource(description["name"], groups, reading)


def read_pieces(source: Source) -> Iterator[Piece]:
    """Yield all pieces of a source, part after part."""
    for part in range(source.parts):
        yield from source.read(part)


def _folder(folder: Path, reading: Reading, together: bool) -> FileSource:
    """Every file, in the order of their paths; what is binary is left out and said."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder))
    binary = [path for path in paths if _unreadable(path)]
    files = [path for path in paths if path not in set(binary)]
    if not files:
        raise UserError(
            f"the folder {folder} holds no text file; pass a folder with UTF-8 text, .jsonl, .csv or .parquet"
        )
    notes = []
    if binary:
        shown = ", ".join(p.name for p in binary[:3]) + (", …" if len(binary) > 3 else "")
        notes.append(f"left out {len(binary)} of {len(paths)} files that are not text ({shown})")
    return FileSource(str(folder), grouped(files, together=together), reading, notes)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _unreadable(path: Path) -> bool:
    try:
        return is_binary(path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _kept_standard_input() -> Path:
    """Return a file with all of standard input: what follows reads the text more than once."""
    folder = cache_folder() / "standard-input"
    folder.mkdir(parents=True, exist_ok=True)
    digest, path = hashlib.sha256(), folder / f"{os.getpid()}.txt"
    with replacing(path) as temporary, temporary.open("wb") as file:
        while block := sys.stdin.buffer.read(BLOCK):
            digest.update(block)
            file.write(block)
    return path.replace(folder / f"{digest.hexdigest()[:32]}.txt")


def open_hub(name: str, reading: Reading, *, together: bool = False) -> HubSource:
    """Return a data set of the Hub as a source, streamed: `hf:OWNER/NAME[:CONFIG]`, or `hf:FOLDER` of a local one.

    Raises:
        UserError: it cannot be reached, is not there, or has no such field.
    """
    where, _, config = name.removeprefix(HUB).partition(":")
    if not where:
        raise UserError(f"{name} names no data set; pass hf:OWNER/NAME, or hf:OWNER/NAME:CONFIG")
    with importing("data", name):
        import datasets
        import datasets.exceptions
    # Its warnings of each retry say less than our sentence.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    try:
        found = datasets.load_dataset(where, config or None, streaming=True)
        names = list(found)
        dataset = found["train" if "train" in names else names[0]]
        columns = dataset.column_names or list(next(iter(dataset)))
        versions: Any = datasets.load_dataset_builder(where, config or None).config.data_files or {}
    except Exception as error:  # those of the network clients it uses have no class in common
        raise UserError(
            f"{name} could not be opened ({first_line(error)}); without a network, pass a local copy: its .parquet "
            "or .jsonl files, or a folder of them"
        ) from None
    if reading.field not in columns:
        raise UserError(
            f"{name} has no field {reading.field!r} (it has {', '.join(columns)}); name the one that holds the "
            "text: data.field (--field)"
        )
    key = json.dumps(
        [where, config, reading.field, [str(v.origin_metadata) for v in versions.values()]]
    )
    dataset = dataset.select_columns([reading.field])
    return HubSource(name, dataset, key, reading, 1 if together else max(1, dataset.num_shards))
