"""An application in, a listening server out, which ends as it is told to: what runs has its time to end."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Generator

import uvicorn
from fastapi import FastAPI
from h11 import IDLE, SEND_BODY
from uvicorn.protocols.http.h11_impl import H11Protocol

from minigpt.errors import UserError, plain
from minigpt.serve.models import Models
from minigpt.serve.settings import ServeSettings

AFTER_GRACE_SECONDS = 5  # to tell clients that their texts were ended
START_SECONDS = 30.0
SEND_BYTES = 2**17  # that the system holds for a reader; its own choice would be megabytes
_FULL = b'{"error":{"message":"too many connections","type":"server_error","param":null,"code":"too_many_connections"}}'
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


def connection_class(settings: ServeSettings) -> type[H11Protocol]:
    """Return what speaks HTTP on one connection, and drops one that keeps the server waiting."""

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None  # until the head of a request has to be there
        _taking: asyncio.TimerHandle | None = None  # until the reader has to have taken something
        _rest: asyncio.TimerHandle | None = None  # until a body has to have ended that was refused

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            own = transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            if len(self.connections) > settings.connections:
                transport.write(TOO_MANY)
                transport.close()
                return
            self._head = self.loop.call_later(settings.header_seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not SEND_BODY:
                self._rest = _off(self._rest)
            if self.conn.their_state is not IDLE:
                self._head = _off(self._head)
            elif self._head is None:  # the beginning of another head
                self._head = self.loop.call_later(settings.header_seconds, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._head, self._taking = _off(self._head), _off(self._taking)
            self._rest = _off(self._rest)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._taking = self.loop.call_later(settings.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._taking = _off(self._taking)
            super().resume_writing()

        def on_response_complete(self) -> None:
            is_unread = self.conn.their_state is SEND_BODY
            super().on_response_complete()
            if is_unread and not self.transport.is_closing():
                self._rest = self.loop.call_later(settings.header_seconds, self.transport.abort)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            _off(self._taking)
            self._taking = self.loop.call_later(settings.send_seconds, self.transport.abort)

    return Connection


def _off(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Serves until it is told to stop; then it takes nothing new, and what runs has so many seconds to end."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        config = uvicorn.Config(
            app, http=connection_class(settings), ws="none", lifespan="off", log_config=None,
            log_level="error", access_log=False, server_header=False, proxy_headers=False,
            timeout_keep_alive=settings.idle_seconds,  # ty: ignore[invalid-argument-type] - it may be a float
            timeout_graceful_shutdown=settings.grace_seconds + AFTER_GRACE_SECONDS,  # ty: ignore[invalid-argument-type]
        )  # fmt: skip
        super().__init__(config)
        self._app, self._grace = app, settings.grace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs end, or end it."""
        models: Models = self._app.state.models
        self._app.state.is_stopping = True
        models.drain()
        ending = asyncio.get_running_loop().call_later(self._grace, models.end_all)
        await super().shutdown(sockets)
        ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop at the first signal, at once at the second; the process ends as one that has done what it was told."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()  # they are not raised again


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that nobody else has; it listens once a server serves on it.

    Raises:
        UserError: the address is not this machine's, or taken.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; wanted at most 65535, or 0 for one that is free")
    try:
        places = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = places[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _cannot_listen(host, port, error) from None
    return found


def _cannot_listen(host: str, port: int, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"cannot listen on {plain(host)} port {port} ({why}); give another --host or --port"
    )


def serve(
    app: FastAPI, settings: ServeSettings, at: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        app: of `make_app`.
        settings: the same.
        at: of `listening_socket`.
        ready: called once clients are answered.
    """
    server = Server(app, settings)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[at]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        if server.started:
            ready()
        await serving

    asyncio.run(run())


@contextlib.contextmanager
def serving(app: FastAPI, settings: ServeSettings) -> Generator[str]:
    """Serve in a thread while the block runs; yield the address, on a port of the system's choice."""
    at = listening_socket(settings.host, 0)
    server, port = Server(app, settings), at.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    try:
        waited = threading.Event()
        while thread.is_alive() and not server.started:
            waited.wait(0.005)
        yield f"http://{settings.host}:{port}"
    finally:
        server.should_exit = True
        thread.join(settings.grace_seconds + START_SECONDS)
