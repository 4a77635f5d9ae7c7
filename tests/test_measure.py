import shutil
from pathlib import Path

import pytest

from minigpt.errors import UserError
from minigpt.evaluate.measure import as_table, measure, tokens_of
from minigpt.pretrain import train
from minigpt.rundir import RunDir

from .test_pretrain import changed


@pytest.fixture
def run(small_config, tmp_path):
    return train(small_config, tmp_path / "run")


def test_the_whole_held_out_part_is_measured_beside_its_baselines(run):
    found = measure(run)
    assert found["tokens"] == len(tokens_of(run).val) - 1
    assert list(found["baselines"]) == ["uniform", "unigram", "bigram"]
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


def test_a_table_lines_up():
    known = {"loss": 2.0, "bits_per_byte": 3.0, "bits_per_char": 3.5}
    found = known | {
        "perplexity": 7.39,
        "tokens": 12345,
        "seconds": 1.23,
        "baselines": {"bigram": known},
    }
    lines = as_table({"runs/a": found}).splitlines()
    assert lines[0].split() == ["loss", "perplexity", "bits/byte", "bits/char", "tokens", "seconds"]
    assert lines[1].split() == ["runs/a", "2.0000", "7.39", "3.0000", "3.5000", "12,345", "1.2"]
    assert lines[2].split() == ["bigram", "2.0000", "7.39", "3.0000", "3.5000"]
    assert lines[1].index("2.0000") == lines[2].index("2.0000")
