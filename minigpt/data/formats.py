"""A file in, documents out, in pieces of bounded length: text, JSON lines, CSV and Parquet, also as .gz and .zst.

    bytes -> decompressed -> records of the format -> documents -> pieces

A piece is (whether a document begins here, its text). Nothing is held in memory but the piece under way; only a record
of JSON, CSV or Parquet is, for its format gives it whole. A text file is one document, or several where it holds
`<|endoftext|>`.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

from minigpt.errors import UserError
from minigpt.extras import importing
from minigpt.tokenizer.cutting import cut_points
from minigpt.tokenizer.patterns import END_OF_TEXT

Piece = tuple[bool, str]
BLOCK = 1 << 17  # bytes read at once: what is made of them stays in the processor's cache
HUGE_RECORD = 1 << 24  # bytes; a line of JSON beyond this is decoded in parts
COMPRESSED = (".gz", ".zst")
RECORDS = (".jsonl", ".ndjson", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read.

    Attributes:
        field: where the text of a record stands.
        errors: "strict" refuses bytes that are not UTF-8, "replace" puts U+FFFD in their place.
    """

    field: str = "text"
    errors: Literal["strict", "replace"] = "strict"


def read_file(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the documents of a file in pieces.

    Raises:
        UserError: the file is binary, damaged, not UTF-8 (with the offset), or a record has no such field.
    """
    try:
        with _opened(path) as file:
            yield from as_pieces(_blocks(path, file, reading))
    except UserError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None
    except FileNotFoundError:
        raise UserError(f"{path} has gone; put it back and run again") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {(error.strerror or str(error)).strip()}"
        ) from None


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
    with _opened(path) as file:
        return b"\0" in file.read(8192)


def as_pieces(blocks: Iterable[tuple[bool, str]]) -> Iterator[Piece]:
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


def _blocks(path: Path, file: BinaryIO, reading: Reading) -> Iterator[tuple[bool, str]]:
    readers: dict[str, Callable[[Path, BinaryIO, Reading], Iterator[tuple[bool, str]]]] = {
        ".txt": _read_text,
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    return readers[format_of(path)](path, file, reading)


# ------------------------------------------------------------------------------------------------------ compression


@contextlib.contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if suffix == ".gz":
            with gzip.open(file) as unpacked:
                yield io.BufferedReader(unpacked, BLOCK)
        elif suffix == ".zst":
            yield io.BufferedReader(_Zstandard(file, path), BLOCK)
        else:
            yield file


class _Zstandard(io.RawIOBase):
    """The content of a .zst file. One that was cut short is refused, where the library would only end early."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        with importing("data", f"{path}"):
            import zstandard
        self._library, self._file, self._path = zstandard, file, path
        self._frame: Any = None  # the one under way
        self._unread, self._ready = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            block = self._unread or self._file.read(1 << 16)
            if not block:
                if self._frame is not None:
                    raise UserError(f"{self._path} is damaged (it breaks off); fetch it again")
                return 0
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._ready = self._frame.decompress(block)
            except self._library.ZstdError as error:
                raise UserError(f"{self._path} is damaged ({error}); fetch it again") from None
            self._unread = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None  # another may follow
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


# ------------------------------------------------------------------------------------------------------------- text


def _read_text(path: Path, file: BinaryIO, reading: Reading) -> Iterator[tuple[bool, str]]:
    """A document begins at the file's beginning and after each end-of-text token, which may lie across two blocks."""
    begins, rest = True, ""
    for block in _decoded(path, file, reading):
        *whole, rest = (rest + block).split(END_OF_TEXT)
        for document in whole:
            yield begins, document
            begins = True
        if len(rest) > len(END_OF_TEXT):
            keep = len(rest) - len(END_OF_TEXT)
            yield begins, rest[:keep]
            begins, rest = False, rest[keep:]
    yield begins, rest


def _decoded(path: Path, file: BinaryIO, reading: Reading) -> Iterator[str]:
    """Yield the text of a file, a mark of its byte order left out and line ends made one."""
    decoder = codecs.getincrementaldecoder("utf-8")(reading.errors)
    offset, held = 0, ""
    while block := file.read(BLOCK):
        if offset == 0:
            if b"\0" in block[:8192]:
                raise UserError(
                    f"{path} is a binary file (it holds zero bytes); pass a text in UTF-8"
                )
            if block.startswith(codecs.BOM_UTF8):
                block, offset = block[3:], 3
        yield_now = held + _decode(decoder, block, offset, path)
        offset += len(block)
        held = "\r" if yield_now.endswith("\r") else ""  # its "\n" may be in the next block
        yield yield_now.removesuffix("\r").replace("\r\n", "\n")
    yield held + _decode(decoder, b"", offset, path, final=True)


def _decode(
    decoder: codecs.IncrementalDecoder, block: bytes, offset: int, path: Path, final: bool = False
) -> str:
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        # What the decoder was given begins before the block where a character lies across.
        place = offset + len(block) - len(error.object) + error.start
        raise _not_utf8(path, place, error.object[error.start]) from None


def _not_utf8(path: Path, place: int, byte: int, where: str = "") -> UserError:
    unpacked = " of its unpacked content" if path.suffix.lower() in COMPRESSED else ""
    return UserError(
        f"{path} is not UTF-8: byte {place}{unpacked}{where} is 0x{byte:02x}; save it as UTF-8, or "
        "go on with U+FFFD in such places by data.errors = replace (--errors replace)"
    )


# ------------------------------------------------------------------------------------------------------------- JSON

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(rb"\s*+(" + _STRING + rb"|[{}\[\],:]|[^\s{}\[\],:\"]++)", re.DOTALL)
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# Up to 65,536 escapes and bytes, and then the rest of a character: none is cut through.
_PART = re.compile(rb"(?:" + _PAIR + rb"|\\u.{4}|\\.|[^\\]){1,65536}+[\x80-\xbf]{0,3}", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")


def _read_jsonl(path: Path, file: BinaryIO, reading: Reading) -> Iterator[tuple[bool, str]]:
    offset = 0
    for number, line in enumerate(file, 1):
        where = f"{path}, line {number}"
        start, offset = offset, offset + len(line)
        if start == 0 and line.startswith(codecs.BOM_UTF8):
            line, start = line[3:], 3
        if not line.strip():
            continue
        if len(line) > HUGE_RECORD:
            yield from _huge_record(line, where, path, start, reading)
            continue
        try:
            record = json.loads(line.decode(errors=reading.errors))
        except UnicodeDecodeError as error:
            raise _not_utf8(path, start + error.start, line[error.start], f" (line {number})") from None  # fmt: skip
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}); mend or remove that line") from None
        text = _field(record, where, reading)
        yield True, _whole_characters(text, where, reading) if b"\\ud" in line.lower() else text


def _field(record: Any, where: str, reading: Reading) -> str:
    """Return the text of a record; none or null: an empty one."""
    if not isinstance(record, dict):
        raise UserError(
            f"{where} holds a JSON {type(record).__name__}; wanted an object with a text, "
            f'{{"{reading.field}": "…"}}'
        )
    if reading.field not in record:
        raise _no_field(where, reading, record)
    text = record[reading.field]
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"{where}: the field {reading.field!r} is of type {type(text).__name__}; wanted text"
        )
    return text or ""


def _no_field(where: str, reading: Reading, known: Iterable[Any]) -> UserError:
    names = ", ".join(str(name) for name in list(known)[:10]) or "none"
    return UserError(
        f"{where} has no field {reading.field!r} (it has {names}); name the one that holds the text: "
        "data.field (--field)"
    )


def _whole_characters(text: str, where: str, reading: Reading) -> str:
    """Refuse or replace half a surrogate pair, which a JSON escape can say and which is no text."""
    found = _HALF.search(text)
    if found and reading.errors == "strict":
        raise UserError(
            f"{where} holds U+{ord(found[0]):04X}, half of a surrogate pair, which is no Unicode text; "
            "remove it, or take data.errors = replace (--errors replace)"
        )
    return _HALF.sub("\ufffd", text)


def _huge_record(
    line: bytes, where: str, path: Path, start: int, reading: Reading
) -> Iterator[tuple[bool, str]]:
    """Yield the text of a record in blocks: it is found in the bytes and decoded in parts."""
    begins = True
    for found in _PART.finditer(line, *_find_string(line, where, reading)):
        try:
            text = json.loads(f'"{found[0].decode(errors=reading.errors)}"')
        except UnicodeDecodeError as error:
            place = start + found.start() + error.start
            raise _not_utf8(path, place, error.object[error.start]) from None
        except ValueError as error:
            raise UserError(f"{where} is not JSON ({error}); mend or remove that line") from None
        yield begins, _whole_characters(text, where, reading)
        begins = False


def _find_string(line: bytes, where: str, reading: Reading) -> tuple[int, int]:
    """Return where the value of the field begins and ends in a line of JSON, without its quotes; null has no length."""
    if not line.lstrip().startswith(b"{"):
        raise UserError(f"{where} holds no JSON object; wanted one with a field {reading.field!r}")
    depth, position, last, names = 0, 0, b"", []
    wanted, place = False, None
    while found := _TOKEN.match(line, position):
        token, position = found[1], found.end()
        if wanted:
            if token != b"null" and not token.startswith(b'"'):
                raise UserError(f"{where}: the field {reading.field!r} is no text; wanted text")
            place = (0, 0) if token == b"null" else (found.start(1) + 1, found.end(1) - 1)
            wanted = False
        elif token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and token == b":":
            try:
                names.append(json.loads(last.decode(errors=reading.errors)))
            except ValueError as error:
                raise UserError(f"{where} is not JSON ({error}); mend it or remove it") from None
            wanted = names[-1] == reading.field
        elif depth == 1:
            last = token
    if depth or line[position:].strip():
        raise UserError(f"{where} is not JSON (at byte {position} of the line); mend or remove it")
    if place is None:
        raise _no_field(where, reading, names)
    return place


# ---------------------------------------------------------------------------------------------------- CSV and Parquet


def _read_csv(path: Path, file: BinaryIO, reading: Reading) -> Iterator[tuple[bool, str]]:
    csv.field_size_limit(2**31 - 1)  # more does not go into the `long` of Windows
    rows = csv.reader(_lines(_decoded(path, file, reading)), strict=True)
    try:
        names = next(rows, [])
        if names and reading.field not in names:
            raise _no_field(f"{path}", reading, names)
        column = names.index(reading.field) if names else 0
        for row in rows:
            if row and len(row) <= column:
                raise UserError(
                    f"{path}, line {rows.line_num} has {len(row)} columns, but {reading.field!r} is column "
                    f"{column + 1}; mend or remove that line"
                )
            yield True, row[column] if row else ""
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num} is not CSV ({error}); mend it") from None


def _lines(blocks: Iterable[str]) -> Iterator[str]:
    parts: list[str] = []  # of the line under way
    for block in blocks:
        first, *others = block.split("\n")
        parts.append(first)
        if others:
            yield "".join(parts) + "\n"
            for line in others[:-1]:
                yield line + "\n"
            parts = [others[-1]]
    if rest := "".join(parts):
        yield rest


def _huge_value(
    content: Any, path: Path, number: int, reading: Reading
) -> Iterator[tuple[bool, str]]:
    """Yield the text of one value in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")(reading.errors)
    for start in range(0, len(content), BLOCK):
        block = content[start : start + BLOCK].to_pybytes()
        try:
            yield start == 0, decoder.decode(block, start + BLOCK >= len(content))
        except UnicodeDecodeError as error:
            place = start + len(block) - len(error.object) + error.start
            raise _not_utf8(path, place, error.object[error.start], f" of row {number}") from None


def _read_parquet(path: Path, file: BinaryIO, reading: Reading) -> Iterator[tuple[bool, str]]:
    with importing("data", f"{path}"):
        import pyarrow
        import pyarrow.parquet
    with contextlib.ExitStack() as stack:
        # Parquet is read from its end, so it is unpacked first.
        if path.suffix.lower() in COMPRESSED:
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            while block := file.read(BLOCK):
                unpacked.write(block)
            file = unpacked
        try:
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BLOCK)
            if reading.field not in table.schema_arrow.names:
                raise _no_field(f"{path}", reading, table.schema_arrow.names)
            number = 0
            # Few rows at a time: nothing in the file tells beforehand how large they are.
            for batch in table.iter_batches(4, columns=[reading.field]):
                for value in batch.column(0):
                    number += 1
                    where = f"{path}, row {number}"
                    content = value.as_buffer() if hasattr(value, "as_buffer") else None
                    if content is not None and len(content) > HUGE_RECORD:
                        yield from _huge_value(content, path, number, reading)
                        continue
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError as error:
                        if reading.errors == "strict":
                            raise
                        text = error.object.decode(errors="replace")
                    yield True, _field({reading.field: text}, where, reading)
        except pyarrow.ArrowException as error:
            raise UserError(f"{path} is no whole Parquet file ({error}); fetch it again") from None
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error.start, error.object[error.start], f" of row {number}") from None  # fmt: skip
