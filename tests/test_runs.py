import json
import os
import re
from xml.etree import ElementTree

import pytest

from minigpt.config import ModelConfig, OptimConfig, RunConfig, TrainConfig, to_toml
from minigpt.errors import UserError
from minigpt.serve.errors import ApiError
from minigpt.serve.runs import Runs, differences

from .test_report import BASELINES, row

SETTINGS = RunConfig(
    model=ModelConfig(vocab_size=50, n_layer=2), train=TrainConfig(steps=100), optim=OptimConfig(lr=1e-3)
)  # fmt: skip


def make_run(folder, name: str, *rows, settings: RunConfig = SETTINGS, end: str = ""):
    path = folder / name
    path.mkdir()
    (path / "run.toml").write_text(to_toml(settings))
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + end)
    return path


def learning(best: float, steps: int = 100, every: int = 20):
    """Return the rows of a run whose held-out loss falls to `best`."""
    rows = [row(0, baselines=BASELINES, val_loss=6.0, val_bits_per_byte=3.0)]
    for step in range(every, steps + 1, every):
        bits = 3.0 - (3.0 - best) * step / steps
        rows.append(row(step, val_loss=2 * bits, val_bits_per_byte=bits))
    return rows


def pictures(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path, "one", *learning(1.5))
    make_run(tmp_path, "two", *learning(2.0), settings=SETTINGS)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file.txt").write_text("x")
    os.utime(tmp_path / "one" / "run.toml", (1, 1))
    os.utime(tmp_path / "one" / "metrics.jsonl", (1, 1))
    return Runs(tmp_path)


def test_no_folder_has_no_runs(tmp_path):
    assert Runs(None).listed() == []
    assert Runs(tmp_path / "nothing").listed() == []
    assert Runs(tmp_path).listed() == []


def test_the_runs_of_a_folder_are_listed_the_youngest_first(runs):
    two, one = runs.listed()
    assert (one["name"], two["name"]) == ("one", "two")
    assert one["best"] == 1.5
    assert one["best_step"] == 100
    assert one["far"] == "100 steps, finished"
    assert one["share"] == 1.0
    assert not one["training"]
    assert "parameters" in one["shape"]


def test_a_folder_that_is_a_run_lists_itself(tmp_path):
    path = make_run(tmp_path, "alone", *learning(1.5))
    assert [line["name"] for line in Runs(path).listed()] == ["alone"]


@pytest.mark.parametrize(
    "name", ["..", "../one", "/etc", "one/", "no-run", "", "one\0", "x" * 10_000]
)
def test_a_name_is_looked_up_and_never_a_path(runs, name):
    for ask in (runs.view, runs.find, lambda name: runs.comparison([name])):
        with pytest.raises(ApiError, match="there is no run"):
            ask(name)


def test_a_run_is_shown_with_the_charts_of_its_report(runs):
    seen = runs.view("one")
    assert seen["far"] == "100 steps, finished"
    assert ["1.500", "bits per byte held out, at best (step 100)"] in seen["figures"]
    assert len(pictures(seen["charts"])) >= 5
    assert {name: here for name, here, _ in seen["changed"]}["train.steps"] == "100"
    names = [name for name, _, _ in seen["changed"]] + [name for name, _ in seen["others"]]
    assert len(names) == len(set(names))
    assert "<script" not in seen["charts"]
    assert "style=" not in seen["charts"]


def test_samples_are_text(tmp_path):
    path = make_run(tmp_path, "a", *learning(1.5))
    (path / "samples.txt").write_text("--- step 0\n<b>hello</b>\n\n--- step 50\nworld\n")
    assert Runs(tmp_path).view("a")["samples"] == [(0, "<b>hello</b>"), (50, "world")]


def test_names_of_runs_cannot_become_elements_of_the_page(tmp_path):
    make_run(tmp_path, "<img src=x onerror=alert(1)>", *learning(1.5))
    runs = Runs(tmp_path)
    (name,) = runs.names()
    assert "<img" not in runs.comparison([name])["charts"]
    assert "<img" not in runs.view(name)["charts"]


def test_a_run_that_goes_on_is_read_again(tmp_path):
    path = make_run(tmp_path, "live", *learning(1.5, steps=40), end='{"step": 50, "trai')
    runs = Runs(tmp_path)
    (path / ".lock.json").write_text("{}")
    before = runs.view("live")
    assert before["training"]
    assert before["far"] == "step 40 of 100"
    with (path / "metrics.jsonl").open("a") as file:
        file.write('n_loss": 1.0}\n')
    after = runs.view("live")
    assert after["far"] == "step 50 of 100"
    assert after["version"] != before["version"]
    assert runs.view("live")["version"] == after["version"]
    (path / ".lock.json").unlink()
    assert not runs.view("live")["training"]


def test_a_process_that_was_killed_is_not_training(tmp_path):
    path = make_run(tmp_path, "killed", *learning(1.5, steps=40))
    (path / ".lock.json").write_text("{}")
    for file in path.iterdir():
        os.utime(file, (1000, 1000))
    assert not Runs(tmp_path).view("killed")["training"]


def test_a_damaged_run_says_so_and_spoils_no_list(runs, tmp_path):
    (tmp_path / "two" / "run.toml").write_text("no = [toml")
    lines = {line["name"]: line for line in runs.listed()}
    assert "cannot be read as TOML" in lines["two"]["error"]
    assert lines["one"]["best"] == 1.5


def test_a_run_without_rows_is_shown(tmp_path):
    make_run(tmp_path, "new")
    seen = Runs(tmp_path).view("new")
    assert seen["far"] == "nothing logged yet"
    assert seen["judged"] == ""
    assert Runs(tmp_path).comparison(["new"])["without"] == ["new"]


@pytest.mark.parametrize(
    ("over", "words"), [("step", "step 60"), ("tokens", "tokens 3,840"), ("seconds", "30.0 s")]
)
def test_several_runs_stand_in_one_chart(runs, over, words):
    made = runs.comparison(["one", "two"], over)
    broad, narrow = pictures(made["charts"])
    for picture in (broad, narrow):
        styles = {
            line.get("class") for line in picture.iter("{http://www.w3.org/2000/svg}polyline")
        }
        assert styles == {"line run-0", "line run-1"}
    titles = [title.text for title in broad.iter("{http://www.w3.org/2000/svg}title")]
    assert f"{words} · one 2.1000 · two 2.4000" in titles
    assert made["unit"] == "bits per byte held out"
    assert [line["name"] for line in made["runs"]] == ["one", "two"]


def test_runs_without_bits_per_byte_are_compared_by_loss(runs, tmp_path):
    make_run(tmp_path, "old", row(10, val_loss=2.5))
    made = runs.comparison(["one", "old"])
    assert made["unit"] == "nats per token held out"
    assert made["without"] == []


def test_too_many_runs_are_refused(runs):
    with pytest.raises(UserError, match="at most 6"):
        runs.comparison(["one"] * 7)


def test_only_the_settings_that_differ_are_named():
    other = RunConfig(
        model=ModelConfig(vocab_size=50, n_layer=4),
        train=TrainConfig(steps=100),
        optim=OptimConfig(lr=1e-3),
    )
    assert differences([SETTINGS, other]) == [("model.n_layer", ["2", "4"])]
    assert differences([SETTINGS, SETTINGS]) == []
    assert differences([]) == []
