"""Bytes from a stranger in, files under fixed names in a private folder out: bounded, nothing run, nothing outside.

    the request's body -> tokenizer.json  config.json  weights          (sizes are stated, names are ours)
    weights, a zipped run directory -> its model files, by a list of known names

No name from a request or an archive reaches the file system. What an archive says of itself is checked before a byte of
it is unpacked.
"""

import io
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from anyio import to_thread

from minigpt.errors import UserError, first_line, plain
from minigpt.files import FULL

WEIGHTS, SETTINGS, TOKENIZER = "weights", "config.json", "tokenizer.json"
_WRITTEN_AT_ONCE = 1 << 20  # bytes
_LARGEST_DIRECTORY = 1 << 23  # bytes of the table of contents of an archive, which is read at once
# The files of a model directory; all else that is in an archive stays there.
_MODEL_FILE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|vocab|encoder|model\.safetensors\.index)\.json"
    r"|vocab\.bpe|merges\.txt|chat_template\.jinja|model(-[\d-]{1,40}|-\d{1,9}-of-\d{1,9}(-\d{1,9})?)?\.safetensors"
)

_DRIVE = re.compile(r"[A-Za-z]:")

Kind = Literal["file", "directory"]


@dataclass(frozen=True)
class Bounds:
    """What an upload may take.

    Attributes:
        bytes: of the request's body.
        beside_bytes: of each file that is not of weights, beside them or in an archive.
        unpacked_bytes: of all that an archive unpacks to.
        entries: of an archive.
        models: that were uploaded and are there at a time.
        context: tokens that an uploaded model sees; a longer context is cut to it.
    """

    bytes: int = 2 * 2**30
    beside_bytes: int = 32 * 2**20
    unpacked_bytes: int = 4 * 2**30
    entries: int = 5_000
    models: int = 3
    context: int = 8_192


def amount(count: float) -> str:
    """Return bytes as a person says them.

    >>> [amount(n) for n in (900, 2 * 2**30, 1_500_000)]
    ['900 bytes', '2 GiB', '1.43 MiB']
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} bytes"


# ---------------------------------------------------------------------------------------------------------- receiving


def check_sizes(body: int | None, beside: Mapping[str, int], bounds: Bounds) -> None:
    """Refuse an upload by what it says of itself, before it is read.

    Args:
        body: bytes of the whole, None where that is not said.
        beside: bytes of each of the files before the weights, by fixed name.
        bounds: what it may take.

    Raises:
        UserError: it is too large, or the parts are larger than the whole.
    """
    for name, size in beside.items():
        _check_beside(name, size, bounds)
    if body is not None and body > bounds.bytes:
        raise _too_large(bounds)
    if body is not None and sum(beside.values()) > body:
        raise UserError("the parts of the upload are larger than the whole; send it again")


def _check_beside(name: str, size: int, bounds: Bounds) -> None:
    if not 0 <= size <= bounds.beside_bytes:
        raise UserError(
            f"a {name} of {amount(size)} was announced; wanted at most {amount(bounds.beside_bytes)}"
        )


async def receive(
    chunks: AsyncIterator[bytes], beside: Mapping[str, int], folder: Path, bounds: Bounds
) -> None:
    """Write a body into a folder: the files of `beside`, one behind the other, and then the weights.

    Raises:
        UserError: it is too large, ends early, is empty, or the disk is full.
    """
    before, total, waiting, is_split = sum(beside.values()), 0, bytearray(), False
    try:
        with (folder / WEIGHTS).open("xb") as file:
            async for chunk in chunks:
                total += len(chunk)
                if total > bounds.bytes:
                    raise _too_large(bounds)
                waiting += chunk
                if not is_split and total >= before:
                    _split(waiting, beside, folder)
                    is_split = True
                if is_split and len(waiting) >= _WRITTEN_AT_ONCE:
                    await to_thread.run_sync(file.write, bytes(waiting))
                    waiting.clear()
            if total <= before:
                raise UserError("the upload is empty or ended early; choose the file again")
            await to_thread.run_sync(file.write, bytes(waiting))
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                "the disk of the server is full; make room there, and send the file again"
            ) from None
        raise


def _split(waiting: bytearray, beside: Mapping[str, int], folder: Path) -> None:
    """Move the small files at the beginning of the bytes into the folder."""
    for name, size in beside.items():
        if size:
            (folder / name).write_bytes(waiting[:size])
            del waiting[:size]


def _too_large(bounds: Bounds) -> UserError:
    return UserError(
        f"the upload is larger than {amount(bounds.bytes)}, the most that is taken here; start the server beside the "
        "file instead: minigpt serve FILE"
    )


# ---------------------------------------------------------------------------------------------------------- unpacking


class _Bounded(io.FileIO):
    """A file of which nobody reads much at a time: the table of contents of an archive is read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("its table of contents is too large")
        return super().read(-1 if size is None else size)


def unpack(folder: Path, bounds: Bounds) -> Kind:
    """Return whether an upload is a file of weights or a model directory; unpack such a one beside itself.

    A .pth file of PyTorch is an archive, too, and stays as it is once its contents were checked.

    Args:
        folder: with the upload; the model directory takes its place there.
        bounds: what it may take.

    Raises:
        UserError: an archive that is damaged, too large, holds no model, or would write elsewhere.
    """
    path = folder / WEIGHTS
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return "file"
    try:
        with _Bounded(path) as raw, zipfile.ZipFile(raw) as archive:
            entries = _checked(archive, bounds)
            if not _settings_in(entries) and any(name.endswith("data.pkl") for name in entries):
                return "file"
            for name, entry in _model_files(entries, bounds).items():
                with archive.open(entry) as source, (folder / name).open("xb") as target:
                    shutil.copyfileobj(source, target, _WRITTEN_AT_ONCE)
    except FileExistsError:
        raise UserError(
            "the archive has a file that was sent beside it as well; send the archive alone"
        ) from None
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                "the disk of the server is too small for what is in the archive"
            ) from None
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error, ValueError) as error:
        raise UserError(
            f"the archive is cut short or damaged ({first_line(error)}); make it again"
        ) from None
    path.unlink()
    return "directory"


def _checked(archive: zipfile.ZipFile, bounds: Bounds) -> dict[str, zipfile.ZipInfo]:
    """Return the files of an archive by name; refuse one that no honest program makes of a model."""
    infos = archive.infolist()
    if len(infos) > bounds.entries:
        raise UserError(
            f"the archive has {len(infos):,} entries; wanted at most {bounds.entries:,}: zip the run alone"
        )
    if (size := sum(info.file_size for info in infos)) > bounds.unpacked_bytes:
        raise UserError(
            f"the archive unpacks to {amount(size)}; wanted at most {amount(bounds.unpacked_bytes)}: leave the "
            "folder checkpoints out, or start the server beside the run: minigpt serve RUN"
        )
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name, mode = info.filename, info.external_attr >> 16
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or _DRIVE.match(name):
            raise UserError(
                f"the archive has an entry {plain(name)}, which leads out of it; nothing was unpacked"
            )
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or not stat.S_IFMT(mode)):
            raise UserError(
                f"the archive has a link or a device, {plain(name)}; wanted files and folders: zip the files themselves"
            )
        if info.flag_bits & 1:
            raise UserError("the archive is encrypted; make it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                "the archive is compressed in another way than deflate; make it with zip"
            )
        if name in entries:
            raise UserError(f"the archive has {plain(name)} twice; make it again")
        if not info.is_dir():
            entries[name] = info
    return entries


def _settings_in(entries: Mapping[str, zipfile.ZipInfo]) -> list[PurePosixPath]:
    """Return every config.json, the one that lies highest first."""
    found = [path for path in map(PurePosixPath, entries) if path.name == SETTINGS]
    return sorted(found, key=lambda path: len(path.parts))


def _model_files(
    entries: Mapping[str, zipfile.ZipInfo], bounds: Bounds
) -> dict[str, zipfile.ZipInfo]:
    """Return the files of the one model directory in an archive, by their names there."""
    found = _settings_in(entries)
    if not found:
        if any(PurePosixPath(name).name == "adapter_config.json" for name in entries):
            raise UserError(
                "the archive holds an adapter without its base; merge them first: minigpt export ADAPTER --to hf "
                "--out DIR"
            )
        raise UserError(
            "the archive holds no config.json and so no model; zip a run directory or a Hugging Face directory"
        )
    highest = [path for path in found if len(path.parts) == len(found[0].parts)]
    if len(highest) > 1:
        raise UserError(f"the archive holds {len(highest)} models side by side; zip one of them")
    inside = {
        path.name: entry
        for name, entry in entries.items()
        if (path := PurePosixPath(name)).parent == highest[0].parent
    }
    if "adapter_config.json" in inside:
        raise UserError(
            "the archive holds an adapter; merge it first: minigpt export ADAPTER --to hf --out DIR"
        )
    chosen = {name: entry for name, entry in inside.items() if _MODEL_FILE.fullmatch(name)}
    for name, entry in chosen.items():
        if not name.endswith(".safetensors"):  # each is read at once
            _check_beside(name, entry.file_size, bounds)
    return chosen
