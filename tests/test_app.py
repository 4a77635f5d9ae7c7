"""The application as a whole: what it says of itself, and what a fuzzer makes of that."""

import importlib
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from . import serving

TALK = [{"role": "user", "content": "a"}]


@pytest.mark.slow
def test_no_request_that_a_fuzzer_makes_of_its_description_makes_it_fail(world):
    fuzzer = importlib.import_module("schemathesis")  # slow to import
    described = fuzzer.openapi.from_url(f"{world.url}/openapi.json")
    operations = [one.ok() for one in described.get_all_operations()]
    assert len(operations) >= 6
    for operation in operations:
        fuzz(operation.as_strategy())
        if operation.method == "post":
            fuzz(operation.as_strategy(generation_mode=fuzzer.GenerationMode.NEGATIVE))


def fuzz(cases) -> None:
    """Send what a strategy makes; nothing may be a mistake of the server, and each refusal is told in one shape."""

    @settings(
        max_examples=20, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases)
    def check(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens"), int):
            case.body["max_tokens"] = min(case.body["max_tokens"], 8)
        answer = case.call(timeout=30)
        assert answer.status_code < 500, (case.body, answer.text)
        if answer.status_code >= 400:
            assert json.loads(answer.text)["error"]["message"]

    check()


def test_it_describes_each_path_with_what_it_may_answer(world):
    status, _, found = world.ask("GET", "/openapi.json")
    assert status == 200
    assert {
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/health",
        "/metrics",
    } <= found["paths"].keys()
    answers = found["paths"]["/v1/completions"]["post"]["responses"].keys()
    assert {"200", "400", "401", "404", "413", "429", "503"} <= answers
    assert "422" not in answers
    fields = found["components"]["schemas"]["CompletionRequest"]
    assert fields["additionalProperties"] is False
    assert fields["properties"]["top_k"]["description"]


def test_there_is_no_page_that_fetches_from_elsewhere(world):
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert world.ask("GET", path)[0] == 404


def test_it_is_healthy_while_all_its_threads_are_at_work():
    with serving.world() as running:
        assert running.ask("GET", "/health")[::2] == (200, {"status": "ok"})
        running.models.get("chat").worker.close()
        assert running.ask("GET", "/health")[::2] == (503, {"status": "failed"})


def test_metrics_are_what_prometheus_reads(world):
    world.complete("a", max_tokens=2)
    status, headers, text = world.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        assert line.startswith("# ") or (name.startswith("minigpt_") and float(value) >= 0)
    assert 'minigpt_requests_total{path="/v1/completions",status="200"}' in text
    assert 'minigpt_first_token_seconds_bucket{model="plain",le="+Inf"}' in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models/plain", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "/V1/models", 404),
    ],
)
def test_every_error_has_openais_shape(world, method, path, status):
    found, headers, body = world.ask(method, path)
    assert found == status
    assert headers["content-type"] == "application/json"
    assert body["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b"[" * 100_000, b'{"prompt": %s}' % (b"9" * 5000)],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_body_that_is_no_request_is_a_mistake_of_the_client(world, path, body):
    status, _, found = world.ask("POST", path, body)
    assert status == 400
    assert found["error"]["type"] == "invalid_request_error"


def test_messages_are_refused_by_their_place(world):
    body = {"model": "chat", "messages": [*TALK, {"role": "tool", "content": "a"}]}
    status, _, found = world.ask("POST", "/v1/chat/completions", body)
    assert (status, found["error"]["param"]) == (400, "messages.1.role")


@pytest.mark.parametrize("path", ["/", "/health"])
def test_a_head_is_answered_as_a_get_without_its_body(world, path):
    status, headers, body = world.ask("HEAD", path)
    assert (status, body) == (200, "")
    assert headers["content-type"] == world.ask("GET", path)[1]["content-type"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": [1, -1]}, "prompt.1", "greater than or equal to 0"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
        ({"stop": ["a", ""]}, "stop.1", "at least 1 character"),
        ({"stop": 3}, "stop", "valid string"),
        ({"stop": 3, "prompt": [1, -1]}, "stop", "stop: Input should be a valid string"),
    ],
)
def test_of_a_field_of_several_types_what_is_wrong_with_the_right_one_is_said(
    world, fields, param, words
):
    status, _, found = world.ask("POST", "/v1/completions", fields)
    assert (status, found["error"]["param"]) == (400, param)
    assert words in found["error"]["message"]
    assert ("valid string" in found["error"]["message"]) == (fields.get("stop") == 3)
