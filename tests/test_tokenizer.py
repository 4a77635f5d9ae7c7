import subprocess

import pytest

from minigpt.bench import tokenizer as module
from minigpt.bench.rows import as_table, row
from minigpt.bench.tokenizer import bench_tokenizer
from minigpt.errors import UserError
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import nonsense

PREPARE = "minigpt prepare, file to shards"


@pytest.fixture
def without_the_command(monkeypatch):
    """Leave out the row for which a process of its own is started."""
    row = {"what": PREPARE, "who": "minigpt", "value": 1.0, "unit": "MB/s"}
    monkeypatch.setattr(module, "_whole_command", lambda texts, size, made, say: row)


def test_ours_and_the_libraries_are_measured_side_by_side(small_text):
    lines = []
    rows = bench_tokenizer(
        str(small_text), vocab_size=300, peers=["tokenizers", "tiktoken"], say=lines.append
    )
    assert [(row["what"], row["who"], row["unit"]) for row in rows] == [
        ("training", "minigpt", "s"),
        ("training", "tokenizers", "s"),
        ("encoding", "minigpt", "MB/s"),
        ("encoding", "tokenizers", "MB/s"),
        ("encoding", "tiktoken", "MB/s"),
        (PREPARE, "minigpt", "MB/s"),
    ]
    assert all(row["value"] > 0 for row in rows)
    assert lines[0].startswith("0.0 MB of ")
    assert as_table(rows).count("x ours") == 3


@pytest.mark.usefixtures("without_the_command")
def test_alone_there_are_only_our_rows(small_text):
    rows = bench_tokenizer(str(small_text), vocab_size=300)
    assert [row["what"] for row in rows] == ["training", "encoding", PREPARE]
    assert {row["who"] for row in rows} == {"minigpt"}


@pytest.mark.usefixtures("without_the_command")
def test_a_given_tokenizer_is_not_trained(small_text, tmp_path):
    char_tokenizer(sorted(set(small_text.read_text()))).save(tmp_path)
    given = {"tokenizer": str(tmp_path), "limit_bytes": 2000}
    rows = bench_tokenizer(str(small_text), peers=["tokenizers"], **given)
    assert [(row["what"], row["who"]) for row in rows] == [
        ("encoding", "minigpt"),
        ("encoding", "tokenizers"),
        (PREPARE, "minigpt"),
    ]
    with pytest.raises(UserError, match="leave --vs tiktoken out"):
        bench_tokenizer(str(small_text), peers=["tiktoken"], **given)


def test_documents_are_cut_into_portions_up_to_the_limit(tmp_path, monkeypatch):
    def training(texts, *rest):
        seen.extend(texts)
        return bpe_tokenizer([]), []

    seen = []
    monkeypatch.setattr(module, "_train", training)
    monkeypatch.setattr(module, "PORTION", 300)
    monkeypatch.setattr(module, "_whole_command", lambda texts, size, made, say: {})
    text = nonsense(400)
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("never read")
    bench_tokenizer(str(tmp_path), limit_bytes=1000)
    assert "".join(seen) == text[:1000]
    assert [len(portion) for portion in seen] == [300, 300, 300, 100]


@pytest.mark.usefixtures("without_the_command")
def test_a_peer_with_other_ids_is_told(small_text, monkeypatch):
    monkeypatch.setattr(module, "_plain_tiktoken", lambda made: TheirOwn())
    with pytest.raises(UserError, match="tiktoken gives other ids than minigpt for this text"):
        bench_tokenizer(str(small_text), vocab_size=300, peers=["tiktoken"])


class TheirOwn:
    def encode_ordinary_batch(self, texts, num_threads):
        return [[0] for text in texts]


def test_an_unknown_peer_and_an_empty_text_are_refused(small_text, tmp_path):
    with pytest.raises(UserError, match="--vs sentencepiece is not known; peers: tokenizers, tik"):
        bench_tokenizer(str(small_text), peers=["tokenizers", "sentencepiece"])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty\.txt holds no text; pass a source with some"):
        bench_tokenizer(str(tmp_path / "empty.txt"))


def test_a_command_that_fails_is_told(small_text, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "", "error: the disk is full\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **how: failed)
    with pytest.raises(UserError, match=r"^minigpt prepare failed: error: the disk is full$"):
        bench_tokenizer(str(small_text), vocab_size=300)


def test_a_table_worked_out_by_hand():
    figures = [
        ("training", "minigpt", 0.0005, "s"),
        ("training", "tokenizers", 0.001, "s"),
        ("encoding", "minigpt", 40, "MB/s"),
        ("encoding", "tiktoken", 30, "MB/s"),
    ]
    rows = [row(*figure) for figure in figures]
    assert as_table(rows).splitlines() == [
        "training                          minigpt             0.0005 s",
        "training                          tokenizers           0.001 s          2.00 x ours",
        "encoding                          minigpt                 40 MB/s",
        "encoding                          tiktoken                30 MB/s       0.75 x ours",
    ]
