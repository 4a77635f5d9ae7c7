"""One part of a source in, its shards out: read in order, encoded on all cores, written in order.

What has been written whole is recorded in `parts/00000.json` with a bookmark of the source. Whoever comes after a kill
goes on from there, and the shards are the same, byte for byte: where one ends depends on the text alone.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt import machine
from minigpt.data.formats import utf8_size
from minigpt.data.shards import SPLITS, token_dtype
from minigpt.data.sources import Source
from minigpt.data.split import Place, Share, Split, after, limited
from minigpt.files import flush, read_json, replace_json
from minigpt.tokenizer import Tokenizer

SHARD_TOKENS = 1 << 24  # a shard ends with the first portion that brings it here: 32 MB
PORTION = 1 << 18  # characters that a thread encodes at a time
GIVE_BACK_EVERY = 32  # portions; else the process grows to several times of what it holds


@dataclass(frozen=True)
class PartJob:
    """What it takes to write a part.

    Attributes:
        folder: where the shards go.
        limits: documents and bytes to read at most, of the whole text; 0: no limit.
        report: called with (bytes of text, tokens) since this job began.
    """

    folder: Path
    source: Source
    split: Split
    tokenizer: Tokenizer
    limits: tuple[int, int] = (0, 0)
    workers: int = 1
    shard_tokens: int = SHARD_TOKENS
    report: Callable[[int, int], None] = lambda size, tokens: None

    def record_of(self, part: int) -> Path:
        """Return where the state of a part stands."""
        return self.folder / "parts" / f"{part:05d}.json"


@dataclass(frozen=True)
class Encoded:
    """The ids of some shares of one of the two parts, and what they were made from."""

    ids: np.ndarray
    documents: int
    characters: int
    bytes: int


def read_part(job: PartJob, part: int) -> dict[str, Any]:
    """Return the state of a part: bookmark, place, shards, and whether it is done."""
    path = job.record_of(part)
    return read_json(path) if path.is_file() else {}


def write_part(job: PartJob, part: int, place: Place) -> Iterator[dict[str, Any]]:
    """Write the shards of a part that are not there yet; yield the part's state each time one is recorded.

    Args:
        job: source, split, tokenizer, folder.
        part: its number.
        place: where it begins.
    """
    state = read_part(job, part) or {"bookmark": None, "place": asdict(place), "shards": []}
    yield state
    if state.get("done"):
        return
    reader = job.source.read(part, state["bookmark"])
    portions = _portions(reader, job, Place(**state["place"]))
    # The record of a part may be older than its last shard: what it does not know is written again.
    number = 1 + max((_number(shard) for shard in state["shards"]), default=-1)
    total, behind = 0, Place(**state["place"])
    with ThreadPoolExecutor(job.workers) as pool, ExitStack() as stack:
        writers = _open_writers(stack, job, part, number)
        encoded = _in_order(
            pool, lambda p: (_encode(job.tokenizer, p[0]), *p[1:]), portions, 2 * job.workers
        )
        for count, (parts, bookmark, behind) in enumerate(encoded):
            if count % GIVE_BACK_EVERY == 0:
                machine.give_back_memory()
            for writer, one in zip(writers, parts, strict=True):
                writer.write(one)
                total += len(one.ids)
            job.report(behind.byte - place.byte, total)
            if bookmark is not None and sum(w.tokens for w in writers) >= job.shard_tokens:
                state = {
                    "bookmark": bookmark,
                    "place": asdict(behind),
                    "shards": [*state["shards"], *_finished(writers)],
                }
                yield _recorded(job, part, state)
                number += 1
                stack.close()
                writers = _open_writers(stack, job, part, number)
        ended = {"place": asdict(behind), "shards": [*state["shards"], *_finished(writers)]}
        state = state | ended | {"done": True}
    yield _recorded(job, part, state)


def _recorded(job: PartJob, part: int, state: dict[str, Any]) -> dict[str, Any]:
    flush(job.folder)  # the shards' names, before anything counts on them
    replace_json(job.record_of(part), state)
    return state


def _finished(writers: list["_ShardWriter"]) -> list[dict[str, Any]]:
    return [writer.finish() for writer in writers if writer.tokens]


def _number(shard: dict[str, Any]) -> int:
    return int(shard["file"].removesuffix(".bin").rsplit("-", 1)[1])


def _portions(
    reader: Any, job: PartJob, place: Place
) -> Iterator[tuple[list[Share], dict[str, Any] | None, Place]]:
    """Yield shares of about 262,144 characters together, each with a bookmark and the place behind it."""
    shares: list[Share] = []
    size = 0
    for piece in limited(reader, place, *job.limits):
        shares += job.split.shares(piece, place)
        place = after(place, piece)
        size += len(piece[1])
        if size >= PORTION:
            yield shares, reader.bookmark(), place
            shares, size = [], 0
    if shares:
        yield shares, reader.bookmark(), place


def _encode(tokenizer: Tokenizer, shares: list[Share]) -> list[Encoded]:
    """Return the ids of the shares to train on, and of those held out."""
    dtype, end = token_dtype(tokenizer.vocab_size), tokenizer.eos_id
    separator = np.array([end] if end is not None else [], dtype)
    encoded = []
    for held_out in (False, True):
        mine = [share for share in shares if share.held_out == held_out]
        arrays = [np.empty(0, dtype)]
        for share in mine:
            if share.separated:
                arrays.append(separator)
            arrays.append(tokenizer.encode_array(share.text).astype(dtype))
        encoded.append(
            Encoded(
                np.concatenate(arrays),
                documents=sum(share.opens for share in mine),
                characters=sum(len(share.text) for share in mine),
                bytes=sum(utf8_size(share.text) for share in mine),
            )
        )
    return encoded


def _in_order(
    pool: ThreadPoolExecutor, work: Any, items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Yield work(item) of each item in their order, while the pool is at those ahead."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _ShardWriter:
    """A shard on its way: written beside its final name, flushed, then renamed."""

    def __init__(self, path: Path, split: str) -> None:
        self._path, self._split = path, split
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        self._digest = hashlib.sha256()
        self.tokens = self._documents = self._characters = self._bytes = 0

    def write(self, encoded: Encoded) -> None:
        content = encoded.ids.data
        self._file.write(content)
        self._digest.update(content)
        self.tokens += len(encoded.ids)
        self._documents += encoded.documents
        self._characters += encoded.characters
        self._bytes += encoded.bytes

    def finish(self) -> dict[str, Any]:
        """Give the shard its name and return its entry in the manifest."""
        self._file.close()
        flush(self._temporary)
        os.replace(self._temporary, self._path)
        return {
            "file": self._path.name,
            "split": self._split,
            "tokens": self.tokens,
            "documents": self._documents,
            "characters": self._characters,
            "bytes": self._bytes,
            "sha256": self._digest.hexdigest(),
        }

    def close(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _open_writers(stack: ExitStack, job: PartJob, part: int, number: int) -> list[_ShardWriter]:
    job.record_of(part).parent.mkdir(parents=True, exist_ok=True)
    writers = []
    for split in SPLITS:
        writers.append(_ShardWriter(job.folder / f"{split}-{part:05d}-{number:05d}.bin", split))
        stack.callback(writers[-1].close)
    return writers
