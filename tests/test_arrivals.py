import doctest
import http.client
import json
import socket
import tempfile
from urllib.parse import quote

import pytest
import torch

from minigpt.errors import UserError
from minigpt.interop.pth import write_pth
from minigpt.serve import arrivals
from minigpt.serve.site import Site
from minigpt.serve.uploads import Bounds

from .serving import BYTES, PATIENCE, World, drawn, until
from .serving import world as serve
from .test_portal import WRONG, zipped

BOUNDS = Bounds(bytes=3_000_000, models=2)


@pytest.fixture(scope="module")
def here():
    with serve(Site(bounds=BOUNDS), body_seconds=1.0) as running:
        yield running


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """The folder in which uploads get theirs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """The bytes of a file of weights that knows its shape, and of its tokenizer."""
    folder = tmp_path_factory.mktemp("weights")
    model = drawn(7)
    write_pth(folder / "weights.pth", model.config, model.state_dict())
    BYTES.save(folder)
    return (folder / "weights.pth").read_bytes(), (folder / "tokenizer.json").read_bytes()


def send(world: World, body: bytes, query: str = "name=mine.pth"):
    """Return the lines that an upload is answered with, or its refusal."""
    status, _, found = world.ask("POST", f"/api/upload?{query}", body)
    if status != 200:
        return status, found["error"]["message"]
    return [json.loads(line) for line in found.splitlines()]


def take_away(world: World, name: str):
    return world.ask("DELETE", f"/api/upload?model={name}")


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(arrivals).failed == 0


def test_a_model_that_is_brought_answers_until_it_is_removed(here, disk, model_file):
    weights, tokenizer = model_file
    lines = send(here, tokenizer + weights, f"name=mine.pth&tokenizer={len(tokenizer)}")
    assert [line["stage"] for line in lines] == ["unpack", "blueprint", "mapping", "ready"]
    assert "parameters" in lines[1]["sentences"][0]
    name = lines[-1]["model"]
    assert list(disk.iterdir()) == []
    _, _, listed = here.ask("GET", "/api/models")
    (mine,) = [one for one in listed["models"] if one["id"] == name]
    assert (mine["label"], mine["uploaded"]) == ("mine.pth", True)
    wanted = {"prompt": "hello", "model": name, "max_tokens": 8, "seed": 1}
    _, _, answer = here.ask("POST", "/v1/completions", wanted)
    assert answer["usage"]["completion_tokens"] > 0
    assert take_away(here, name)[0] == 200
    assert here.ask("POST", "/v1/completions", wanted)[0] == 404
    assert take_away(here, name)[0] == 404


def test_a_zipped_run_arrives_and_only_so_many_are_kept(here, disk, trained):
    data = zipped(trained)
    names = [send(here, data, "name=run.zip")[-1]["model"] for _ in range(BOUNDS.models)]
    status, words = send(here, data)
    assert status == 409
    assert "remove one of them" in words
    for name in names:
        assert take_away(here, name)[0] == 200
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_ends_with_a_sentence_and_leaves_nothing(here, disk, case):
    lines = send(here, WRONG[case][0])
    assert lines[0]["stage"] == "unpack"
    assert "error" in lines[-1]
    assert str(disk) not in lines[-1]["error"]
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../evil.pth", "/etc/passwd", "..", "a\0b", "<img src=x>", "x" * 900]
)
def test_no_name_reaches_the_file_system(here, disk, name):
    lines = send(here, b"nothing", f"name={quote(name)}")
    assert "error" in lines[-1]
    assert list(disk.iterdir()) == []
    assert [path.name for path in disk.parent.iterdir()] == [disk.name]


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        (b"", "", 400), (b"abc", "tokenizer=3", 400), (b"abc", "tokenizer=9", 413), (b"abc", "settings=99999999", 413),
        (b"abc", "tokenizer=-1", 400), (b"abc", "tokenizer=x", 400), (b"abc", "n_head=0", 400),
        (bytes(3_000_001), "", 413),
    ],
)  # fmt: skip
def test_what_cannot_be_an_upload_is_refused(here, disk, body, query, status):
    assert send(here, body, query)[0] == status
    assert list(disk.iterdir()) == []


def begun(world: World, said: str, data: bytes = b"") -> socket.socket:
    """Return a connection on which an upload has begun."""
    made = socket.create_connection(("127.0.0.1", world.port), timeout=PATIENCE)
    head = f"POST /api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n{said}\r\n\r\n"
    made.sendall(head.encode() + data)
    return made


def test_one_upload_at_a_time_and_who_goes_away_leaves_nothing(here, disk):
    with begun(here, "Content-Length: 1000000", b"some"):
        until(lambda: list(disk.iterdir()))
        status, words = send(here, b"other")
        assert status == 429
        assert "another upload" in words
    until(lambda: not list(disk.iterdir()))
    until(lambda: isinstance(send(here, b"other"), list))


def test_an_upload_that_stops_coming_is_given_up(here, disk):
    with begun(here, "Content-Length: 1000000", b"some") as waiting:
        answer = waiting.recv(65536)
    assert b"408" in answer.split(b"\r\n")[0]
    until(lambda: not list(disk.iterdir()))


def test_a_body_without_a_length_is_counted(here, disk):
    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=PATIENCE)
    chunks = (bytes(500_000) for _ in range(7))
    connection.request(
        "POST", "/api/upload", chunks, {"Transfer-Encoding": "chunked"}, encode_chunked=True
    )
    assert connection.getresponse().status == 400
    connection.close()
    until(lambda: not list(disk.iterdir()))


def test_weights_that_are_not_finite_are_refused_by_name(here, disk, model_file, tmp_path):
    model = drawn(7)
    with torch.no_grad():
        model.embedding.weight[0, 0] = float("inf")
    file = tmp_path / "weights.pth"
    write_pth(file, model.config, model.state_dict())
    data, tokenizer = file.read_bytes(), model_file[1]
    lines = send(here, tokenizer + data, f"name=mine.pth&tokenizer={len(tokenizer)}")
    assert "not finite" in lines[-1]["error"]
    assert lines[-1]["error"].startswith("mine.pth")
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("error", [UserError("the engine refuses it"), RuntimeError("a defect")])
def test_what_goes_wrong_at_the_last_stage_ends_with_a_sentence(
    here, disk, trained, monkeypatch, caplog, error
):
    def refusing(*_, **__):
        raise error

    monkeypatch.setattr(here.models, "add", refusing)
    last = send(here, zipped(trained), "name=run.zip")[-1]
    is_ours = isinstance(error, RuntimeError)
    wanted = "run.zip cannot be loaded; the log of the server says why" if is_ours else str(error)
    assert last == {"error": wanted}
    assert ("RuntimeError: a defect" in caplog.text) == is_ours
    assert list(disk.iterdir()) == []
