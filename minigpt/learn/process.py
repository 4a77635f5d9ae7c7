"""A learner's file in, a verdict out: the code runs in a process of its own and can do no harm.

    parent   starts the child in an empty folder, reads what is printed, watches the clock, reads the verdict
    child    bounds its memory, judges the file, writes the verdict to a file

The process has no standard input. Whatever it does, end, crash, print for ever or never come back, there is a verdict.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from minigpt.errors import UserError
from minigpt.learn.path import Exercise, find
from minigpt.learn.words import PRINTED, Verdict

SECONDS = 20.0  # that the code may take in one check
GRACE = 5.0  # seconds until it is ended by force
IN_ALL = 900.0  # seconds for everything, torch's start and the search for mistakes among it
MEMORY_BYTES = 4 << 30  # more than torch takes when it has started
FILE_BYTES = 64 << 20  # of a file that it may write
LARGEST = 1 << 20  # bytes of a learner's file


def judge_apart(exercise: Exercise, file: Path, seconds: float = SECONDS) -> Verdict:
    """Return the verdict on a file.

    Args:
        exercise: of the path.
        file: the learner's.
        seconds: that its code may take in one check.

    Raises:
        UserError: there is no such file, or it holds no text.
    """
    source_of(file)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
        notes, verdict = Path(folder) / "notes.json", Path(folder) / "verdict.json"
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        quiet = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "minigpt.learn.process"),
                *(exercise.name, str(file.absolute()), folder, str(seconds)),
            ],
            cwd=empty, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | quiet | {"PYTHONPATH": path}, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed: list[str] = []
                reader = threading.Thread(target=_read, args=(process.stdout, printed), daemon=True)
                reader.start()
                in_time = _wait(process, notes, seconds + GRACE)
            finally:
                _end(process)
            reader.join(GRACE)
        if verdict.exists():
            found = Verdict.of(json.loads(verdict.read_bytes()))
        else:
            found = _without(process.returncode if in_time else None, notes, seconds)
        return replace(found, printed="".join(printed))


def source_of(file: Path) -> str:
    """Return the text of a learner's file.

    Raises:
        UserError: there is no such file, it is very large, or it holds no text.
    """
    if not file.is_file():
        what = "is no file" if file.exists() else "does not exist"
        raise UserError(
            f"{file} {what}; pass the file that minigpt learn start wrote for you to fill"
        )
    if file.stat().st_size > LARGEST:
        raise UserError(
            f"{file} is {file.stat().st_size:,} bytes large; a file of Python was wanted"
        )
    try:
        return file.read_text("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: byte {error.start}; save it as UTF-8") from None


def _read(pipe: io.BufferedReader, printed: list[str]) -> None:
    """Keep the beginning of what comes out of a pipe, and let the rest go."""
    kept = 0
    while piece := pipe.read1(1 << 16):
        if kept < PRINTED:
            printed.append(piece.decode(errors="replace")[: PRINTED - kept])
            kept += len(printed[-1])


def _wait(process: subprocess.Popen, notes: Path, seconds: float) -> bool:
    """Return whether a process ended by itself; one check of an attempt may take so many seconds."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return True
        at = json.loads(notes.read_bytes())["began"] if notes.exists() else None
        if time.monotonic() - began > IN_ALL or (at is not None and time.time() - at > seconds):
            return False


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it has started."""
    with contextlib.suppress(OSError):  # there is none left
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _without(status: int | None, notes: Path, seconds: float) -> Verdict:
    """Return the verdict on a process that left none; a check may take so many seconds."""
    at: dict[str, Any] = (
        json.loads(notes.read_bytes()) if notes.exists() else {"title": "the file can be loaded"}
    )
    if status is None:
        kind, what = "endless", f"it took more than {seconds:g} s"
    elif status < 0:
        name = signal.Signals(-status).name
        kind, what = "crash", f"it crashed the process ({name})"
        if name == "SIGKILL":
            what += ", as a system does that has run out of memory"
    else:
        kind, what = "ended", f"it ended the process with status {status}, as os._exit does"
    return Verdict(
        tuple(at.get("held", ())), at["title"], at.get("checks", 0), (kind,), received=what
    )


def main(name: str, file: str, folder: str, seconds: str) -> None:
    """Judge a file and write the verdict: the child."""
    import torch

    from minigpt.learn.judge import judge

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first one takes long
    _bound()
    sys.path.append(str(Path(file).parent))  # a learner may go on from an earlier exercise
    sys.argv = [file]
    notes = Path(folder) / "notes.json"

    def doing(content: dict[str, Any]) -> None:
        beside = notes.with_suffix(".new")
        beside.write_text(json.dumps(content))
        os.replace(beside, notes)

    found = judge(find(name), source_of(Path(file)), file, seconds=float(seconds), doing=doing)
    beside = Path(folder) / "verdict.new"
    beside.write_text(json.dumps(found.fields()))
    os.replace(beside, Path(folder) / "verdict.json")
    sys.stdout.flush()
    os._exit(0)  # whatever threads there are


def _bound() -> None:
    """Bound the memory and the files of this process, where the system can."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(*sys.argv[1:])
