import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import minigpt
from minigpt.errors import UserError
from minigpt.evaluate.measure import measure, tokens_of
from minigpt.pretrain import train
from minigpt.rundir import RunDir

from .test_pretrain import changed


@pytest.fixture
def run(small_config, tmp_path):
    return train(small_config, tmp_path / "run")


def test_the_whole_held_out_part_is_measured_beside_its_baselines(run):
    found = measure(run)
    assert found["tokens"] == len(tokens_of(run).val) - 1
    assert list(found["baselines"]) == ["uniform", "unigram", "bigram", "mlp", "trigram"]
    assert found["loss"] < found["baselines"]["uniform"]["loss"]
    assert measure(run)["loss"] == found["loss"]


def test_a_run_says_and_eval_measures_the_same(small_config, tmp_path, capsys, monkeypatch):
    """Loss and baselines, on a text of which only the beginning is counted, in windows as long as the run's own."""
    monkeypatch.setattr("minigpt.evaluate.measure.LONGEST_WINDOW", 5)
    monkeypatch.setattr("minigpt.evaluate.baselines.MOST_COUNTED", 100)
    run = train(small_config, tmp_path / "run")
    said = float(capsys.readouterr().err.split("held-out loss ")[1].split()[0])
    found = measure(run)
    assert abs(found["loss"] - said) < 1e-4
    assert found["baselines"] == RunDir(run).metrics[0]["baselines"]


def test_a_model_of_others_is_measured_in_windows_of_a_common_length(run, tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    shutil.copytree(run, foreign, ignore=shutil.ignore_patterns("run.toml", "checkpoints"))
    tokens = tokens_of(run).val[:]
    whole = measure(foreign, lambda tokenizer: tokens)
    assert whole["loss"] == pytest.approx(measure(run)["loss"])
    monkeypatch.setattr("minigpt.evaluate.measure.LONGEST_WINDOW", 5)
    assert measure(foreign, lambda tokenizer: tokens)["loss"] > whole["loss"]


def test_a_run_is_measured_as_it_was_trained(small_config, tmp_path, capsys):
    text = tmp_path / "documents.txt"
    text.write_text("<|endoftext|>".join(["the cat sat on the mat. " * 4] * 30))
    config = changed(small_config, data={"source": str(text), "documents": "separate"})
    run = train(config, tmp_path / "run")
    said = float(capsys.readouterr().err.split("held-out loss ")[1].split()[0])
    assert abs(measure(run)["loss"] - said) < 1e-4


def test_a_checkpoint_knows_its_run_from_inside(run, monkeypatch):
    monkeypatch.chdir(run / "checkpoints" / "step-00000024")
    assert measure(Path())["tokens"] == measure(run)["tokens"]


def test_without_the_cache_the_tokens_are_made_again(run, monkeypatch, tmp_path):
    kept = measure(run)["loss"]
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "empty"))
    assert measure(run)["loss"] == kept


def test_without_the_cache_a_changed_text_is_refused(run, small_config, monkeypatch, tmp_path):
    toml = (run / "run.toml").read_text()
    (tmp_path / "other.txt").write_text("a cat " * 500)
    (run / "run.toml").write_text(
        toml.replace(small_config.data.source, str(tmp_path / "other.txt"))
    )
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="has changed; pass the text to measure on with --data"):
        measure(run)


def test_a_model_that_no_run_made_needs_a_text(run, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(
        run, foreign, ignore=shutil.ignore_patterns("run.toml", "data.json", "checkpoints")
    )
    with pytest.raises(UserError, match="does not say what it was trained on"):
        measure(foreign)


@torch.no_grad()
def test_the_numbers_are_those_of_the_logits(run):
    """Loss, bits per byte and their standard errors, from the logits of a model loaded as any program would."""
    found, (model, tokenizer) = measure(run), minigpt.load(run)
    tokens = tokens_of(run).val[:].astype(int)
    context, bits, sizes = model.config.block_size, [], []
    for start in range(0, len(tokens) - 1, context):
        window = torch.tensor(tokens[start : start + context + 1])[None]
        chances = model(window[:, :-1]).log_softmax(-1).gather(-1, window[:, 1:, None])
        bits.append(-chances.double().sum().item() / math.log(2))
        sizes.append(sum(len(tokenizer.pieces[i]) for i in window[0, 1:].tolist()))
    bits, sizes = np.array(bits), np.array(sizes)
    per_byte = bits.sum() / sizes.sum()
    left = bits - per_byte * sizes
    count = len(bits)
    error = math.sqrt(count / (count - 1) * (left**2).sum()) / sizes.sum()
    assert found["bits_per_byte"] == pytest.approx(per_byte, rel=1e-5)
    assert found["bits_per_byte_stderr"] == pytest.approx(error, rel=1e-4)
    assert found["loss"] == pytest.approx(bits.sum() * math.log(2) / found["tokens"], rel=1e-5)


def test_a_stride_gives_each_token_more_to_go_by(run):
    found = measure(run, stride=4)
    assert found["tokens"] == measure(run)["tokens"]
    assert found["stride"] == 4
    assert found["loss"] < measure(run)["loss"]


def test_what_less_precision_costs_is_paired(run):
    decoded = measure(run, precision="int8")["decoded"]
    assert decoded["difference"]["paired_by"] == "windows"
    assert decoded["difference"]["bits_per_byte_stderr"] < decoded["bits_per_byte_stderr"] / 2
