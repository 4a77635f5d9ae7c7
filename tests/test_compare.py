import hashlib
import json

import pytest

from minigpt.config import DataConfig
from minigpt.data.prepare import prepare_folder
from minigpt.data.tokens import open_prepared

from .conftest import nonsense


@pytest.fixture
def copied(tmp_path):
    """Fifty documents; of the five held out, two stand among those to train on, one of them changed a little."""
    documents = [nonsense(400, seed=i) for i in range(50)]
    documents[20], documents[30] = documents[4], documents[14].replace("mat", "rug", 3)
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    return path, documents


def made(path, out, shard_tokens=4000, **changes):
    lines = []
    config = DataConfig(source=str(path), vocab_size=300, **changes)
    return prepare_folder(config, out, lines.append, workers=2, shard_tokens=shard_tokens), lines


def test_duplicates_are_counted_and_said(copied, tmp_path):
    path, _ = copied
    tokens, lines = made(path, tmp_path / "out")
    assert tokens.facts["duplicates"] | {"held_out_sequences_seen": 0} == {
        "exact": 1, "near": 1, "held_out_sequences_seen": 0, "sequence_length": 32, "dropped": False,
    }  # fmt: skip
    assert 0.2 < tokens.facts["duplicates"]["held_out_sequences_seen"] < 0.6
    said = "1 documents to train on are also held out word for word, 1 nearly"
    assert any(said in line for line in lines)


def test_dropped_they_are_gone_from_the_part_to_train_on_and_nothing_else_is(copied, tmp_path):
    path, documents = copied
    whole, _ = made(path, tmp_path / "whole")
    tokens, lines = made(path, tmp_path / "out", drop_duplicates=True)
    assert any("they are left out" in line for line in lines)
    text = tokens.tokenizer.decode(tokens.train[:].tolist())
    kept = [d for i, d in enumerate(documents) if i % 10 != 4 and i not in (20, 30)]
    assert text.split("<|endoftext|>") == kept
    assert tokens.val[:].tolist() == whole.val[:].tolist()
    facts = tokens.facts["train"]
    assert (facts["documents"], facts["tokens"]) == (len(kept), len(tokens.train))
    assert facts["characters"] == facts["bytes"] == sum(map(len, kept))


def test_the_rewritten_shards_are_those_that_the_manifest_lists(copied, tmp_path):
    path, _ = copied
    made(path, tmp_path / "out", drop_duplicates=True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    listed = {shard["file"]: shard["sha256"] for shard in manifest["shards"]}
    there = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "out").glob("*.bin")}  # fmt: skip
    assert there == listed
    assert any(name.endswith("-unique.bin") for name in listed)
    assert len(open_prepared(tmp_path / "out").train) > 0


def test_the_first_document_may_be_dropped_and_a_long_one_counts_once(tmp_path):
    documents = [nonsense(400, seed=i) for i in range(50)]
    long = " ".join(f"{i} {i * i % 9973}" for i in range(30_000))  # more than 65,536 tokens
    documents[4], documents[14] = documents[0], long
    documents[33] = long
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    tokens, _ = made(path, tmp_path / "out", shard_tokens=10**6, drop_duplicates=True)
    assert (tokens.facts["duplicates"]["exact"], tokens.facts["duplicates"]["near"]) == (2, 0)
    text = tokens.tokenizer.decode(tokens.train[:].tolist())
    kept = [d for i, d in enumerate(documents) if i % 10 != 4 and i not in (0, 33)]
    assert text.split("<|endoftext|>") == kept
    assert tokens.facts["train"]["documents"] == len(kept)
