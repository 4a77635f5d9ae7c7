"""The server under load, its benchmark, and what the command line refuses."""

import http.client
import importlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from minigpt import cli
from minigpt.bench import serve as bench
from minigpt.config import ModelConfig
from minigpt.errors import UserError

from .serving import BYTES, drawn

CLIENTS = 64


def test_64_clients_at_once_get_the_texts_that_they_would_get_alone(world):
    def ask(number: int) -> str:
        prompt = "the cat sat on the mat"[: 3 + number % 20]
        status, _, body = world.complete(
            prompt, max_tokens=5 + number % 20, seed=number, temperature=0.7
        )
        assert status == 200
        return body["choices"][0]["text"]

    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(ask, range(CLIENTS)))
    assert together == [ask(number) for number in range(CLIENTS)]
    assert len(set(together)) > CLIENTS // 2


@pytest.mark.slow
def test_many_clients_get_more_tokens_together_than_one(monkeypatch):
    shape = ModelConfig(vocab_size=512, block_size=128, n_layer=2, n_head=4, n_embd=64)
    monkeypatch.setattr(bench, "SERVED", {"tiny": shape})
    said = []
    rows = bench.bench_serve(
        shapes=["tiny"], clients=(1, 16), tokens=32, requests=2, say=said.append
    )
    found = {row["what"]: row["value"] for row in rows}
    assert found.keys() == {
        "tokens tiny x 1", "first token tiny x 1", "tokens tiny x 16", "first token tiny x 16",
    }  # fmt: skip
    assert found["tokens tiny x 16"] > found["tokens tiny x 1"]
    assert said == ["tiny, 1 at once …", "tiny, 16 at once …"]


def test_a_shape_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="--shape 13b is not known; wanted tiny, 12m"):
        bench.bench_serve(shapes=["13b"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    drawn().save_pretrained(folder / "m", BYTES)
    (folder / "empty").write_text("\n")
    (folder / "keys").write_text("a-good-long-key\n")
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("m --host 0.0.0.0", "--host 0.0.0.0 can be reached from other machines"),
        ("m --host ::", "give --api-key-file FILE, or --insecure if that is meant"),
        ("m --api-key-file empty", "empty is empty; write a key into it"),
        ("m --api-key-file nothing", "nothing does not exist"),
        ("m --allow-origin page.example", "--allow-origin page.example is no origin"),
        ("m --log xml", "--log is xml; wanted text, json or none"),
        ("m --slots 0", "--slots is 0; wanted at least 1"),
        ("m --queue -1", "--queue is -1; wanted at least 0"),
        ("m --port 70000", "--port is 70000"),
        ("nothing", "there is no model at"),
        ("m m", "two models are called m; name one of them: OTHER=m"),
        ("nothing nothing", "two models are called nothing"),
        ("=m", "=m is no NAME=RUN"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(
    folder, options, said, capsys, monkeypatch
):
    monkeypatch.chdir(folder)
    port = [] if "--port" in options else ["--port", "0"]
    status = cli.run(time.monotonic(), ["serve", *options.split(), *port, "--dtype", "fp32"])
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert (status, said in complaint) == (2, True), complaint


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr("minigpt.extras.version_of", lambda package: None)
    assert cli.run(time.monotonic(), ["serve", str(folder / "m")]) == 2
    assert "pip install 'minigpt[serve]'" in capsys.readouterr().err


def test_a_stop_that_comes_while_it_answers_leaves_status_0(folder, capsys, monkeypatch):
    running = importlib.import_module("minigpt.serve.running")

    def serve(app, settings, at, ready):
        ready()
        assert settings.keys == ("a-good-long-key",)
        assert at.getsockname()[1] != 0

    monkeypatch.setattr(running, "serve", serve)
    monkeypatch.chdir(folder)
    options = ["a=m", "b=m", "--port", "0", "--host", "0.0.0.0", "--api-key-file", "keys", "--json"]
    assert cli.run(time.monotonic(), ["serve", *options, "--dtype", "fp32"]) == 0
    out, said = capsys.readouterr()
    assert json.loads(out)["models"] == ["a", "b"]
    assert "a-good-long-key" not in out + said
    assert "listening on http://0.0.0.0:" in said


def test_one_connection_serves_one_request_after_the_other(world):
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    for _ in range(3):
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        assert len(json.loads(answer.read())["data"]) == 3
    connection.close()
