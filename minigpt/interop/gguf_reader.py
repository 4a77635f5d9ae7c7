"""The bytes of a GGUF file in, its settings and stored tensors out; no number in a header is believed unchecked.

    magic  version  how many tensors  how many settings
    for each setting: name, type, value
    for each tensor: name, dimensions, type of number, place
    padding, then the numbers

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import UserError

Settings = dict[str, Any]
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_TEXT, _ARRAY = 8, 9
_ARRAY_ITEMS = {_TEXT: 8} | {kind: np.dtype(name).itemsize for kind, name in _SCALARS.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file holds it.

    Attributes:
        shape: in the order of PyTorch; the file has it the other way round.
        kind: ggml's number for how the numbers are stored.
        data: the bytes of the file from the tensor's first on, (bytes,) uint8; they go on after its last.
    """

    shape: tuple[int, ...]
    kind: int
    data: np.ndarray


def read_header(path: Path) -> tuple[Settings, dict[str, StoredTensor]]:
    """Return the settings and the tensors of a GGUF file, whose numbers stay on the disk until they are used.

    Raises:
        UserError: it is not there, no GGUF file, of a version other than 2 and 3, cut short, or damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; pass a .gguf file")
    if path.stat().st_size < 24:
        raise UserError(f"{path} is no GGUF file (it has {path.stat().st_size} bytes)")
    cursor = _Cursor(np.memmap(path, mode="r"))
    try:
        return _read(cursor)
    except _DamageError as error:
        raise UserError(f"{path} is no whole GGUF file: {error}; make or fetch it again") from None


class _DamageError(Exception):
    """What is wrong with the file, to be put after its name."""


class _Cursor:
    """Reads forwards and never past the end."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.place = 0

    def take(self, size: int) -> bytes:
        self.expect(size)
        self.place += size
        return self.data[self.place - size : self.place].tobytes()

    def expect(self, size: int) -> None:
        """Refuse what needs more bytes than are left."""
        if size > len(self.data) - self.place:
            raise _DamageError(
                f"byte {self.place} announces {size} bytes more, but {len(self.data) - self.place} are left"
            )

    def count(self, item_size: int) -> int:
        """Return the number of items that follow, each of at least so many bytes."""
        (found,) = struct.unpack("<Q", self.take(8))
        self.expect(found * item_size)
        return found

    def unsigned(self) -> int:
        (found,) = struct.unpack("<I", self.take(4))
        return found

    def text(self) -> str:
        start = self.place
        try:
            return self.take(self.count(1)).decode()
        except UnicodeDecodeError:
            raise _DamageError(f"the text at byte {start} is not UTF-8") from None

    def value(self) -> Any:
        kind = self.unsigned()
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.scalars(kind, 1)[0]
        item = self.unsigned()
        if item not in _ARRAY_ITEMS:
            raise _DamageError(f"an array holds values of the unknown type {item}")
        length = self.count(_ARRAY_ITEMS[item])
        return [self.text() for _ in range(length)] if item == _TEXT else self.scalars(item, length)

    def scalars(self, kind: int, length: int) -> list[Any]:
        if kind not in _SCALARS:
            raise _DamageError(f"a setting has the unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()


def _read(cursor: _Cursor) -> tuple[Settings, dict[str, StoredTensor]]:
    if cursor.take(4) != b"GGUF":
        raise _DamageError("it does not begin with GGUF")
    version = cursor.unsigned()
    if version not in (2, 3):
        raise _DamageError(f"it has version {version}, and versions 2 and 3 are read here")
    tensors = cursor.count(24)
    settings = _named(cursor, cursor.count(13), _Cursor.value)
    places = _named(cursor, tensors, _tensor_place)
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise _DamageError(f"general.alignment is {alignment!r}")
    start = -(-cursor.place // alignment) * alignment
    return settings, {
        name: StoredTensor(shape, kind, cursor.data[start + offset :])
        for name, (shape, kind, offset) in places.items()
    }


def _named(cursor: _Cursor, count: int, read: Any) -> dict[str, Any]:
    """Return {name: what `read` finds after it}, so many times."""
    found: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.text()
        if name in found:
            raise _DamageError(f"it has {name!r} twice")
        found[name] = read(cursor)
    return found


def _tensor_place(cursor: _Cursor) -> tuple[tuple[int, ...], int, int]:
    dimensions = cursor.unsigned()
    if dimensions > 4:
        raise _DamageError(f"a tensor has {dimensions} dimensions; the format allows 4")
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))
    kind = cursor.unsigned()
    (offset,) = struct.unpack("<Q", cursor.take(8))
    return shape[::-1], kind, offset
