"""What a source is to all that follows: parts, and for each part its documents in pieces, from any bookmark on.

A part is the unit of work: a large file, a run of small ones, or a shard of a hub's data set. A bookmark is a JSON
object that says where to go on.
"""

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt.data.decoding import Reading
from minigpt.data.formats import Piece, as_pieces, format_of, read_file
from minigpt.errors import UserError, first_line
from minigpt.files import sha256_of
from minigpt.progress import bar

PART_BYTES = 1 << 26  # small files are read together up to this


@dataclass
class FileSource:
    """Files, read in their order.

    Attributes:
        name: as people call it.
        groups: the files of each part.
        notes: what a person should know about the reading.
        temporary: the files are copies of our own.
    """

    name: str
    groups: list[list[Path]]
    reading: Reading
    notes: list[str] = field(default_factory=list)
    temporary: bool = False
    streamed: bool = False

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self.groups)

    @property
    def files(self) -> list[Path]:
        """All files."""
        return [path for group in self.groups for path in group]

    @property
    def size(self) -> int | None:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def read(self, part: int, bookmark: dict[str, Any] | None = None) -> "FileReader":
        """Return a part's pieces, from the bookmark on."""
        return FileReader(self.groups[part], self.reading, (bookmark or {"pieces": 0})["pieces"])

    def identity(self) -> str:
        """Return the SHA-256 over format and content of each file; names and places do not count."""
        digest, done = hashlib.sha256(), 0
        with bar("reading the files", self.size) as report, ThreadPoolExecutor() as pool:
            for path, sha256 in zip(self.files, pool.map(_hash, self.files), strict=True):
                digest.update(f"{format_of(path)} {sha256}\n".encode())
                done += path.stat().st_size
                report(done)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the files."""
        groups = [[str(path.absolute()) for path in group] for group in self.groups]
        return {"files": groups, "name": self.name}

    def discard(self) -> None:
        """Remove copies."""
        if self.temporary:
            for path in self.files:
                path.unlink(missing_ok=True)


class FileReader:
    """The pieces of some files. Going on from a bookmark means reading again and passing over: that is quick."""

    def __init__(self, files: list[Path], reading: Reading, passed: int) -> None:
        self._files, self._reading, self._pieces = files, reading, passed

    def __iter__(self) -> Iterator[Piece]:
        pieces = (piece for path in self._files for piece in read_file(path, self._reading))
        for piece in itertools.islice(pieces, self._pieces, None):
            self._pieces += 1
            yield piece

    def bookmark(self) -> dict[str, Any]:
        """Return how many pieces were read."""
        return {"pieces": self._pieces}


@dataclass
class HubSource:
    """A data set of the Hugging Face Hub (or a local folder of one), streamed by `datasets`.

    Attributes:
        name: as people call it.
        dataset: an `IterableDataset` with the text column alone.
        key: the data set, its configuration and its version.
        parts: its shards.
        streamed: it comes over a network and its size is not known.
    """

    name: str
    dataset: Any
    key: str
    reading: Reading
    parts: int
    notes: list[str] = field(default_factory=list)
    streamed: bool = True
    size: int | None = None

    def read(self, part: int, bookmark: dict[str, Any] | None = None) -> "HubReader":
        """Return a part's pieces, from the bookmark on."""
        # A data set of its own also where there is one part: the bookmark must not stay in the one that all share.
        dataset = self.dataset.shard(num_shards=self.parts, index=part)
        if bookmark:
            dataset.load_state_dict(bookmark)
        return HubReader(dataset, self.name, self.reading)

    def identity(self) -> str:
        """Return the SHA-256 of name and version: the text itself is not read for it."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the name."""
        return {"hub": self.name, "together": self.parts == 1}

    def discard(self) -> None:
        """Nothing is kept."""


class HubReader:
    """The pieces of a streamed data set; its bookmark is the data set's own state."""

    def __init__(self, dataset: Any, name: str, reading: Reading) -> None:
        self._dataset, self._name, self._reading = dataset, name, reading
        self._whole = True  # no document is under way

    def __iter__(self) -> Iterator[Piece]:
        for record in self._records():
            text = record[self._reading.field]
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"{self._name}: the field {self._reading.field!r} is of type {type(text).__name__}; wanted text"
                )
            pieces = list(as_pieces([(True, text or "")]))
            for number, piece in enumerate(pieces, 1):
                self._whole = number == len(pieces)
                yield piece

    def _records(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._dataset
        except Exception as error:  # a lost line or a broken file: they have no class in common
            raise UserError(
                f"{self._name} broke off: {first_line(error)}; run the same command again to go on from here"
            ) from None

    def bookmark(self) -> dict[str, Any] | None:
        """Return the data set's state; in the middle of a long document there is none."""
        return self._dataset.state_dict() if self._whole else None


Source = FileSource | HubSource


def grouped(files: list[Path], *, together: bool = False) -> list[list[Path]]:
    """Return files in groups: small ones together, up to 64 MB; all of them in one if `together`."""
    groups: list[list[Path]] = [[]]
    size = 0
    for path in files:
        length = path.stat().st_size
        if groups[-1] and size + length > PART_BYTES and not together:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += length
    return groups


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
