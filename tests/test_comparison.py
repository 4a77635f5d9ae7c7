import shutil

import pytest

from minigpt.data.tokens import tokens_of_text
from minigpt.errors import UserError
from minigpt.evaluate.comparison import as_table, compare
from minigpt.evaluate.measure import measure, tokens_of
from minigpt.pretrain import train

from .conftest import small_run
from .test_pretrain import changed

KNOWN = {"loss": 2.0, "bits_per_byte": 3.0, "bits_per_char": 3.5}
FOUND = KNOWN | {
    "perplexity": 7.39,
    "tokens": 12345,
    "seconds": 1.23,
    "loss_stderr": 0.0123,
    "bits_per_byte_stderr": None,
    "baselines": {"bigram": KNOWN | {"bits_per_byte": 3.25}},
}
HEAD = ["loss", "perplexity", "bits/byte", "bits/char", "tokens", "seconds"]


@pytest.fixture(scope="module")
def runs(small_text, tmp_path_factory):
    """A model of characters, one of other weights, and one of pairs of bytes, of the same text."""
    folder = tmp_path_factory.mktemp("runs")
    config = small_run(small_text)
    pieces = changed(config, data={"tokenizer": "bpe", "vocab_size": 300})
    return (
        train(config, folder / "a"),
        train(changed(config, train={"seed": 5}), folder / "b"),
        train(pieces, folder / "c"),
    )


def test_each_run_is_held_against_the_first(runs):
    first, second, third = compare(runs)
    assert "difference" not in first
    assert first["loss"] == measure(runs[0])["loss"]
    assert second["difference"]["to"] == str(runs[0])
    assert second["difference"]["loss"] == second["loss"] - first["loss"]
    assert second["difference"]["paired_by"] == "windows"
    assert third["difference"]["paired_by"] == "bytes"
    error = third["difference"]["bits_per_byte_stderr"]
    apart = third["bits_per_byte_stderr"] ** 2 + first["bits_per_byte_stderr"] ** 2
    assert 0 < error < apart**0.5  # what is hard for both cancels


def test_any_text_measures_any_tokenizer(runs):
    text = "the cat sat on the mat.\n" * 40

    def ids(tokenizer):
        return tokens_of_text([(True, text)], tokenizer)

    found = compare((runs[0], runs[2]), ids, stride=4)
    assert found[1]["difference"]["paired_by"] == "bytes"
    assert [one["baselines"] for one in found] == [{}, {}]


def test_runs_of_different_texts_are_refused(runs, small_config, tmp_path):
    (tmp_path / "other.txt").write_text("the cat ran home. " * 300)
    other = train(
        changed(small_config, data={"source": str(tmp_path / "other.txt")}), tmp_path / "other"
    )
    with pytest.raises(UserError, match="have held out different texts"):
        compare((runs[0], other))


def test_a_model_of_others_beside_a_run_needs_a_text(runs, tmp_path):
    foreign = tmp_path / "foreign"
    ignored = shutil.ignore_patterns("run.toml", "data.json", "checkpoints")
    shutil.copytree(runs[0], foreign, ignore=ignored)
    with pytest.raises(UserError, match="does not say what it was trained on"):
        compare((runs[0], foreign))
    tokens = tokens_of(runs[0]).val[:]
    found = compare((runs[0], foreign), lambda tokenizer: tokens)
    assert found[1]["difference"]["bits_per_byte_stderr"] == 0


def test_a_table_lines_up():
    lines = as_table(["runs/a"], [FOUND]).splitlines()
    assert lines[0].split() == HEAD
    figures = ["runs/a", "2.0000", "±", "0.0123", "7.39", "3.0000", "3.5000", "12,345", "1.2"]
    assert lines[1].split() == figures
    assert lines[2].split() == ["bigram", "2.0000", "7.39", "3.2500", "3.5000"]
    assert lines[1].index("2.0000") == lines[2].index("2.0000")
    assert lines[3:] == ["", "runs/a beats the bigram by 0.25 bits per byte"]


def test_several_make_one_table_with_differences():
    known = {"to": "a", "bits_per_byte": -0.5, "bits_per_byte_stderr": 0.1, "pairs": 1234}
    found = [FOUND, FOUND | {"difference": known | {"paired_by": "windows"}}]
    lines = as_table(["a", "b"], found).splitlines()
    assert lines[0].split() == [*HEAD, "to", "the", "first"]
    assert lines[3].split()[-3:] == ["-0.5000", "±", "0.1000"]
    assert sum(line.startswith("  bigram") for line in lines) == 1
    said = (
        "b is better than a, as far as this text can tell (standard error paired by 1,234 windows"
    )
    assert lines[-1].startswith(said)


@pytest.mark.parametrize(
    ("gain", "error", "said"),
    [(0.5, 0.1, "is worse than a"), (0.15, 0.1, "is no better or worse than a"), (-0.5, None, "is no better")],
)  # fmt: skip
def test_a_difference_within_its_error_is_none(gain, error, said):
    known = {"to": "a", "bits_per_byte": gain, "bits_per_byte_stderr": error, "pairs": 0}
    found = FOUND | {"difference": known | {"paired_by": None}}
    line = as_table(["a", "b"], [FOUND, found]).splitlines()[-1]
    assert f"b {said}" in line
    assert "not paired" in line
