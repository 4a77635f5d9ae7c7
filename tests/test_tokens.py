import numpy as np
import pytest

from minigpt.config import DataConfig
from minigpt.data.prepare import prepare_folder
from minigpt.data.tokens import open_prepared, open_ready, tokens_of_text
from minigpt.errors import UserError
from minigpt.tokenizer import Tokenizer, char_tokenizer

from .conftest import nonsense, sentencepiece_like


def test_documents_are_separated_by_the_end_of_text_and_pieces_are_not():
    tokenizer = char_tokenizer(["a", "b"])
    pieces = [(True, "ab"), (True, "b"), (False, "a"), (True, "a")]
    assert tokens_of_text(pieces, tokenizer).tolist() == [0, 1, 2, 1, 0, 2, 0]
    assert tokens_of_text([], tokenizer).tolist() == []


def test_a_tokenizer_that_puts_a_space_before_a_text_gets_each_document_whole():
    tokenizer = Tokenizer(sentencepiece_like(nonsense(400)), eos="</s>")
    pieces = [(True, "the cat s"), (False, "at"), (True, "a dog")]
    wanted = [*tokenizer.encode("the cat sat"), 2, *tokenizer.encode("a dog")]
    assert tokens_of_text(pieces, tokenizer).tolist() == wanted
    assert tokens_of_text([], tokenizer).tolist() == []


def test_a_text_is_not_ready_but_prepared_tokens_are(small_text, tmp_path):
    config = DataConfig(source=str(small_text), vocab_size=300)
    assert open_ready(config) is None
    made = prepare_folder(config, tmp_path / "out")
    ready = open_ready(DataConfig(source=str(tmp_path / "out")))
    assert ready.fingerprint == made.fingerprint
    assert open_ready(DataConfig(source="x" * 300)) is None


def test_a_folder_that_is_not_whole_is_refused(small_text, tmp_path):
    prepare_folder(DataConfig(source=str(small_text), vocab_size=300), tmp_path)
    (tmp_path / "val-00000-00000.bin").unlink()
    with pytest.raises(UserError, match="holds no whole prepared tokens"):
        open_prepared(tmp_path)


def test_token_files_of_others_need_their_tokenizer(small_text, tmp_path):
    tokens = prepare_folder(DataConfig(source=str(small_text), vocab_size=300), tmp_path / "ours")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    np.save(theirs / "corpus_train_000000.npy", tokens.train[:])
    np.save(theirs / "corpus_val_000000.npy", tokens.val[:])
    with pytest.raises(UserError, match=r"pass --data\.tokenizer gpt2"):
        open_ready(DataConfig(source=str(theirs)))
    found = open_ready(DataConfig(source=str(theirs), tokenizer=str(tmp_path / "ours")))
    assert found.train[:].tolist() == tokens.train[:].tolist()
    assert found.val[:].tolist() == tokens.val[:].tolist()
    assert found.facts["val"]["tokens"] == len(tokens.val)
