"""A file in, documents out, in pieces of bounded length: text, JSON lines, CSV and Parquet, also as .gz and .zst.

    bytes -> unpacked and decoded (decoding.py) -> records (records.py) -> documents -> pieces

A piece is (whether a document begins here, its text). Nothing is held in memory but the piece under way; only a record
of JSON, CSV or Parquet is, for its format gives it whole. A text file is one document, or several where it holds
`<|endoftext|>`.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from minigpt.data.decoding import COMPRESSED, Reading, decoded, opened, refusing_damage
from minigpt.data.records import Block, read_csv, read_jsonl, read_parquet
from minigpt.tokenizer.cutting import cut_points
from minigpt.tokenizer.patterns import END_OF_TEXT

Piece = tuple[bool, str]
RECORDS = (".jsonl", ".ndjson", ".csv", ".parquet")


def read_file(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the documents of a file in pieces.

    Raises:
        UserError: the file is binary, damaged, not UTF-8 (with the offset), or a record has no such field.
    """
    with refusing_damage(path), opened(path) as file:
        yield from as_pieces(_blocks(path, file, reading))


def utf8_size(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def format_of(path: Path) -> str:
    """Return ".txt", ".jsonl", ".csv" or ".parquet": how a file is read."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return {".ndjson": ".jsonl"}.get(last, last) if last in RECORDS else ".txt"


def is_binary(path: Path) -> bool:
    """Return whether a file that is read as text is none: there is a zero byte near its beginning."""
    if format_of(path) != ".txt":
        return False
    with opened(path) as file:
        return b"\0" in file.read(8192)


def as_pieces(blocks: Iterable[Block]) -> Iterator[Piece]:
    """Yield documents that arrive in blocks as pieces, cut where it changes no id. An empty document is none."""
    begins, text = True, ""
    for first, block in blocks:
        if first:
            if text:
                yield begins, text
            begins, text = True, ""
        text = text + block if text else block
        if points := cut_points(text):
            for start, end in pairwise([0, *points]):
                yield begins, text[start:end]
                begins = False
            text = text[points[-1] :]
    if text:
        yield begins, text


def _blocks(path: Path, file: BinaryIO, reading: Reading) -> Iterator[Block]:
    readers: dict[str, Callable[[Path, BinaryIO, Reading], Iterator[Block]]] = {
        ".txt": _read_text,
        ".jsonl": read_jsonl,
        ".csv": read_csv,
        ".parquet": read_parquet,
    }
    return readers[format_of(path)](path, file, reading)


def _read_text(path: Path, file: BinaryIO, reading: Reading) -> Iterator[Block]:
    """A document begins at the file's beginning and after each end-of-text token, which may lie across two blocks."""
    begins, rest = True, ""
    for block in decoded(path, file, reading):
        *whole, rest = (rest + block).split(END_OF_TEXT)
        for document in whole:
            yield begins, document
            begins = True
        if len(rest) > len(END_OF_TEXT):
            keep = len(rest) - len(END_OF_TEXT)
            yield begins, rest[:keep]
            begins, rest = False, rest[keep:]
    yield begins, rest
