"""A file of records in, the text of each out: JSON lines, CSV and Parquet.

Only a record is held in memory, for its format gives it whole; a line of JSON or a value of Parquet that is huge is
decoded in parts. A block is (whether a record begins here, its text).
"""

import codecs
import contextlib
import csv
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from minigpt.data.decoding import BLOCK, COMPRESSED, Reading, decoded, not_utf8
from minigpt.errors import UserError
from minigpt.extras import importing

HUGE_RECORD = 1 << 24  # bytes; a line of JSON beyond this is decoded in parts

Block = tuple[bool, str]

# ------------------------------------------------------------------------------------------------------------- JSON

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(rb"\s*+(" + _STRING + rb"|[{}\[\],:]|[^\s{}\[\],:\"]++)", re.DOTALL)
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# Up to 65,536 escapes and bytes, and then the rest of a character: none is cut through.
_PART = re.compile(rb"(?:" + _PAIR + rb"|\\u.{4}|\\.|[^\\]){1,65536}+[\x80-\xbf]{0,3}", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")


def read_jsonl(path: Path, file: BinaryIO, reading: Reading) -> Iterator[Block]:
    """Yield the text of each record of JSON lines."""
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
            raise not_utf8(path, start + error.start, line[error.start], f" (line {number})") from None  # fmt: skip
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
) -> Iterator[Block]:
    """Yield the text of a record in blocks: it is found in the bytes and decoded in parts."""
    begins = True
    for found in _PART.finditer(line, *_find_string(line, where, reading)):
        try:
            text = json.loads(f'"{found[0].decode(errors=reading.errors)}"')
        except UnicodeDecodeError as error:
            place = start + found.start() + error.start
            raise not_utf8(path, place, error.object[error.start]) from None
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


def read_csv(path: Path, file: BinaryIO, reading: Reading) -> Iterator[Block]:
    """Yield the text of each record of a CSV file."""
    csv.field_size_limit(2**31 - 1)  # more does not go into the `long` of Windows
    rows = csv.reader(_lines(decoded(path, file, reading)), strict=True)
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


def _huge_value(content: Any, path: Path, number: int, reading: Reading) -> Iterator[Block]:
    """Yield the text of one value in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")(reading.errors)
    for start in range(0, len(content), BLOCK):
        block = content[start : start + BLOCK].to_pybytes()
        try:
            yield start == 0, decoder.decode(block, start + BLOCK >= len(content))
        except UnicodeDecodeError as error:
            place = start + len(block) - len(error.object) + error.start
            raise not_utf8(path, place, error.object[error.start], f" of row {number}") from None


def read_parquet(path: Path, file: BinaryIO, reading: Reading) -> Iterator[Block]:
    """Yield the text of each record of a Parquet file."""
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
            raise not_utf8(path, error.start, error.object[error.start], f" of row {number}") from None  # fmt: skip
