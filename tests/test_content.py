import json

import pytest
from tokenizers import pre_tokenizers

from minigpt.errors import UserError
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.content import BYTES_BY_NAME, kind_of, pattern_of, prefix_of
from minigpt.tokenizer.patterns import PATTERNS


def content_of(tokenizer) -> dict:
    return json.loads(tokenizer.backend.to_str())


def around(*items, specials=("<s>",)) -> dict:
    """Return a post_processor that puts items around a text."""
    return {"single": items, "special_tokens": {name: {"ids": [7]} for name in specials}}


TEXT, BEGIN = {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>"}}


def test_every_byte_has_the_name_that_the_library_gives_it():
    assert set(BYTES_BY_NAME) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTES_BY_NAME.values()) == list(range(256))
    assert BYTES_BY_NAME["A"] == ord("A")
    assert BYTES_BY_NAME["Ġ"] == ord(" ")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_known_by_the_way_it_cuts(pattern):
    content = content_of(bpe_tokenizer([], pattern=pattern))
    assert pattern_of(content) == pattern
    assert pattern_of(content | {"normalizer": {"type": "NFC"}}) is None
    assert pattern_of(content | {"pre_tokenizer": {"type": "Whitespace"}}) is None


def test_kinds_and_the_bytes_of_their_pieces():
    kind, to_bytes = kind_of(content_of(bpe_tokenizer([])))
    assert (kind, to_bytes("Ġa")) == ("bpe", b" a")
    kind, to_bytes = kind_of(content_of(char_tokenizer(["é"])))
    assert (kind, to_bytes("é")) == ("char", "é".encode())
    llama = {"model": {"type": "BPE"}, "decoder": {"type": "Metaspace"}}
    kind, to_bytes = kind_of(llama)
    assert (kind, to_bytes("▁a"), to_bytes("<0x0A>")) == ("other", b" a", b"\n")
    with pytest.raises(UserError, match="is of type WordPiece with the decoder None"):
        kind_of({"model": {"type": "WordPiece"}, "decoder": None})


@pytest.mark.parametrize(
    ("processor", "prefix"),
    [
        (None, []),
        ({"cls": ["<s>", 7], "sep": ["</s>", 8]}, [7]),
        (around(BEGIN, TEXT), [7]),
        (around(BEGIN, BEGIN, TEXT, BEGIN), [7, 7]),
        (around(TEXT, BEGIN), []),
        ({"processors": [{"type": "ByteLevel"}, around(BEGIN, TEXT)]}, [7]),
    ],
)
def test_the_prefix_is_what_stands_before_a_text(processor, prefix):
    assert prefix_of({"post_processor": processor}, range(9)) == prefix


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (around(BEGIN), "does not hold the text once"),
        (around(BEGIN, TEXT, specials=()), "not among the special_tokens there"),
        ({"cls": ["<s>", 99]}, "puts the id 99 before a text, but has no piece"),
    ],
)
def test_a_prefix_that_cannot_be_is_refused(processor, words):
    with pytest.raises(UserError, match=words):
        prefix_of({"post_processor": processor}, range(9))
