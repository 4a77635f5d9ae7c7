import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from minigpt.data import encode
from minigpt.data.decoding import Reading
from minigpt.data.encode import PartJob, read_part, write_part
from minigpt.data.sources import FileSource
from minigpt.data.split import Place, Split
from minigpt.data.tokens import tokens_of_text
from minigpt.tokenizer import bpe_tokenizer
from minigpt.tokenizer.bpe import count_words, train_merges

from .conftest import nonsense

TOKENIZER = bpe_tokenizer(train_merges(count_words([nonsense(2000)]), 60))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Forty documents in one file, in pieces and portions that are small beside them."""
    monkeypatch.setattr("minigpt.tokenizer.cutting.PIECE", 300)
    monkeypatch.setattr(encode, "PORTION", 700)
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(nonsense(80 + 9 * i, seed=i) for i in range(40)))
    return FileSource("text", [[path]], Reading())


def job(folder, source, **changes) -> PartJob:
    folder.mkdir(exist_ok=True)
    settings = {"workers": 2, "shard_tokens": 900} | changes
    return PartJob(folder, source, Split("every", 0.1), TOKENIZER, **settings)


def digests(folder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.bin"))
    }


def run(work: PartJob) -> list[dict]:
    return list(write_part(work, 0, Place()))


def test_shards_in_order_are_the_documents_with_an_end_of_text_between_them(tmp_path, source):
    state = run(job(tmp_path / "out", source))[-1]
    assert state["done"]
    assert len(state["shards"]) > 6
    pieces = list(source.read(0))
    documents, number = {False: [], True: []}, -1
    for begins, text in pieces:
        number += begins
        held_out = int((number + 1) * 0.1 + 0.5) > int(number * 0.1 + 0.5)
        documents[held_out].append((begins, text))
    for split, held_out in (("train", False), ("val", True)):
        files = [s["file"] for s in state["shards"] if s["split"] == split]
        ids = np.concatenate([np.fromfile(tmp_path / "out" / name, "<u2") for name in files])
        assert ids.tolist() == tokens_of_text(documents[held_out], TOKENIZER).tolist()


def test_each_shard_is_recorded_with_its_counts_and_hash(tmp_path, source):
    state = run(job(tmp_path / "out", source))[-1]
    for shard in state["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["tokens"] == len(content) // 2
    totals = Counter()
    for shard in state["shards"]:
        totals.update({k: shard[k] for k in ("documents", "characters", "bytes")})
    text = source.files[0].read_text().replace("<|endoftext|>", "")
    assert totals == {"documents": 40, "characters": len(text), "bytes": len(text.encode())}


def test_the_shards_are_the_same_for_any_number_of_threads(tmp_path, source):
    for workers in (1, 3):
        run(job(tmp_path / str(workers), source, workers=workers))
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


@pytest.mark.parametrize("stop_after", range(1, 8))
def test_stopped_anywhere_it_goes_on_to_the_same_shards(tmp_path, source, stop_after):
    run(job(tmp_path / "whole", source))
    work = job(tmp_path / "out", source)
    states = write_part(work, 0, Place())
    for _ in range(stop_after):
        next(states)
    states.close()
    # What a kill may leave: files that were being written, and a shard that was renamed but not recorded.
    (tmp_path / "out" / ".train-00000-00099.bin.1.tmp").write_bytes(b"half")
    following = 1 + max(
        (encode._number(s) for s in read_part(work, 0).get("shards", [])), default=-1
    )
    (tmp_path / "out" / f"train-00000-{following:05d}.bin").write_bytes(b"not recorded")
    before = len(read_part(work, 0).get("shards", []))
    assert run(work)[-1]["done"]
    assert before == 0 or before >= stop_after - 1
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert read_part(work, 0) == read_part(job(tmp_path / "whole", source), 0)


def test_what_is_done_is_not_read_again(tmp_path, source):
    run(job(tmp_path / "out", source))
    source.files[0].unlink()
    assert run(job(tmp_path / "out", source))[-1]["done"]


def test_a_full_disk_leaves_nothing_half_written_under_a_final_name(tmp_path, source, monkeypatch):
    work = job(tmp_path / "out", source)
    written = 0

    def write(self, encoded, original=encode._ShardWriter.write):
        nonlocal written
        written += 1
        if written == 9:
            raise OSError(28, "No space left on device")
        original(self, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(encode._ShardWriter, "write", write)
        with pytest.raises(OSError, match="No space left"):
            run(work)
    recorded = read_part(work, 0).get("shards", [])
    assert {s["file"] for s in recorded} == set(digests(tmp_path / "out"))
    assert not list((tmp_path / "out").glob(".*.tmp"))
    run(work)
    run(job(tmp_path / "whole", source))
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_the_cut_by_characters_holds_out_the_end_and_separates_only_documents(tmp_path, source):
    text = source.files[0].read_text().replace("<|endoftext|>", "")
    rule = Split("characters", len(text) - 100)
    work = PartJob(tmp_path, source, rule, TOKENIZER, workers=2)
    state = run(work)[-1]
    ids = np.fromfile(tmp_path / "val-00000-00000.bin", "<u2")
    assert TOKENIZER.decode(ids.tolist()) == text[-100:]
    assert [s["characters"] for s in state["shards"]] == [len(text) - 100, 100]


def test_progress_is_reported_in_bytes_and_tokens(tmp_path, source):
    seen = []
    work = job(tmp_path / "out", source, report=lambda size, tokens: seen.append((size, tokens)))
    state = run(work)[-1]
    assert seen == sorted(seen)
    assert seen[-1][1] == sum(s["tokens"] for s in state["shards"])
    assert json.loads(work.record_of(0).read_text()) == state
