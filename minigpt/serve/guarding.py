"""Requests in, only those let through that may come in: by host, origin, key, size and time.

The order: answered names (against DNS rebinding), pages of other places, the key, then the body. A refusal is an error
in OpenAI's shape.
"""

import asyncio
import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minigpt.serve.errors import ApiError
from minigpt.serve.settings import ServeSettings, is_loopback

OPEN = ("/", "/health")  # what is read without a key,
OPEN_BELOW = "/page/"  # and the files of the page: nothing of a model is in them
UPLOADS = "/api/upload"
PROGRESS = 2**20  # bytes of an upload that earn it as much time again
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Guarded:
    """Refuses who may not come in, and gives each answer the headers that keep a browser careful."""

    def __init__(self, app: ASGIApp, *, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        self._keys = [key.encode() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        app = self.app if refusal is None else refusal.response()
        await app(scope, receive, careful)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers, settings = Headers(scope=scope), self.settings
        host = headers.get("host", "")
        if (settings.is_loopback or settings.hosts) and not self._is_own(host):
            return ApiError(
                421, "this server does not answer to the name in the Host header; call it by its address, or start it "
                "with --allow-host NAME", code="unknown_host",
            )  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            allowed = "*" in settings.origins or origin in settings.origins
            if not allowed and urlsplit_host(origin) != host.lower():
                return ApiError(
                    403, "a page of another place may not call this server; start it with --allow-origin ORIGIN",
                    code="foreign_origin",
                )  # fmt: skip
        if self._keys and not _is_open(scope["path"]) and not self._has_key(headers):
            return ApiError(
                401, "wanted a key of this server, as Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return None

    def _is_own(self, host: str) -> bool:
        name = hostname(host)
        return name in self.settings.hosts or (self.settings.is_loopback and is_loopback(name))

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        sent = given.strip().encode()
        # All are compared, in a time that does not tell which of them came near.
        return bool(sum([hmac.compare_digest(sent, key) for key in self._keys])) and (
            scheme.lower() == "bearer"
        )


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_BELOW)


def hostname(host: str) -> str:
    """Return the name in a Host header, without its port.

    >>> hostname("localhost:8000"), hostname("[::1]:8000"), hostname("Example.org")
    ('localhost', '::1', 'example.org')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def urlsplit_host(origin: str) -> str:
    """Return host and port of an origin; of one that is none, nothing."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


class Bounded:
    """Takes no body that is too large or too slow."""

    def __init__(self, app: ASGIApp, *, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and its body as far as it may come."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"].startswith(UPLOADS)
        most = self.settings.most_upload_bytes if is_upload else self.settings.most_body_bytes
        too_large = ApiError(
            413, f"the body is too large; wanted at most {most} bytes", code="body_too_large"
        )
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > most:
            await too_large.response()(scope, receive, send)
            return
        loop, size, renewed, is_read = asyncio.get_running_loop(), 0, 0, False
        until = loop.time() + self.settings.body_seconds

        async def bounded() -> Message:
            nonlocal size, is_read, until, renewed
            if is_read:  # what comes now is that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the body did not come in time", code="body_too_slow") from None
            size += len(message.get("body", b""))
            is_read = not message.get("more_body", False)
            if is_upload and size - renewed >= PROGRESS:
                renewed = size
                until = loop.time() + self.settings.body_seconds
            if size > most:
                raise too_large
            return message

        await self.app(scope, bounded, send)


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and not (parts.path or parts.query)


def check_origins(origins: Sequence[str]) -> str | None:
    """Return what is wrong with the origins that an option names, if anything is."""
    for origin in origins:
        if origin != "*" and not _is_origin(origin):
            return f"--allow-origin {origin} is no origin; wanted SCHEME://HOST[:PORT], or *"
    return None
