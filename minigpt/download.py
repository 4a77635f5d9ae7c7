"""An address in, a file in the cache out: fetched once, whole or not at all, and checked where its SHA-256 is known."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from minigpt.errors import UserError
from minigpt.files import replacing
from minigpt.progress import bar

TIMEOUT_SECONDS = 30.0  # without an answer
BLOCK = 1 << 20


def download(url: str, path: Path, *, sha256: str = "", instead: str) -> Path:
    """Fetch `url` to `path`, unless it is there; return `path`.

    Args:
        url: http or https.
        path: where it goes.
        sha256: what it must be; empty: nothing is known about it.
        instead: what a person without a network does; the end of the sentence they read.

    Raises:
        UserError: it could not be reached, or is not what it should be.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
            replacing(path) as temporary,
            temporary.open("wb") as file,
        ):
            total = int(answer.headers.get("Content-Length") or 0)
            done = 0
            with bar(f"downloading {path.name}", total or None) as report:
                while block := answer.read(BLOCK):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    report(done)
            if total and done != total:
                raise UserError(f"{url} broke off after {done:,} of {total:,} bytes; {instead}")
            if sha256 and digest.hexdigest() != sha256:
                raise UserError(
                    f"{url} is not the file that it was: its SHA-256 is {digest.hexdigest()}, wanted {sha256}; "
                    f"{instead}"
                )
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
    ) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open answer
        raise UserError(f"{url} could not be reached ({reason}); {instead}") from None
    return path
