import asyncio
import contextlib
import socket

import pytest

from minigpt.serve.errors import ApiError
from minigpt.serve.guarding import PROGRESS, Bounded, check_origins
from minigpt.serve.settings import ServeSettings

from .serving import PATIENCE, world

KEY, OTHER = "first-key-0123456789", "second-key-0123456789"
HERE, THERE = "http://page.example:3000", "https://elsewhere.example"


@pytest.fixture(scope="module")
def guarded():
    """A server that asks for a key, has small limits, and lets one page in."""
    with world(
        keys=(KEY, OTHER), origins=(HERE,), hosts=("gpt.example",), most_body_bytes=2000, body_seconds=0.3,
        most_upload_bytes=3000,
    ) as running:  # fmt: skip
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


PATHS = [
    "/v1/models", "/v1/models/plain", "/metrics", "/openapi.json", "/api/anything", "/anything", "//health",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_everything_but_the_page_and_its_health_asks_for_a_key(guarded, path):
    status, headers, body = guarded.ask("GET", path)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert body["error"]["code"] == "invalid_api_key"
    for key in (KEY, OTHER):
        assert guarded.ask("GET", path, headers=bearer(key))[0] in (200, 404)


def test_health_is_open_and_so_is_the_place_of_the_page(guarded):
    assert guarded.ask("GET", "/health")[0] == 200
    for path in ("/", "/page/script.js"):
        assert guarded.ask("GET", path)[0] != 401


NO_KEYS = [
    "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer {KEY} {OTHER}",
    "Bearer schlüssel",
]  # fmt: skip


@pytest.mark.parametrize("given", NO_KEYS)
def test_what_is_no_key_is_refused_before_the_body_is_read(guarded, given):
    headers = {"Authorization": given.encode()}
    assert guarded.ask("POST", "/v1/completions", b"{", headers)[0] == 401


OWN = ["localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:80", "gpt.example", "gpt.example:443"]
FOREIGN = [
    "evil.example",
    "evil.example:80",
    "",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
]


@pytest.mark.parametrize("host", OWN)
def test_it_answers_to_its_own_names(guarded, host):
    assert guarded.ask("GET", "/health", headers={"Host": host})[0] == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_it_does_not_answer_to_a_foreign_name(guarded, host):
    status, _, body = guarded.ask("GET", "/health", headers={"Host": host})
    assert (status, body["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize("origin", [THERE, "null", "http://localhost", "x", "http://[", HERE + "0"])
def test_a_foreign_page_may_not_send_anything(guarded, origin):
    headers = bearer(KEY) | {"Origin": origin}
    status, answered, body = guarded.ask("POST", "/v1/completions", {"prompt": "a"}, headers)
    assert (status, body["error"]["code"]) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answered


def test_the_page_that_was_named_may_send_and_so_may_its_own(guarded):
    body = {"prompt": "a", "max_tokens": 1}
    headers = bearer(KEY) | {"Origin": HERE}
    status, answered, _ = guarded.ask("POST", "/v1/completions", body, headers)
    assert (status, answered["access-control-allow-origin"]) == (200, HERE)
    assert answered["access-control-expose-headers"] == "Retry-After"
    asking = {"Origin": HERE, "Access-Control-Request-Method": "POST"}
    asking |= {"Access-Control-Request-Headers": "authorization,x-stainless-lang"}
    assert guarded.ask("OPTIONS", "/v1/completions", headers=asking)[0] == 200
    assert guarded.ask("OPTIONS", "/v1/completions", headers=asking | {"Origin": THERE})[0] == 400
    own = bearer(KEY) | {"Origin": f"http://127.0.0.1:{guarded.port}"}
    assert guarded.ask("POST", "/v1/completions", body, own)[0] == 200


def test_no_page_is_let_in_unless_it_was_named(world):
    headers = {"Origin": HERE, "Access-Control-Request-Method": "POST"}
    status, answered, _ = world.ask("OPTIONS", "/v1/completions", headers=headers)
    assert status == 405
    assert not any(name.startswith("access-control") for name in answered)


def test_a_body_is_no_json_where_its_type_does_not_say_so(world):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, _, body = world.ask(
            "POST", "/v1/completions", b'{"prompt": "a"}', {"Content-Type": kind}
        )
        assert status == 400
        assert "Content-Type: application/json" in body["error"]["message"]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
def test_each_answer_keeps_a_browser_careful(world, path):
    headers = world.ask("GET", path)[1]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(guarded):
    large = b'{"prompt": "%s"}' % (b"a" * 2000)
    status, _, body = guarded.ask("POST", "/v1/completions", large, bearer(KEY))
    assert (status, body["error"]["code"]) == (413, "body_too_large")
    assert "at most 2000 bytes" in body["error"]["message"]
    chunk = b"7d0\r\n%s\r\n" % (b" " * 2000)
    answered = raw(guarded, b"Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk + b"0\r\n\r\n")
    assert b" 413 " in answered


def test_an_upload_may_be_larger(guarded):
    assert guarded.ask("POST", "/api/upload", b"a" * 2500, bearer(KEY))[0] == 200
    assert guarded.ask("POST", "/api/upload", b"a" * 3500, bearer(KEY))[0] == 413


def test_a_body_that_comes_too_slowly_is_not_waited_for(guarded):
    answered = raw(guarded, b'Content-Length: 100\r\n\r\n{"prompt"')
    assert b" 408 " in answered
    assert b"body_too_slow" in answered


@pytest.mark.parametrize(("chunk", "is_whole"), [(1, False), (PROGRESS, True)])
def test_an_upload_gets_more_time_only_for_progress(chunk, is_whole):
    clock, sent = [0.0], []

    async def receive():
        clock[0] += 6.0
        await asyncio.sleep(0)  # so that a timer that is due goes off
        return {"type": "http.request", "body": bytes(chunk), "more_body": clock[0] < 60}

    async def read(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        sent.append("whole")

    async def asked():
        loop = asyncio.get_running_loop()
        loop.time = lambda: clock[0]
        scope = {"type": "http", "path": "/api/upload", "headers": []}
        await Bounded(read, settings=ServeSettings(body_seconds=10.0))(scope, receive, None)

    with contextlib.nullcontext() if is_whole else pytest.raises(ApiError, match="in time"):
        asyncio.run(asked())
    assert sent == ["whole"] * is_whole


def raw(guarded, rest: bytes) -> bytes:
    """Send a request by hand; return the beginning of its answer."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    with contextlib.closing(socket.create_connection(("127.0.0.1", guarded.port), PATIENCE)) as s:
        s.sendall(head.encode() + b"Content-Type: application/json\r\n" + rest)
        found = b""
        while b"\r\n\r\n" not in found or not found.endswith(b"}"):
            found += s.recv(65536) or pytest.fail(f"closed after {found!r}")
        return found


def test_an_origin_is_a_scheme_and_a_host():
    assert check_origins(["*", HERE, THERE]) is None
    for wrong in (
        "page.example",
        "https://page.example/",
        "https://page.example/a",
        "",
        "null",
        "http://[bad",
    ):
        assert wrong in check_origins([wrong])
