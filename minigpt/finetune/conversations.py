"""A file of records in, conversations out; broken records are counted, with their numbers and what is wrong.

    bytes -> unpacked (decoding.py) -> records -> messages -> checked

A record is recognised by its keys, each for itself:

- chat messages: `messages`, of `role` (system, user, assistant) and `content`, a text or a list of text parts;
- ShareGPT: `conversations`, of `from` (system, human or user, gpt or assistant) and `value`;
- instruction records: `instruction`, `input` (may be empty or missing) and `output`. What the user says is
  instruction and input with a blank line between them, as they are; the output is the answer.

A conversation begins with the user, or with a system message before that; user and assistant take turns, and every
message has a text. Messages are kept as they are, a last one of the user that has no answer among them; only an empty
system message is none. Calls of tools are not known here.
"""

import codecs
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt.data.decoding import COMPRESSED, opened, refusing_damage
from minigpt.errors import UserError, plain
from minigpt.extras import importing
from minigpt.inference.template import Message

LARGEST_RECORD = 1 << 24  # bytes of a line
SHOWN = 3  # broken records, as examples

CHAT, SHAREGPT, INSTRUCTIONS = "chat messages", "ShareGPT", "instruction records"
_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation")
_TOOL_KEYS = ("tool_calls", "function_call")
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Recorded:
    """A conversation and where it stands.

    Attributes:
        number: of its line, row or place in the list, counted from 1.
        messages: checked: system or not, then user and assistant in turns, with at least one answer.
    """

    number: int
    messages: list[Message]


@dataclass(frozen=True)
class Broken:
    """A record that is no conversation.

    Attributes:
        number: as of `Recorded`.
        kind: what is wrong, in the same words for all that have it.
        detail: what it is here; may be empty.
    """

    number: int
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


class _BrokenError(Exception):
    """Raised with the kind and the detail of what is wrong with a record."""


@dataclass
class Conversations:
    """What is in a file.

    Attributes:
        name: of the file.
        unit: what its records are counted in: line, row or record.
        good: the conversations.
        formats: how many of them each format has.
        broken: the other records.
    """

    name: str
    unit: str
    good: list[Recorded] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    broken: list[Broken] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """Return what a person should know: the format, what is left out, and the first few of it."""
        formats = ", ".join(
            f"{name}: {count:,}" if len(self.formats) > 1 else name
            for name, count in self.formats.most_common()
        )
        said = [f"{self.name}: {counted(len(self.good), 'conversation')} ({formats})"]
        return said + listed(self.broken, self.unit)


def read_conversations(path: Path, *, strict: bool = False) -> Conversations:
    """Return the conversations in a file: JSON lines, a list in a .json, or Parquet; the first two also .gz or .zst.

    Args:
        path: of the file.
        strict: a broken record is refused instead of counted.

    Raises:
        UserError: there is no such file, it is damaged or of another kind, it has no conversation, or a record is
            broken and `strict` is given; with the number and the reason.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; pass one file of conversations (.jsonl, .json, .parquet)"
        )
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; pass one of conversations (.jsonl, .json, .parquet)"
        )
    unit, records = _records(path)
    found = Conversations(str(path), unit)
    for number, record in records:
        try:
            if isinstance(record, Exception):
                raise record
            name, messages = _conversation(record)
        except _BrokenError as error:
            broken = Broken(number, *error.args)
            if strict:
                raise UserError(
                    f"{path}, {unit} {number}: {broken}; mend or remove that record, or leave --strict out to go on "
                    "without it"
                ) from None
            found.broken.append(broken)
        else:
            found.formats[name] += 1
            found.good.append(Recorded(number, messages))
    if not found.good:
        first = f"; {unit} {found.broken[0].number}: {found.broken[0]}" if found.broken else ""
        raise UserError(
            f"{path} has no conversation in {counted(len(found.broken), 'record')}{first}; wanted JSON lines, or a "
            "list, of objects with messages, conversations, or instruction and output"
        )
    return found


def counted(count: int, what: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "turn"), counted(1200, "turn")
    ('1 turn', '1,200 turns')
    """
    return f"{count:,} {what}{'s' * (count != 1)}"


def listed(broken: list[Broken], unit: str) -> list[str]:
    """Return in sentences how many records are left out for what, and the first few of them; none where none is."""
    if not broken:
        return []
    kinds = Counter(one.kind for one in broken).most_common()
    reasons = "; ".join(f"{kind}: {count:,}" for kind, count in kinds)
    said = [f"{counted(len(broken), 'broken record')} left out: {reasons}"]
    return said + [f"  {unit} {one.number}: {one}" for one in broken[:SHOWN]]


# --------------------------------------------------------------------------------------------------------- records

_Record = tuple[int, Any]  # its number, and its content or the _BrokenError that it is


def _records(path: Path) -> tuple[str, Iterator[_Record]]:
    """Return what the records of a file are counted in, and the records."""
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in COMPRESSED
    last = (suffixes[:-1] if packed else suffixes)[-1:]
    if last == [".parquet"]:
        if packed:
            raise UserError(f"{path}: Parquet is packed in itself; unpack the file first")
        return "row", _read_rows(path)
    if last not in ([".jsonl"], [".ndjson"]) and _begins_with_bracket(path):
        return "record", _read_list(path)
    return "line", _read_lines(path)


def _begins_with_bracket(path: Path) -> bool:
    with refusing_damage(path), opened(path) as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _read_lines(path: Path) -> Iterator[_Record]:
    """Yield the records of JSON lines; a blank line is none."""
    with refusing_damage(path), opened(path) as file:
        number = 0
        while line := file.readline(LARGEST_RECORD + 1):
            number += 1
            if len(line) > LARGEST_RECORD and not line.endswith(b"\n"):
                while (rest := file.readline(LARGEST_RECORD)) and not rest.endswith(b"\n"):
                    pass
                yield number, _BrokenError("huge", f"more than {LARGEST_RECORD:,} bytes")
                continue
            line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if line:
                yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    """Return the content of a line, or what is wrong with it."""
    try:
        return json.loads(line.decode(), object_pairs_hook=_object)
    except _BrokenError as error:
        return error
    except UnicodeDecodeError as error:
        return _BrokenError("not UTF-8", f"0x{line[error.start]:02x} at byte {error.start}")
    except RecursionError:
        return _BrokenError("not JSON", "nested too deeply")
    except ValueError as error:
        return _BrokenError("not JSON", plain(error))


class _Repeats(dict):
    """An object in which a key is given twice: readers differ in which one they take."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    return content if len(content) == len(pairs) else _Repeats(content)


def _read_list(path: Path) -> Iterator[_Record]:
    """Yield the records of a list in JSON."""
    with refusing_damage(path), opened(path) as file:
        content = file.read().removeprefix(codecs.BOM_UTF8)
    try:
        records = json.loads(content.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; save it as UTF-8"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read; mend it") from None
    except ValueError as error:
        raise UserError(
            f"{path} is no list in JSON ({plain(error)}); mend it, or name it .jsonl where each line is a record"
        ) from None
    yield from enumerate(records, 1)


def _read_rows(path: Path) -> Iterator[_Record]:
    """Yield the rows of a Parquet file."""
    with importing("data", f"{path}"):
        import pyarrow
        import pyarrow.parquet
    try:
        with refusing_damage(path), path.open("rb") as file:
            rows = pyarrow.parquet.ParquetFile(file)
            number = 0
            for batch in rows.iter_batches(64):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} has a text that is not UTF-8 ({plain(error)}); write it again"
        ) from None
    except pyarrow.ArrowException as error:
        raise UserError(
            f"{path} is no whole Parquet file ({plain(error)}); fetch it again"
        ) from None


# -------------------------------------------------------------------------------------------------------- messages


def _conversation(record: Any) -> tuple[str, list[Message]]:
    """Return the format of a record and its messages."""
    if not isinstance(record, dict):
        raise _BrokenError("no object", f"a JSON {type(record).__name__}")
    _no_repeats(record)
    if not record:
        raise _BrokenError("empty", "no keys")
    # A table has a column for each key of any of its rows, and nothing in the others.
    given = {key: value for key, value in record.items() if value is not None}
    turns = given.get("messages", given.get("conversations"))
    if turns is not None:
        name, messages = _turns(turns)
        if isinstance(given.get("system"), str):
            messages.insert(0, {"role": "system", "content": given["system"]})
    elif "instruction" in given:
        name, messages = INSTRUCTIONS, _instruction(given)
    else:
        raise _BrokenError("unknown format", f"its keys are {_keys(record)}")
    messages = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    _check(messages)
    return name, messages


def _no_repeats(content: Any) -> None:
    if isinstance(content, _Repeats):
        raise _BrokenError("a key is given twice", f"among {_keys(content)}")


def _keys(keys: Iterable[Any]) -> str:
    return ", ".join(plain(key, 40) for key in itertools.islice(keys, 6))


def _turns(turns: Any) -> tuple[str, list[Message]]:
    """Return the format and the messages of a list of turns."""
    if not isinstance(turns, list):
        raise _BrokenError("no list of messages", f"a JSON {type(turns).__name__}")
    if not turns:
        raise _BrokenError("empty", "no messages")
    messages, name = [], CHAT
    for place, turn in enumerate(turns, 1):
        where = f"message {place}"
        if not isinstance(turn, dict):
            raise _BrokenError("a message is no object", f"{where} is a JSON {type(turn).__name__}")
        _no_repeats(turn)
        if any(turn.get(key) for key in _TOOL_KEYS):
            raise _BrokenError("a call of a tool", where)
        shared = turn.get("role") is None and turn.get("from") is not None
        name = SHAREGPT if shared else name
        role, content = (
            turn.get("from" if shared else "role"),
            turn.get("value" if shared else "content"),
        )
        if role in _TOOL_ROLES:
            raise _BrokenError("a call of a tool", f"{where} is of the role {role}")
        if not isinstance(role, str) or role not in _ROLES:
            given = "no role" if role is None else f"the role {plain(repr(role), 40)}"
            raise _BrokenError(
                "wrong role", f"{where} has {given}; wanted system, user or assistant"
            )
        messages.append({"role": _ROLES[role], "content": _text(content, where)})
    return name, messages


def _text(content: Any, where: str) -> str:
    """Return the text of a message, which may be given in parts."""
    if isinstance(content, list) and content:
        texts = [part["text"] for part in content if _is_text(part)]
        if len(texts) < len(content):
            raise _BrokenError("a content that is no text", f"{where} has parts of another type")
        content = "".join(texts)
    if content is None:
        raise _BrokenError("an empty message", f"{where} has no text")
    if not isinstance(content, str):
        raise _BrokenError(
            "a content that is no text", f"{where} has a JSON {type(content).__name__}"
        )
    return content


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _instruction(record: dict[str, Any]) -> list[Message]:
    """Return the two messages of an instruction record."""
    texts = {key: _text(record.get(key, ""), key) for key in ("instruction", "input", "output")}
    asked = [text for text in (texts["instruction"], texts["input"]) if text.strip()]
    return [
        {"role": "user", "content": "\n\n".join(asked)},
        {"role": "assistant", "content": texts["output"]},
    ]


def _check(messages: list[Message]) -> None:
    """Refuse messages in a wrong order, without a text, or that are no Unicode."""
    wanted = "user"
    for place, message in enumerate(messages, 1):
        role, content = message["role"], message["content"]
        where = f"message {place}, of the {role},"
        if role == "system" and place == 1:
            pass
        elif role != wanted:
            raise _BrokenError(
                "roles out of order", f"{where} stands where the {wanted} was wanted"
            )
        else:
            wanted = "assistant" if role == "user" else "user"
        if not content.strip():
            raise _BrokenError("an empty message", f"{where} has no text")
        if _HALF.search(content):
            raise _BrokenError("no Unicode text", f"{where} holds half of a surrogate pair")
    if not any(message["role"] == "assistant" for message in messages):
        raise _BrokenError("no answer", "nothing of the assistant")
