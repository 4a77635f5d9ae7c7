import numpy as np
import pytest

from minigpt.config import DataConfig
from minigpt.data.prepare import find_prepared, joined, prepare, split_documents
from minigpt.errors import UserError
from minigpt.tokenizer import char_tokenizer

from .conftest import nonsense


def test_of_few_documents_the_last_tenth_of_the_characters_is_held_out():
    assert split_documents(["0123456789" * 10], 0.1) == (["0123456789" * 9], ["0123456789"])
    assert split_documents(["a" * 60, "b" * 40], 0.5) == (["a" * 50], ["a" * 10, "b" * 40])
    text = "x" * 1_115_394  # as long as Tiny Shakespeare, where others take int(0.9 * n)
    assert len(split_documents([text], 0.1)[0][0]) == 1_003_854


def test_of_many_documents_whole_ones_are_held_out_evenly():
    documents = [str(i) for i in range(100)]
    train, val = split_documents(documents, 0.1)
    assert len(val) == 10
    assert sorted(train + val, key=int) == documents
    assert {int(document) // 10 for document in val} == set(range(10))
    assert len(split_documents(documents[:20], 0.1)[1]) == 2


def test_documents_are_separated_by_the_end_of_text():
    tokenizer = char_tokenizer(["a", "b"])
    assert np.concatenate(list(joined(["ab", "b", "a"], tokenizer))).tolist() == [0, 1, 2, 1, 2, 0]


def test_a_text_is_prepared_once(small_text):
    lines = []
    config = DataConfig(source=str(small_text), vocab_size=300)
    first = prepare(config, lines.append)
    assert len(lines) >= 2
    lines.clear()
    again = prepare(config, lines.append)
    assert lines == []
    assert again.facts == first.facts
    assert np.array_equal(again.train, first.train)
    assert find_prepared(first.fingerprint) is not None
    assert find_prepared("0" * 64) is None


def test_text_comes_back_from_its_tokens(small_text):
    tokens = prepare(DataConfig(source=str(small_text), vocab_size=300))
    text = small_text.read_text()
    assert tokens.tokenizer.decode(tokens.train) + tokens.tokenizer.decode(tokens.val) == text
    assert tokens.facts["train"]["characters"] + tokens.facts["val"]["characters"] == len(text)


def test_the_tokenizer_learns_nothing_from_the_held_out_part(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(nonsense(900) + "zqzq " * 50)
    tokens = prepare(DataConfig(source=str(path), vocab_size=300))
    assert not any(b"zq" in piece for piece in tokens.tokenizer.pieces)
    chars = prepare(DataConfig(source=str(path), tokenizer="char"))
    assert chars.tokenizer.encode("zq")


def test_another_text_tokenizer_or_split_is_another_preparation(small_text, tmp_path):
    base = DataConfig(source=str(small_text), vocab_size=300)
    other_text = tmp_path / "b.txt"
    other_text.write_text(small_text.read_text() + ".")
    prints = {
        prepare(config).fingerprint
        for config in (
            base,
            DataConfig(source=str(other_text), vocab_size=300),
            DataConfig(source=str(small_text), vocab_size=301),
            DataConfig(source=str(small_text), tokenizer="char"),
            DataConfig(source=str(small_text), vocab_size=300, val_fraction=0.2),
        )
    }
    assert len(prints) == 5


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
