import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minigpt.tokenizer import bpe, trainer
from minigpt.tokenizer.fast import _bytes_of

from .conftest import nonsense


@given(
    words=st.dictionaries(st.text("abc", min_size=1, max_size=12).map(str.encode), st.integers(1, 5), max_size=12),
    count=st.integers(0, 40),
)  # fmt: skip
def test_the_index_learns_the_merges_of_the_scan(words, count):
    assert trainer.train_merges(words, count) == bpe.train_merges(words, count)


@pytest.mark.parametrize("pattern", ["gpt2", "qwen2"])
def test_the_same_merges_on_real_text(pattern):
    words = bpe.count_words(
        [bpe.__doc__ * 3, trainer.__doc__ * 2, nonsense(500), "ünïcödé 🙂🙃 " * 9], pattern
    )
    assert trainer.train_merges(words, 150) == bpe.train_merges(words, 150)


def test_the_pieces_of_the_tokenizers_library(tmp_path):
    """The library breaks ties in another order, so the text is one in which frequent pairs have no equals."""
    rng = random.Random(1)
    letters = rng.choices("abcdefgh ", weights=[1, 2, 3, 5, 7, 11, 13, 17, 9], k=40_000)
    text = "".join(letters)
    learnt = trainer.train_merges(bpe.count_words([text]), 12)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=268, initial_alphabet=alphabet, show_progress=False)
    )
    pieces = bpe.BPE(learnt).pieces[256:]
    by_id = sorted(theirs.get_vocab().items(), key=lambda item: item[1])
    assert pieces == [_bytes_of(name) for name, index in by_id if index >= 256]
