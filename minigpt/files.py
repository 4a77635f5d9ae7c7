"""Content in, a file out that is either whole or absent; and the reading of small files that may be damaged."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minigpt.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write fails with for want of room


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary path beside `path`; what is written there takes its place when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, in one step: a reader sees the old file or the new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def replace_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, in one step."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        UserError: the file is missing, may not be read, is cut short, or holds something else.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait for ever
        raise UserError(f"{path} is no regular file; a JSON file was wanted there")
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a JSON file was wanted there") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"{path} cannot be read ({why}); see to its permissions and its disk"
        ) from None
    except RecursionError:
        raise UserError(
            f"{path} cannot be read as JSON (it is nested too deeply); restore or remove it"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore or remove it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}; an object was wanted")
    return content


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the operating system put a file, or a folder's list of names, on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders; its file system records the names itself
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expanded(path: Path | str) -> Path:
    """Return a path with ~ written out where there is such a user."""
    return Path(os.path.expanduser(path))


def place_of(name: str) -> Path | None:
    """Return the file or folder that a person named, or None; no text is so strange that asking is an error."""
    path = os.path.expanduser(name)
    return Path(path) if name.strip() and os.path.exists(path) else None


@contextlib.contextmanager
def alone(folder: Path, waiting: Callable[[], None]) -> Generator[None]:
    """Let one process at a time into the block for this folder; `waiting` is called where another is there already.

    A process that is killed gives its place up.
    """
    lock = FileLock(lock_path(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_path(folder: Path) -> Path:
    """Return the file in the user's cache that stands for a folder where processes take turns."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def cache_folder() -> Path:
    """Return the folder for what can be made again: `$MINIGPT_CACHE`, else `minigpt` in the user's cache."""
    named = os.environ.get("MINIGPT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigpt"
