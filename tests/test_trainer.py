import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.tokenizer import bpe, bpe_tokenizer, trainer
from minigpt.tokenizer.patterns import PATTERNS

from .conftest import nonsense
from .test_bpe import TEXT


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


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_merges_are_those_of_the_tokenizers_library(pattern):
    """The library breaks ties in another order, so the text is one in which frequent pairs have no equals."""
    rng = random.Random(1)
    letters = rng.choices("abcdefgh ", weights=[1, 2, 3, 5, 7, 11, 13, 17, 9], k=40_000)
    text = "".join(letters)
    learnt = trainer.train_merges(bpe.count_words([text], pattern), 12)
    assert trainer.library_merges([text], 12, pattern) == learnt


@pytest.mark.parametrize("pattern", PATTERNS)
def test_merges_of_the_library_make_a_working_tokenizer(pattern):
    merges = trainer.library_merges([TEXT, nonsense(500)], 60, pattern)
    assert len(merges) == 60
    made = bpe_tokenizer(merges, pattern)
    ids = made.encode(TEXT)
    assert ids == bpe.BPE(merges, pattern=pattern).encode(TEXT)
    assert made.decode(ids) == TEXT
    assert len(ids) < len(TEXT.encode()) / 2


def test_the_library_learns_nothing_from_what_occurs_once():
    assert trainer.library_merges(["ab cd", "🙂"], 100) == []


WORDS = ["the", " the", " and", " 漢字", "\n\n", " 12", ".", "'s", "🙂"]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(texts=st.lists(st.text() | st.lists(st.sampled_from(WORDS)).map("".join)))
def test_words_are_counted_as_the_plain_count_does(pattern, texts):
    assert trainer.count_pieces(texts, pattern) == bpe.count_words(texts, pattern)


def test_long_words_are_counted_in_parts(monkeypatch):
    monkeypatch.setattr(trainer, "LONGEST_WORD", 4)
    counted = trainer.count_pieces(["é" * 10 + " ab abcd"])
    assert counted == {"éééé".encode(): 2, "éé".encode(): 1, b" ab": 1, b" abc": 1, b"d": 1}


def test_the_rarest_words_are_dropped_while_counting(monkeypatch):
    monkeypatch.setattr(trainer, "MOST_COUNTED", 4)
    # After the first text five words are known, and the two commonest stay.
    assert trainer.count_pieces([" a a a b b c d e", " c c b f"]) == {
        b" a": 3,
        b" b": 3,
        b" c": 2,
        b" f": 1,
    }
    # Of equals those that came first: never none.
    assert trainer.count_pieces([" a b c d e"]) == {b" a": 1, b" b": 1}


def test_the_commonest_words_are_kept(monkeypatch):
    monkeypatch.setattr(trainer, "MOST_WORDS", 3)
    counted = trainer.count_pieces([" d c c c a b b", " d a e"])
    assert counted == {b" c": 3, b" a": 2, b" b": 2}
