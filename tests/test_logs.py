import json

import pytest

from minigpt.serve.logs import write

from .serving import until, world


@pytest.mark.parametrize("log", ["json", "text", "none"])
def test_each_request_has_a_line_without_what_was_said(capfd, log):
    with world(log=log, keys=("a-secret-key",)) as running:
        headers = {"Authorization": "Bearer a-secret-key"}
        body = {"prompt": "the secret prompt", "max_tokens": 3, "logit_bias": {"258": -100}}
        assert running.ask("POST", "/v1/completions", body, headers)[0] == 200
        assert running.ask("GET", "/etc/passwd%0Aforged")[0] == 401
        if log != "none":
            until(lambda: running.models.metrics.text([]).count("minigpt_requests_total{") == 2)
    said = capfd.readouterr().err
    assert "secret" not in said
    lines = said.splitlines()
    assert len(lines) == (0 if log == "none" else 2)
    if log == "json":
        first, second = map(json.loads, lines)
        assert first["path"] == "/v1/completions"
        assert (first["status"], first["method"], first["client"]) == (200, "POST", "127.0.0.1")
        assert (first["model"], first["prompt_tokens"], first["completion_tokens"]) == (
            "plain",
            17,
            3,
        )
        assert first["finish"] == "length"
        assert 0 < first["first_token_seconds"] <= first["seconds"]
        assert second["status"] == 401
    if log == "text":
        assert "path=/v1/completions status=200" in lines[0]
        assert "forged" in lines[1]


def test_a_line_of_text_stays_one_line(capsys):
    write({"time": "now", "path": "/a\nb\x1b[31m"}, "text")
    assert capsys.readouterr().err == "now path=/a\\nb\\x1b[31m\n"
