"""A file in, its content out: unpacked where it is a .gz or .zst, and as text, decoded from UTF-8 in blocks."""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from minigpt.errors import UserError
from minigpt.extras import importing

BLOCK = 1 << 17  # bytes read at once: what is made of them stays in the processor's cache
COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read.

    Attributes:
        field: where the text of a record stands.
        errors: "strict" refuses bytes that are not UTF-8, "replace" puts U+FFFD in their place.
    """

    field: str = "text"
    errors: Literal["strict", "replace"] = "strict"


@contextlib.contextmanager
def opened(path: Path) -> Generator[BinaryIO]:
    """Yield the content of a file, unpacked where its name says that it is packed."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if suffix == ".gz":
            with gzip.open(file) as unpacked:
                yield io.BufferedReader(unpacked, BLOCK)
        elif suffix == ".zst":
            yield io.BufferedReader(_Zstandard(file, path), BLOCK)
        else:
            yield file


@contextlib.contextmanager
def refusing_damage(path: Path) -> Generator[None]:
    """Say in a sentence why a file cannot be read in the block, where it is damaged, gone or not ours to read.

    Raises:
        UserError: it names the file and the reason.
    """
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None
    except FileNotFoundError:
        raise UserError(f"{path} has gone; put it back and run again") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {(error.strerror or str(error)).strip()}"
        ) from None


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


def decoded(path: Path, file: BinaryIO, reading: Reading) -> Iterator[str]:
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
        raise not_utf8(path, place, error.object[error.start]) from None


def not_utf8(path: Path, place: int, byte: int, where: str = "") -> UserError:
    """Return the refusal of a byte, with its place in the file."""
    unpacked = " of its unpacked content" if path.suffix.lower() in COMPRESSED else ""
    return UserError(
        f"{path} is not UTF-8: byte {place}{unpacked}{where} is 0x{byte:02x}; save it as UTF-8, or "
        "go on with U+FFFD in such places by data.errors = replace (--errors replace)"
    )
