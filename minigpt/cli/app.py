"""A command line in, an exit status out: the program `minigpt` without its verbs, and what every verb says and prints.

Progress goes to standard error, results to standard output. Exit status: 0 done, 2 bad input, 1 anything else.
"""

import contextlib
import errno
import io
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from minigpt import __version__, machine
from minigpt.errors import LostError, PeerError, ProofError, RunError, UserError, plain

app = App(
    name="minigpt",
    help="From any text to a GPT of your own. Begin with: minigpt demo",
    version=__version__,
    help_format="plaintext",
)
_started = time.monotonic()
HEARING_SECONDS = 3.0

JSON = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="Print one JSON object as the last line.",
    ),
]
FLAG = Annotated[bool, Parameter(negative="", show_default=False)]
TEXT = Parameter(allow_leading_hyphen=True)


def run(started: float, arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line (None: this process's) and return the exit status."""
    global _started
    _started = started
    if sys.stdout is None:  # closed by who called us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show it shows as "?"
    with _unwinding():
        return _carry_out(sys.argv[1:] if arguments is None else arguments)


@contextlib.contextmanager
def _unwinding() -> Generator[None]:
    """Have SIGTERM end the block as an exception does, so that nothing half written stays; status 143."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _carry_out(arguments: Sequence[str]) -> int:
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    except UnusedCliTokensError as error:
        complain(_too_many(error.unused_tokens or [], arguments), of_one=False)
        return 2
    except (UserError, CycloptsError) as error:
        complain(error, of_one=getattr(error, "is_of_one", False))
        return 2
    except LostError as error:
        complain(error, of_one=machine.rank() == 1)  # the first one may be who is lost
        return 1
    except (ProofError, RunError) as error:
        complain(error, of_one=True)
        return 1
    except PeerError as error:  # who says it
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        # A full disk, a folder without permission; nothing that was whole is lost.
        place = f": {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            place += "; what is whole is kept: make room, and run the same command again"
        complain(f"{error.strerror or error}{place}", of_one=True)
        return 1
    return 0


def _too_many(words: Sequence[str], arguments: Sequence[str]) -> str:
    """Return what to do about words that no option and no argument takes."""
    option = next(
        (a for a, b in itertools.pairwise(arguments) if b in words and a.startswith("--")), ""
    )
    if words and words[0] in ("true", "false") and option:
        return f"{option} {words[0]}: a switch takes its value behind =; write {option}={words[0]}"
    return (
        f"{plain(' '.join(words))}: more words than minigpt {arguments[0]} takes; put a text with spaces in quotes, or "
        f"see minigpt {arguments[0]} --help"
    )


def started() -> float:
    """Return when the process began, on `time.monotonic`."""
    return _started


def elapsed() -> float:
    """Return the seconds since the process began."""
    return time.monotonic() - _started


def refuse_file(folder: Path) -> None:
    """Refuse a file where `--out` wants a folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: {folder} is a file; a folder was wanted")


def standard_input() -> str:
    """Return the text on standard input."""
    if sys.stdin is None:
        raise UserError("standard input is closed; pass text")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: byte {error.start}; pass text") from None


def text_of(path: Path) -> str:
    """Return the text in a file that an option names."""
    try:
        return path.read_bytes().decode()
    except (FileNotFoundError, IsADirectoryError):
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; pass a text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start}; pass text") from None


def complain(what: object, *, of_one: bool) -> None:
    """Say why this process ends; where it is `of_one` of several, and else on the first and once on each other host."""
    rank = machine.rank()
    if rank == 0:
        say(f"minigpt: {what}")
        return
    if of_one or machine.rank("LOCAL_RANK") == 0:
        say(f"minigpt: rank {rank}: {what}")
    if not of_one:
        # torchrun ends all when one has ended, and the first may not have come so far as to say it.
        time.sleep(HEARING_SECONDS)


def say(line: str) -> None:
    """Say a line to the person, on standard error."""
    sys.stderr.write(line + "\n")


def show(text: str) -> None:
    """Print a result; of several processes the first does."""
    if machine.rank() == 0:
        sys.stdout.write(text + "\n")


def finish(as_json: bool, facts: Any) -> None:
    """Print the result as JSON where that was asked for; the last line of a verb."""
    if as_json:
        show(json.dumps(facts))
