import json

import pytest

from minigpt.config import DataConfig
from minigpt.data.prepare import prepare
from minigpt.data.vocabulary import expected_ids
from minigpt.errors import UserError
from minigpt.files import cache_folder


@pytest.mark.parametrize("limits", [{}, {"limit_bytes": 7}, {"limit_documents": 1}])
def test_characters_are_those_that_training_will_know(tmp_path, limits):
    for name in ("a", "b"):
        rows = [{"text": f"{name}{letter} déjà vu\n"} for letter in "uvwxyz" * 5]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(source=str(tmp_path), tokenizer="char", **limits)
    made = prepare(config)
    assert expected_ids(config) == made.tokenizer.vocab_size
    assert not (tmp_path / "manifest.json").exists()


def test_a_new_bpe_has_as_many_as_it_may(small_text):
    assert expected_ids(DataConfig(source=str(small_text), vocab_size=777)) == 777


def test_a_tokenizer_by_path_is_opened(small_text, tmp_path):
    config = DataConfig(source=str(small_text), vocab_size=290)
    made = prepare(config).tokenizer
    made.save(tmp_path)
    assert expected_ids(DataConfig(source="-", tokenizer=str(tmp_path))) == made.vocab_size


def test_gpt2_needs_no_network():
    assert expected_ids(DataConfig(source="-", tokenizer="gpt2")) == 50_257


@pytest.mark.parametrize("source", ["-", "shakespeare", "fineweb-edu", "hf:somebody/something"])
def test_characters_of_a_text_elsewhere_have_to_be_given(source):
    with pytest.raises(UserError, match=r"pass --model\.vocab-size, or a local copy"):
        expected_ids(DataConfig(source=source, tokenizer="char"))


def test_a_corpus_that_was_fetched_before_is_read():
    kept = cache_folder() / "corpora" / "tinystories.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("abc")
    ids = expected_ids(DataConfig(source="tinystories", tokenizer="char"))
    kept.unlink()
    assert ids == 4


def test_a_text_without_characters_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="holds no text"):
        expected_ids(DataConfig(source=str(tmp_path / "empty.txt"), tokenizer="char"))
