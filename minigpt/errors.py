"""The exceptions that a person is meant to read, and what to show them of any other."""


class UserError(Exception):
    """A mistake that the person at the terminal can mend.

    The message says what was wrong, what was received, what was wanted and what to do. The command line prints it
    and exits with status 2; there is no traceback.

    Attributes:
        is_of_one: of several processes only this one says it.
    """

    is_of_one = False


class ProofError(Exception):
    """What was written is not what was meant. The command line prints it and exits with status 1."""


class RunError(Exception):
    """A run cannot go on for a reason outside of it, such as a full disk. The command line exits with status 1."""


class LostError(RunError):
    """Another process of the run is gone, as all that are left notice."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where there is none, as a terminal may show it."""
    return plain((str(error).strip().splitlines() or [type(error).__name__])[0], 400)


def plain(name: object, length: int = 200) -> str:
    """Return a text out of a file as it may be shown: control characters spelt out, not too long."""
    text = str(name)
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:length])
    return shown if len(text) <= length else f"{shown}…"


class PeerError(Exception):
    """Another process of the run has failed, and says why; this one ends with the same exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"another process of this run has failed with status {status}")
        self.status = status


def status_of(error: BaseException) -> int:
    """Return the exit status of a process that ends with this error: 2 for bad input, 128 + a signal, else 1."""
    if isinstance(error, PeerError):
        return error.status
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code or 1
    return 2 if isinstance(error, UserError) else 1
