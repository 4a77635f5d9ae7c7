"""Clients that misbehave, and the end of a server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from minigpt.errors import UserError
from minigpt.serve.running import listening_socket

from .serving import BYTES, PATIENCE, drawn, until, world

LONG = {"prompt": "a", "max_tokens": 100_000, "on_full": "slide", "ignore_eos": True}


@pytest.fixture(scope="module")
def hurried():
    """A server with little patience, few slots and few connections, whose texts may be long."""
    with world(
        header_seconds=0.3, send_seconds=0.5, idle_seconds=0.3, connections=8, slots=2, queue=2, most_tokens=10**6,
        grace_seconds=1.0,
    ) as running:  # fmt: skip
        yield running


@contextlib.contextmanager
def connected(running):
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    ) as connection:
        yield connection


def request(body) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def closed(connection) -> bool:
    """Return whether the other side closes a connection before long."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(hurried, sent):
    with connected(hurried) as connection:
        connection.sendall(sent)
        assert closed(connection)


def test_the_head_of_a_second_request_is_not_waited_for_either(hurried):
    with connected(hurried) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
        connection.sendall(b"GET /heal")
        assert closed(connection)


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(hurried):
    with connected(hurried) as connection:
        connection.sendall(
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        )
        assert b" 404 " in connection.recv(65536)
        connection.sendall(b"more")
        assert closed(connection)


def test_a_connection_that_nobody_uses_is_closed(hurried):
    with connected(hurried) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert closed(connection)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"A" * 70_000])
def test_what_is_no_http_is_refused(hurried, sent):
    with connected(hurried) as connection:
        connection.sendall(sent)
        assert closed(connection)
    assert hurried.ask("GET", "/health")[0] == 200


def test_more_connections_than_it_holds_are_told_so(hurried):
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(hurried))
        last = stack.enter_context(connected(hurried))
        assert last.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert closed(last)
    until(lambda: answers(hurried))


def answers(running) -> bool:
    return running.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(hurried, stream):
    with connected(hurried) as connection:
        connection.sendall(request(LONG | {"stream": stream, "n": 2}))
        until(lambda: hurried.gauge("running") == 2)
    until(lambda: hurried.gauge("running") == 0)
    assert hurried.complete("a", max_tokens=2)[0] == 200


def test_a_reader_that_takes_nothing_stalls_nobody_and_is_dropped(hurried):
    with contextlib.closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hurried.port))
        connection.sendall(request(LONG | {"stream": True, "logprobs": 20}))
        until(lambda: hurried.gauge("running") == 1)
        assert hurried.complete("a", max_tokens=5)[0] == 200
        until(lambda: hurried.gauge("running") == 0)


def test_a_full_queue_is_answered_at_once_with_when_to_come_back(hurried):
    with connected(hurried) as connection:
        connection.sendall(request(LONG | {"n": 4}))
        until(lambda: hurried.gauge("running") + hurried.gauge("waiting") == 4)
        status, headers, body = hurried.complete("a", max_tokens=1)
        assert (status, body["error"]["code"]) == (429, "queue_full")
        assert int(headers["retry-after"]) >= 1
        assert hurried.complete("a", model="letters", max_tokens=1)[0] == 200  # has its own
    until(lambda: hurried.gauge("running") + hurried.gauge("waiting") == 0)


def test_a_server_that_stops_lets_what_runs_end():
    with world(most_tokens=10**6, grace_seconds=PATIENCE) as running:
        answered = []
        asking = threading.Thread(
            target=lambda: answered.append(running.complete(**(LONG | {"max_tokens": 300})))
        )
        asking.start()
        until(lambda: running.gauge("running") == 1)
    asking.join()
    status, _, body = answered[0]
    assert (status, body["usage"]["completion_tokens"]) == (200, 300)


@pytest.mark.parametrize("stream", [True, False])
def test_what_does_not_end_in_its_time_is_ended_with_an_error(stream):
    with world(most_tokens=10**6, grace_seconds=0.2) as running:
        answered = []
        asking = threading.Thread(
            target=lambda: answered.append(running.complete(**LONG, stream=stream))
        )
        asking.start()
        until(lambda: running.gauge("running") == 1)
    asking.join()
    status, _, body = answered[0]
    if stream:
        last = [line for line in body.splitlines() if line][-1]
        assert status == 200
        body = json.loads(last.removeprefix("data: "))
    else:
        assert status == 503
    assert body["error"]["code"] == "stopping"


def test_a_port_that_is_taken_is_said():
    with contextlib.closing(listening_socket("127.0.0.1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=f"cannot listen on 127.0.0.1 port {port} .*; give another"
        ):
            listening_socket("127.0.0.1", port)
    for host in ("no such host", "a" * 70, "\n"):
        with pytest.raises(UserError, match="cannot listen on"):
            listening_socket(host, 0)
    for port in (65_536, -1):
        with pytest.raises(UserError, match="--port is"):
            listening_socket("127.0.0.1", port)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(tmp_path, sign):
    drawn().save_pretrained(tmp_path / "m", BYTES)
    (tmp_path / "keys").write_text("a-key-of-ours\n")
    options = [
        "--port",
        "0",
        "--api-key-file",
        str(tmp_path / "keys"),
        "--log",
        "json",
        "--dtype",
        "fp32",
        "--json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "minigpt", "serve", f"own={tmp_path / 'm'}", *options],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("listening on "):
                break
        url = said[-1].split()[2].rstrip(";")
        asked = urllib.request.Request(
            f"{url}/v1/models", headers={"Authorization": "Bearer a-key-of-ours"}
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            assert json.load(answer)["data"][0]["id"] == "own"
        process.send_signal(sign)
        out, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, rest
    assert json.loads(out.splitlines()[-1])["models"] == ["own"]
    assert "a-key-of-ours" not in out + rest + "".join(said)
    assert json.loads(rest.splitlines()[0])["path"] == "/v1/models"
    assert rest.splitlines()[-1] == "stopped"
