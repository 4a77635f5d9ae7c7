import contextlib

import pytest

from minigpt.data import learn
from minigpt.data.corpora import open_source
from minigpt.data.learn import learn_bpe, learn_characters, train_tokenizer
from minigpt.errors import UserError
from minigpt.tokenizer.bpe import count_words, train_merges
from minigpt.tokenizer.fast import bpe_tokenizer
from minigpt.tokenizer.patterns import CHAT_TOKENS, END_OF_TEXT

from .conftest import nonsense


@pytest.fixture
def reports(monkeypatch):
    """What the bars were told: [title, total, unit, done, done, …] each."""
    told = []

    @contextlib.contextmanager
    def bar(title, total, unit="bytes"):
        told.append([title, total, unit])
        yield told[-1].append

    monkeypatch.setattr(learn, "bar", bar)
    return told


def source_of(tmp_path, text):
    path = tmp_path / "text.txt"
    path.write_text(text, "utf-8")
    return open_source(str(path), together=True)


def test_our_engine_learns_the_merges_of_the_plain_scan(small_text):
    source = open_source(str(small_text), together=True)
    made, facts = train_tokenizer(source, vocab_size=300)
    text = small_text.read_text()
    plain = bpe_tokenizer(train_merges(count_words([text]), 300 - 259))
    assert made.fingerprint() == plain.fingerprint()
    assert facts == {"kind": "bpe", "source": source.name, "bytes": len(text), "engine": "own"}


@pytest.mark.parametrize("engine", ["own", "tokenizers"])
def test_a_bpe_of_either_engine_works(small_text, engine):
    source = open_source(str(small_text), together=True)
    made, facts = train_tokenizer(source, vocab_size=290, engine=engine)
    text = small_text.read_text()
    assert (made.kind, made.vocab_size, facts["engine"]) == ("bpe", 290, engine)
    assert list(made.specials) == [END_OF_TEXT, *CHAT_TOKENS]
    assert made.bulk is not None
    assert made.decode(made.encode(text)) == text
    assert len(made.encode(text)) < len(text) / 2


def test_a_character_tokenizer_knows_every_character(tmp_path):
    lines = []
    made, facts = train_tokenizer(source_of(tmp_path, "öl für\n🙂"), kind="char", say=lines.append)
    assert made.pieces == [c.encode() for c in [*sorted(set("öl für\n🙂")), END_OF_TEXT]]
    assert facts == {"kind": "char", "source": str(tmp_path / "text.txt"), "bytes": 13}
    assert lines == []


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_no_more_than_the_limit_is_read_and_that_is_said(tmp_path, kind):
    lines = []
    source = source_of(tmp_path, nonsense(400) + "éé" * 10 + "zq" * 500)
    limit = len(nonsense(400)) + 3  # and half a character, which is left out
    made, facts = train_tokenizer(
        source, kind=kind, vocab_size=264, limit_bytes=limit, say=lines.append
    )
    assert facts["bytes"] == limit - 1
    assert f"read the first {limit - 1:,} bytes of {source.name} (--limit-bytes {limit})" in lines
    seen = b"".join(made.pieces[256:] if kind == "bpe" else made.pieces)
    assert b"zq" not in seen
    assert ("é".encode() in made.pieces) == (kind == "char")


def test_a_limit_that_was_not_reached_is_not_mentioned(tmp_path):
    lines = []
    source = source_of(tmp_path, "ab" * 500)
    _, facts = train_tokenizer(source, vocab_size=260, limit_bytes=2000, say=lines.append)
    assert (facts["bytes"], lines) == (1000, [])


@pytest.mark.parametrize("engine", ["own", "tokenizers"])
def test_a_text_that_repeats_too_little_is_told(engine):
    lines = []
    made = learn_bpe(["abab ab"], 1000, lines.append, engine=engine)
    assert made.vocab_size < 270
    assert lines == [
        f"the text repeats too little for 1,000 tokens: the tokenizer has {made.vocab_size}"
    ]


@pytest.mark.parametrize("how", [{"kind": "char"}, {"engine": "own"}, {"engine": "tokenizers"}])
def test_a_source_without_text_is_refused(tmp_path, how):
    with pytest.raises(UserError, match=r"text\.txt holds no text; pass a source with some"):
        train_tokenizer(source_of(tmp_path, ""), **how)


def test_the_bars_count_bytes_and_merges(reports):
    texts, lines = ["abcab", "é", "🙂 ab"], []
    learn_characters(texts, 14)
    learn_bpe(texts, 260, lines.append, size=14)
    learn_bpe(texts, 260, lines.append, size=14, engine="tokenizers")
    counted = [14, "bytes", 5, 7, 14]
    assert reports == [
        ["collecting characters", *counted],
        ["counting words", *counted],
        ["learning merges", 1, "merges", 0],
        ["counting words", *counted],
    ]
