"""Going on from the weights of another model: what they are, what may be asked otherwise, and what is refused."""

import dataclasses
import json
import time
import tomllib
from pathlib import Path

import pytest
import torch

import minigpt
from minigpt import beginning
from minigpt.beginning import Beginning, as_begun, begin_with
from minigpt.cli import run
from minigpt.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from minigpt.errors import UserError
from minigpt.model.size import parameter_count
from minigpt.model.transformer import GPT
from minigpt.pretrain import prepare_run
from minigpt.rundir import RunDir
from minigpt.task import open_text
from minigpt.tokenizer import bpe_tokenizer

from .conftest import nonsense, tiny
from .test_pretrain import outcome, stop_after

MERGES = [(97, 116), (32, 99), (257, 97)]
IDS = torch.tensor([[116, 104, 101, 32, 256]])


@pytest.fixture(autouse=True)
def opened_anew():
    beginning._begin_with.cache_clear()


@pytest.fixture(params=["learned", "rope"])
def folder(request, tmp_path):
    """A model with a context of 16 and a tokenizer of its own."""
    return made(tmp_path / "model", request.param)


def made(place, position="rope", seed=0):
    torch.manual_seed(seed)
    tokenizer = bpe_tokenizer(MERGES)
    shape = tiny(vocab_size=tokenizer.vocab_size, block_size=16, position=position)
    GPT(shape).save_pretrained(place, tokenizer)
    return place


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(nonsense(2000))
    return path


def settings(folder, text, **fields) -> RunConfig:
    train = TrainConfig(
        init_from=str(folder), steps=6, batch_size=4, eval_every=3, eval_tokens=200, checkpoint_every=2, log_every=1,
        dtype="fp32", compile="off",
    )  # fmt: skip
    return RunConfig(train=train, data=DataConfig(source=str(text)), **fields)


def stopped(config, out):
    """Begin a run and have it stop after four steps."""
    job = prepare_run(config, out)
    stop_after(job, 4)
    with pytest.raises(KeyboardInterrupt):
        job.fit()


def test_a_run_begins_with_its_weights_shape_and_tokenizer(folder, text):
    config = as_begun(settings(folder, text))
    task = open_text(config, lambda line: None)
    config = task.settle(config)
    other, tokenizer = minigpt.load(folder)
    assert dataclasses.replace(config.model, dropout=0.0) == other.config
    assert task.tokenizer.fingerprint() == tokenizer.fingerprint()
    for _ in range(2):  # the second one is read again
        model = task.model(config, sharded=False)
        assert model.training
        torch.testing.assert_close(model(IDS), other(IDS))
    assert task.introduction(None, None)[0].startswith(f"the weights of {folder}")


def test_of_the_shape_dropout_and_a_shorter_context_may_be_asked_for(folder, text):
    own = minigpt.load(folder)[0]
    asked = dataclasses.replace(own.config, block_size=8, dropout=0.25)
    config = as_begun(settings(folder, text, model=asked))
    model = open_text(config, lambda line: None).model(config, sharded=False)
    assert (model.config.block_size, model.dropout.p) == (8, 0.25)
    torch.testing.assert_close(model.eval()(IDS), own(IDS))
    with pytest.raises(ValueError, match="block_size is 8"):
        model(torch.zeros(1, 9, dtype=torch.long))


def test_a_longer_context_needs_positions_that_are_not_learnt(text, tmp_path):
    learned, rope = made(tmp_path / "a", "learned"), made(tmp_path / "b", "rope")
    longer = dataclasses.replace(minigpt.load(learned)[0].config, block_size=32)
    with pytest.raises(UserError, match=r"block_size is 32, but .* has learnt 16 positions"):
        as_begun(settings(learned, text, model=longer))
    longer = dataclasses.replace(minigpt.load(rope)[0].config, block_size=32)
    config = as_begun(settings(rope, text, model=longer))
    model = open_text(config, lambda line: None).model(config, sharded=False)
    assert model(torch.zeros(1, 32, dtype=torch.long)).shape[1] == 32


def test_another_shape_is_refused(folder, text):
    other = dataclasses.replace(minigpt.load(folder)[0].config, n_layer=5)
    with pytest.raises(UserError, match=r"has n_layer 2, and \[model\] asks for something else"):
        as_begun(settings(folder, text, model=other))


def test_another_tokenizer_is_refused(folder, text):
    config = settings(folder, text)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer="char"))
    with pytest.raises(UserError, match="mean nothing without its own tokenizer"):
        open_text(as_begun(config), lambda line: None)


def test_what_has_no_tokenizer_is_refused(tmp_path):
    GPT(ModelConfig(vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="comes without a tokenizer"):
        Beginning(str(tmp_path), "trained further")


def test_a_run_that_was_stopped_ends_as_one_that_was_not(folder, text, tmp_path):
    config = settings(folder, text)
    minigpt.train(config, tmp_path / "whole")
    stopped(config, tmp_path / "parts")
    beginning._begin_with.cache_clear()
    minigpt.train(config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    rows = RunDir(tmp_path / "parts").metrics
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


def test_a_run_does_not_go_on_when_the_model_is_another(folder, text, tmp_path):
    config = settings(folder, text)
    stopped(config, tmp_path / "run")
    beginning._begin_with.cache_clear()
    made(folder, minigpt.load(folder)[0].config.position, seed=1)
    with pytest.raises(UserError, match=r"or the model .* has changed since"):
        prepare_run(config, tmp_path / "run")


def test_an_adapter_is_merged_first_and_a_template_that_is_left_behind_is_said(tuned, text):
    adapter = tuned["adapter"]
    config = as_begun(settings(adapter, text))
    said = open_text(config, lambda line: None).introduction(None, None)[0]
    assert "its chat template is left behind" in said
    model = open_text(config, lambda line: None).model(config, sharded=False)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model.eval()(ids), minigpt.load(adapter)[0](ids))


SHORT = [
    "--train.steps",
    "2",
    "--train.dtype",
    "fp32",
    "--train.compile",
    "off",
    "--train.eval-tokens",
    "100",
]


def test_on_the_command_line_it_has_a_preset_of_its_own(folder, text, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "--from", str(folder), "--data", str(text), "--out", str(out), *SHORT]
    assert run(time.monotonic(), [*words, "--model.block-size", "8"]) == 0
    said = capsys.readouterr().err
    assert f"the weights of {folder}, trained further" in said
    assert "knows nothing" not in said
    assert "before the first update it was" in said
    written = tomllib.loads((out / "run.toml").read_text())
    assert written["optim"]["lr"] == 1e-4
    assert (written["model"]["block_size"], written["model"]["n_embd"]) == (8, 32)
    assert Path(written["data"]["tokenizer"]).name == minigpt.load(folder)[1].fingerprint()
    assert written["train"]["init_from"] == str(folder)
    again = ["train", "--config", str(out / "run.toml"), "--out", str(tmp_path / "again")]
    assert run(time.monotonic(), again) == 0
    assert outcome(tmp_path / "again")[1] == outcome(out)[1]
    capsys.readouterr()
    assert run(time.monotonic(), [*words[:-2], *words[-2:], "--overfit"]) == 2
    assert "learns from nothing" in capsys.readouterr().err


def test_another_preset_takes_its_place_and_its_shape_must_fit(folder, text, tmp_path, capsys):
    words = ["train", "--from", str(folder), "--data", str(text), "--preset", "demo"]
    assert run(time.monotonic(), [*words, "--out", str(tmp_path / "run")]) == 2
    assert "leave all of [model] out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_plan_reckons_with_its_shape(folder, text, capsys):
    words = ["plan", "--from", str(folder), "--data", str(text), "--no-trial", "--json"]
    assert run(time.monotonic(), words) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    shape = minigpt.load(folder)[0].config
    assert facts["parameters"] == parameter_count(shape)
    assert facts["first_loss_nats_per_token"] is None
    assert (facts["context_tokens"], facts["vocabulary_rows"]) == (16, shape.vocab_size)


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_an_empty_name_is_no_run_from_nothing(verb, text, capsys):
    assert run(time.monotonic(), [verb, "--from", " ", "--data", str(text)]) == 2
    assert "--from is empty" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(text, capsys):
    words = ["train", "--from", "nowhere", "--data", str(text)]
    assert run(time.monotonic(), words) == 2
    assert "there is no model at nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_file_of_weights_will_do_where_its_tokenizer_lies_beside_it(
    text, tmp_path, with_tokenizer
):
    place = made(tmp_path / "model", "learned")
    path = tmp_path / "weights" / "model.pth"
    path.parent.mkdir()
    assert run(time.monotonic(), ["export", str(place), "--to", "pth", "--out", str(path)]) == 0
    tokenizer = minigpt.load(place)[1]
    if with_tokenizer:
        tokenizer.save(path.parent)
        config = as_begun(settings(path, text))
        assert open_text(config, lambda line: None).tokenizer.pieces == tokenizer.pieces
    else:
        for beside in path.parent.glob("tokenizer*"):
            beside.unlink()
        with pytest.raises(UserError, match="comes without a tokenizer"):
            as_begun(settings(path, text))


def test_a_run_is_not_written_where_the_model_lies(folder, text):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="is the model that the run begins with"):
        minigpt.train(settings(folder, text), folder, again=True)
    assert (folder / "model.safetensors").read_bytes() == before


def test_the_context_alone_may_be_asked_for_from_python_too(folder, text):
    config = as_begun(settings(folder, text, model=ModelConfig(block_size=8, dropout=0.5)))
    own = minigpt.load(folder)[0].config
    assert config.model == dataclasses.replace(own, block_size=8, dropout=0.5)


def test_a_model_that_was_written_anew_is_opened_anew(folder, text):
    first = begin_with(str(folder))
    assert begin_with(str(folder)) is first
    made(folder, minigpt.load(folder)[0].config.position, seed=1)
    first.model()
    with pytest.raises(UserError, match="has changed since it was opened"):
        first.model()
    assert begin_with(str(folder)).fingerprint != first.fingerprint


def test_a_model_that_has_moved_is_known_by_what_it_is(folder, text, tmp_path):
    config = settings(folder, text)
    stopped(config, tmp_path / "run")
    moved = folder.rename(tmp_path / "elsewhere")
    assert minigpt.train(settings(moved, text), tmp_path / "run")


def test_it_is_not_for_tuning(folder, text):
    config = settings(folder, text)
    train = dataclasses.replace(config.train, base=str(folder))
    with pytest.raises(UserError, match="belongs to minigpt train"):
        as_begun(dataclasses.replace(config, train=train))
