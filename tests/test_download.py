import contextlib
import hashlib
import http.server
import os
import socket
import struct
from threading import Thread

import pytest

from minigpt import download as module
from minigpt.download import download
from minigpt.errors import UserError

INSTEAD = "pass a local copy"
TEXT = b"some text " * 300


@contextlib.contextmanager
def serving(content: bytes, *, status: int = 200, promised: int | None = None):
    """Yield the address of a server on this machine, and what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if promised is None else promised))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *line):
            pass

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("no_proxy", "127.0.0.1")
        server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_port}/text", asked


@contextlib.contextmanager
def deaf(*, listening: bool = False):
    """Yield the address of a socket where nobody answers; unless it listens, nobody takes the call either."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        patch.setenv("no_proxy", "127.0.0.1")
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/text"


def refusal(url, path, **how) -> str:
    with pytest.raises(UserError) as refused:
        download(url, path, instead=INSTEAD, **how)
    message = str(refused.value)
    assert message.startswith(url)
    assert message.endswith(f"; {INSTEAD}")
    assert "\n" not in message
    assert os.listdir(path.parent) == []
    return message


def test_a_file_is_fetched_once_and_comes_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1000)
    path = tmp_path / "new" / "folder" / "a.txt"
    with serving(TEXT) as (url, asked):
        for _ in range(2):
            right = hashlib.sha256(TEXT).hexdigest()
            assert download(url, path, sha256=right, instead=INSTEAD) == path
        assert asked == ["/text"]
    assert path.read_bytes() == TEXT
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_file_that_is_another_one_is_refused_and_not_kept(tmp_path):
    with serving(TEXT) as (url, _):
        message = refusal(url, tmp_path / "a.txt", sha256="0" * 64)
    assert f"its SHA-256 is {hashlib.sha256(TEXT).hexdigest()}, wanted {'0' * 64}" in message


def test_an_answer_that_breaks_off_is_refused_and_not_kept(tmp_path):
    with serving(TEXT, promised=10_000) as (url, _):
        assert "broke off after 3,000 of 10,000 bytes" in refusal(url, tmp_path / "a.txt")


def test_a_connection_that_is_reset_is_refused_in_one_sentence(tmp_path):
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("no_proxy", "127.0.0.1")

        def reset():
            connection, _ = server.accept()
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        server.settimeout(20)
        thread = Thread(target=reset)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/text"
        assert "could not be reached (" in refusal(url, tmp_path / "a.txt")
        thread.join()


def test_an_address_where_nobody_is_says_what_to_do_instead(tmp_path):
    with deaf() as url:
        assert "could not be reached (" in refusal(url, tmp_path / "a.txt")
    with serving(b"no such page", status=404) as (url, _):
        assert "could not be reached (Not Found)" in refusal(url, tmp_path / "a.txt")


def test_an_address_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with deaf(listening=True) as url:
        assert "could not be reached (timed out)" in refusal(url, tmp_path / "a.txt")
