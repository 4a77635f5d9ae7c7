import dataclasses
import re
import time
from html.parser import HTMLParser

import pytest

import minigpt
from minigpt.cli import run
from minigpt.config import SampleConfig
from minigpt.interop.loading import load_both
from minigpt.serve import site
from minigpt.serve.runs import Runs
from minigpt.serve.site import Site, drawing_settings, files

from .serving import world as serve

OWN = re.compile(r"/page/[\w.]+")


class Markup(HTMLParser):
    """What a page refers to, its ids, and what a strict policy would refuse in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references, self.ids, self.inline = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.references += [v for k, v in attrs if k in ("src", "href", "action", "srcset")]
        self.ids += [named["id"]] if "id" in named else []
        self.inline += [k for k in named if k.startswith("on") or k == "style"]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in named) else []


def get(world, path, **headers):
    return world.ask("GET", path, headers=headers)


def test_the_page_has_only_files_of_its_own_and_nothing_inline():
    page = Markup(files()["index.html"].decode())
    assert page.inline == []
    assert len(page.ids) == len(set(page.ids))
    for reference in page.references:
        assert reference.startswith("#") or OWN.fullmatch(reference)
        assert reference.startswith("#") or reference.removeprefix("/page/") in files()


@pytest.mark.parametrize(
    "name", [name for name in files() if name.endswith((".js", ".css", ".svg"))]
)
def test_no_file_of_the_page_knows_another_place(name):
    text = files()[name].decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"https?:|//\w+\.\w|@import|url\(|eval\(|innerHTML|outerHTML|document\.write", text
    )
    for imported in re.findall(r'from "([^"]+)"', text):
        assert OWN.fullmatch(imported)
        assert imported.removeprefix("/page/") in files()


def test_every_element_that_the_scripts_ask_for_is_there():
    ids = set(Markup(files()["index.html"].decode()).ids)
    for name, content in files().items():
        if name.endswith(".js") and name != "look.js":
            asked = re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', content.decode())
            assert set(asked) <= ids, name


def test_the_page_comes_with_a_strict_policy(paged):
    for path in ("/", "/page/page.js", "/page/look.js", "/page/house.css"):
        status, headers, _ = get(paged, path)
        assert status == 200
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/nothing.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/%2fetc"],
)  # fmt: skip
def test_a_name_that_is_no_file_of_the_page_leads_nowhere(paged, path):
    assert get(paged, path)[0] == 404


def test_all_settings_of_drawing_are_told_with_their_own_sentences(paged):
    _, _, facts = get(paged, "/api/page")
    known = {item.name: item for item in dataclasses.fields(SampleConfig)}
    named = [one["name"] for one in facts["settings"]]
    assert set(known) - set(named) == {"prompt", "num_samples", "greedy"}
    for one in facts["settings"]:
        assert one["doc"] == known[one["name"]].metadata["doc"]
        assert one["default"] == known[one["name"]].default or one["kind"] == "texts"
    kinds = {one["name"]: one["kind"] for one in facts["settings"]}
    assert (kinds["top_k"], kinds["top_p"], kinds["stop"], kinds["on_full"]) == (
        "integer",
        "number",
        "texts",
        "choice",
    )
    assert facts["upload"]["words"] == "2 GiB"


def test_a_request_takes_every_setting_that_is_told(paged):
    settings = {one["name"]: one["default"] for one in drawing_settings(100)}
    status, _, answer = paged.complete(**settings | {"max_tokens": 2, "model": "plain"})
    assert status == 200, answer


def test_the_models_say_what_they_can(paged):
    _, _, found = get(paged, "/api/models")
    by_id = {one["id"]: one for one in found["models"]}
    assert list(by_id) == ["plain", "chat", "letters", "trained"]
    assert by_id["chat"]["chat"]
    assert not by_id["plain"]["chat"]
    assert by_id["trained"]["prompt"] == "the "
    assert by_id["letters"]["looks"] == 32
    assert not by_id["trained"]["uploaded"]


def written(paged, path, **body):
    status, _, found = paged.ask("POST", path, {"return_token_ids": True, "seed": 5} | body)
    assert status == 200, found
    return found["choices"][0]


@pytest.mark.parametrize("kind", ["write", "chat"])
def test_alternatives_are_those_of_the_text_that_was_written(paged, kind):
    settings = {"temperature": 0.7, "top_k": 20, "max_tokens": 6, "seed": 5}
    if kind == "write":
        model, asked = "trained", {"prompt": "the cat"}
        choice = written(paged, "/v1/completions", model=model, **asked, **settings)
    else:
        model, said = "chat", [{"role": "user", "content": "hello"}]
        choice = written(paged, "/v1/chat/completions", model="chat", messages=said, **settings)
    prompt, drawn = choice["prompt_token_ids"], choice["token_ids"]
    assert len(drawn) in range(1, 7)
    for place, token in enumerate(drawn):
        body = {
            "model": model, "ids": prompt + drawn[: place + 1], "begin": len(prompt), "settings": settings
        }  # fmt: skip
        status, _, found = paged.ask("POST", "/api/alternatives", body)
        assert status == 200, found
        (taken,) = [one for one in found["candidates"] if one["id"] == token]
        assert found["token"] == token
        assert taken["cut"] is None
        assert [step["name"] for step in found["steps"]] == ["temperature", "top_k"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": [1, 999]}, "below 259"),
        ({"begin": 2}, "at most 1"),
        ({"begin": 0}, "begin"),
        ({"ids": [1]}, "ids"),
        ({"ids": [1, -1]}, "ids"),
        ({"model": "nothing"}, "no model"),
        ({"settings": {"temperature": -1}}, "wanted at least"),
        ({"settings": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"more": 1}, "more"),
    ],
)
def test_alternatives_to_what_cannot_be_are_refused(paged, change, words):
    body = {"model": "plain", "ids": [1, 2], "begin": 1} | change
    status, _, found = paged.ask("POST", "/api/alternatives", body)
    assert status in (400, 404)
    assert words in found["error"]["message"]


def test_the_views_are_those_of_look(paged, trained):
    status, _, found = paged.ask("POST", "/api/look", {"model": "trained", "text": "the cat sat"})
    assert status == 200
    assert found["tokens"] == minigpt.look(*load_both(trained), "the cat sat").packed["tokens"]
    assert found.keys() == minigpt.look(*load_both(trained), "the cat sat").packed.keys()


def test_an_empty_text_is_not_looked_at(paged):
    status, _, found = paged.ask("POST", "/api/look", {"text": ""})
    assert status == 400
    assert "empty" in found["error"]["message"]


def test_the_runs_of_the_folder_are_shown(paged):
    _, _, found = get(paged, "/api/runs")
    assert {one["name"] for one in found["runs"]} == {"trained", "live"}
    _, _, one = get(paged, "/api/runs/shown?name=trained")
    assert "<svg" in one["charts"]
    _, _, both = get(paged, "/api/runs/compared?name=trained&name=live&over=tokens")
    assert [one["name"] for one in both["runs"]] == ["trained", "live"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("shown?name=..%2f..", 404), ("shown?name=%2fetc", 404), ("compared?name=x", 404),
        ("shown", 400), ("compared", 400), ("compared?name=live&over=date", 400),
    ],
)  # fmt: skip
def test_a_run_that_is_not_there_is_refused(paged, path, status):
    assert get(paged, f"/api/runs/{path}")[0] == status


def test_with_a_key_only_the_files_of_the_page_are_open(tmp_path):
    with serve(Site(Runs(tmp_path)), keys=("a-long-secret",)) as world:
        for path in ("/", "/page/page.js"):
            assert get(world, path)[0] == 200
        for path in ("/api/page", "/api/models", "/api/runs", "/api/runs/shown?name=a"):
            assert get(world, path)[0] == 401
            assert get(world, path, Authorization="Bearer a-long-secret")[0] in (200, 404)
        assert world.ask("POST", "/api/upload", b"x")[0] == 401
        assert world.ask("POST", "/api/look", {"text": "a"})[0] == 401


def test_a_page_of_another_place_may_not_bring_or_ask_anything(paged):
    for method, path in (
        ("POST", "/api/upload"),
        ("POST", "/api/look"),
        ("DELETE", "/api/upload?model=a"),
    ):
        status, _, _ = paged.ask(method, path, b"{}", {"Origin": "http://evil.example"})
        assert status == 403


def test_only_a_framed_page_may_be_shown_in_a_frame():
    assert site.POLICY.format(site.ANYWHERE).endswith("frame-ancestors * vscode-webview: file:")


def test_a_folder_of_runs_that_is_not_there_is_refused(trained, capsys):
    status = run(
        time.monotonic(), ["serve", str(trained), "--port", "0", "--runs", "no/such/folder"]
    )
    assert status == 2
    assert "--runs no/such/folder is no folder" in capsys.readouterr().err
