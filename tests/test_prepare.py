import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from minigpt.config import DataConfig
from minigpt.data.prepare import prepare, prepare_folder
from minigpt.data.stream import TokenStream
from minigpt.data.tokens import find_prepared
from minigpt.errors import UserError
from minigpt.tokenizer import Tokenizer

from .conftest import nonsense, sentencepiece_like


def test_a_text_is_prepared_once(small_text):
    lines = []
    config = DataConfig(source=str(small_text), vocab_size=301)
    first = prepare(config, lines.append)
    assert lines
    lines.clear()
    again = prepare(config, lines.append)
    assert lines == []
    assert again.facts == first.facts
    assert again.train[:].tolist() == first.train[:].tolist()
    assert find_prepared(first.fingerprint) is not None
    assert find_prepared("0" * 64) is None


def test_text_comes_back_from_its_tokens(small_text):
    tokens = prepare(DataConfig(source=str(small_text), vocab_size=300))
    text, decode = small_text.read_text(), tokens.tokenizer.decode
    assert decode(tokens.train[:].tolist()) + decode(tokens.val[:].tolist()) == text
    assert tokens.facts["train"]["characters"] + tokens.facts["val"]["characters"] == len(text)


def test_the_tokenizer_learns_nothing_from_the_held_out_part(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(nonsense(900) + "zqzq " * 50)
    tokens = prepare(DataConfig(source=str(path), vocab_size=300))
    assert not any(b"zq" in piece for piece in tokens.tokenizer.pieces)
    chars = prepare(DataConfig(source=str(path), tokenizer="char"))
    assert chars.tokenizer.encode("zq")


def test_another_text_tokenizer_or_split_is_another_preparation(small_text, tmp_path):
    base = {"source": str(small_text), "vocab_size": 300}
    other_text = tmp_path / "b.txt"
    other_text.write_text(small_text.read_text() + ".")
    changed = [
        {}, {"source": str(other_text)}, {"vocab_size": 301}, {"tokenizer": "char"}, {"val_fraction": 0.2},
        {"limit_bytes": 9000}, {"errors": "replace"}, {"drop_duplicates": True},
    ]  # fmt: skip
    prints = {prepare(DataConfig(**(base | change))).fingerprint for change in changed}
    assert len(prints) == len(changed)


def test_a_text_may_move(small_text, tmp_path):
    moved = tmp_path / "moved.txt"
    moved.write_text(small_text.read_text())
    first = prepare(DataConfig(source=str(small_text), vocab_size=300))
    assert prepare(DataConfig(source=str(moved), vocab_size=300)).fingerprint == first.fingerprint


def test_a_tokenizer_of_ones_own(small_text, tmp_path):
    made = prepare(DataConfig(source=str(small_text), vocab_size=300)).tokenizer
    made.save(tmp_path)
    tokens = prepare(DataConfig(source=str(small_text), tokenizer=str(tmp_path / "tokenizer.json")))
    assert tokens.tokenizer.fingerprint() == made.fingerprint()
    with pytest.raises(UserError, match="there is no tokenizer at"):
        prepare(DataConfig(source=str(small_text), tokenizer=str(tmp_path / "none.json")))


def test_a_text_with_too_few_pairs_makes_a_smaller_tokenizer_and_says_so(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh " * 3)
    lines = []
    tokens = prepare(DataConfig(source=str(path), vocab_size=1000), lines.append)
    assert tokens.tokenizer.vocab_size < 300
    assert any("repeats too little for 1,000 tokens" in line for line in lines)


def test_limits_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": nonsense(80, seed=i)}) + "\n" for i in range(60)))
    by_documents = prepare(DataConfig(source=str(path), vocab_size=300, limit_documents=30))
    counts = [by_documents.facts[part]["documents"] for part in ("train", "val")]
    assert counts == [27, 3]
    by_bytes = prepare(DataConfig(source=str(path), vocab_size=300, limit_bytes=1001))
    assert sum(by_bytes.facts[part]["bytes"] for part in ("train", "val")) == 1001


def test_the_first_documents_are_held_out_on_request(tmp_path):
    path = tmp_path / "a.jsonl"
    documents = [nonsense(80, seed=i) for i in range(60)]
    path.write_text("".join(json.dumps({"content": d}) + "\n" for d in documents))
    config = DataConfig(source=str(path), field="content", vocab_size=300, val_documents=7)
    tokens = prepare(config)
    held_out = tokens.tokenizer.decode(tokens.val[:].tolist())
    assert held_out.split("<|endoftext|>") == documents[:7]
    trained = tokens.tokenizer.decode(tokens.train[:].tolist())
    assert trained.split("<|endoftext|>") == documents[7:]
    with pytest.raises(UserError, match="has 60 documents, and the first 60 are to be held out"):
        prepare(DataConfig(source=str(path), field="content", val_documents=60))


def test_a_folder_of_its_own_is_read_as_a_source(small_text, tmp_path):
    config = DataConfig(source=str(small_text), vocab_size=300)
    made = prepare_folder(config, tmp_path / "out")
    read = prepare(DataConfig(source=str(tmp_path / "out")))
    assert (read.facts, read.val[:].tolist()) == (made.facts, made.val[:].tolist())


def test_a_stream_is_opened_as_one(small_text):
    config = DataConfig(source=str(small_text), vocab_size=300, stream=True, val_documents=1)
    with pytest.raises(UserError, match="has 1 documents"):
        prepare(config)
    parts = small_text.parent / "parts.txt"
    parts.write_text(small_text.read_text().replace("\n", "\n<|endoftext|>"))
    tokens = prepare(DataConfig(source=str(parts), vocab_size=300, stream=True, val_documents=3))
    assert isinstance(tokens.train, TokenStream)
    assert tokens.train.reach(100)


def test_two_at_once_make_the_same_tokens(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("<|endoftext|>".join(nonsense(3000, seed=i) for i in range(30)))
    config = DataConfig(source=str(path), vocab_size=303)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, [config, config])
    assert first.facts == second.facts
    assert first.train[:].tolist() == second.train[:].tolist()


def test_another_end_of_text_is_another_preparation(small_text, tmp_path):
    made = prepare(DataConfig(source=str(small_text), vocab_size=300)).tokenizer
    prints = set()
    for end in ("<|endoftext|>", "<|im_end|>"):
        folder = tmp_path / end.strip("<|>")
        folder.mkdir()
        made.save(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
        tokens = prepare(DataConfig(source=str(small_text), tokenizer=str(folder)))
        assert tokens.tokenizer.eos_id == made.specials[end]
        prints.add(tokens.fingerprint)
    assert len(prints) == 2


def test_prepared_tokens_are_no_text_and_keep_their_tokenizer(small_text, tmp_path):
    prepare_folder(DataConfig(source=str(small_text), vocab_size=300), tmp_path / "out")
    with pytest.raises(UserError, match="holds tokens that were prepared already"):
        prepare_folder(DataConfig(source=str(tmp_path / "out")), tmp_path / "again")
    other = prepare(DataConfig(source=str(small_text), tokenizer="char")).tokenizer
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="was prepared with another tokenizer"):
        prepare(DataConfig(source=str(tmp_path / "out"), tokenizer=str(tmp_path / "other")))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "an extension"}', '{"shards": 3}'])
def test_a_manifest_of_another_program_is_a_text_among_others(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "text.txt").write_text(nonsense(400))
    assert prepare(DataConfig(source=str(tmp_path), vocab_size=300)).facts["train"]["tokens"] > 0


def test_a_damaged_manifest_of_ours_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"fingerprint": "x", "shards": 3}')
    with pytest.raises(UserError, match="holds no whole prepared tokens"):
        prepare(DataConfig(source=str(tmp_path)))


def test_a_tokenizer_that_cannot_be_cut_is_refused_for_training(small_text, tmp_path):
    Tokenizer(sentencepiece_like(nonsense(400)), eos="</s>").save(tmp_path)
    with pytest.raises(UserError, match=r"puts a space before each text, .*; train with bpe, char"):
        prepare(DataConfig(source=str(small_text), tokenizer=str(tmp_path)))
