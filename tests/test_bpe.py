import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.tokenizer import bpe
from minigpt.tokenizer.patterns import PATTERNS

TEXT = (
    "low lower lowest newer newest wide wider, widest; 12 123 1234\n\n\tcafé naïve 🙂🙂 don't WON'T\r\n"
    * 3
)


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(bpe)
    assert found.attempted > 0
    assert found.failed == 0


def test_merges_worked_out_by_hand():
    # (b, c) and (a, b) both occur 4 times; the smaller pair is a+b. Then ab+c: 3 times.
    assert bpe.train_merges({b"abc": 3, b"ab": 1, b"bc": 1}, 10) == [(97, 98), (256, 99)]


def test_a_pair_seen_once_is_not_merged():
    assert bpe.train_merges({b"xyz": 1}, 5) == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_words_put_together_are_the_text(pattern):
    words = bpe.count_words([TEXT], pattern)
    assert sum(len(word) * count for word, count in words.items()) == len(TEXT.encode())


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text())
def test_any_text_round_trips(pattern, text):
    merges = bpe.train_merges(bpe.count_words([TEXT]), 60)
    encoder = bpe.BPE(merges, ["<|endoftext|>"], pattern)
    assert encoder.decode(encoder.encode(text)) == text


def test_merges_shorten_what_they_were_learnt_from():
    encoder = bpe.BPE(bpe.train_merges(bpe.count_words([TEXT]), 60))
    assert len(encoder.encode(TEXT)) < len(TEXT.encode()) / 2


def test_a_special_token_is_text_unless_asked_for():
    encoder = bpe.BPE([], ["<|endoftext|>"])
    assert encoder.encode("a<|endoftext|>") == list(b"a<|endoftext|>")
    assert encoder.encode_with_specials("a<|endoftext|>b") == [97, 256, 98]
    assert encoder.decode([97, 256, 98]) == "a<|endoftext|>b"


def test_broken_utf8_becomes_replacement_characters():
    assert bpe.BPE([]).decode([0x61, 0xC3, 0x62, 0xFF]) == "a\ufffdb\ufffd"
