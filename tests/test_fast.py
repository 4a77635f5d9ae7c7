import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import tiktoken
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import UserError
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.bpe import BPE, count_words, train_merges
from minigpt.tokenizer.patterns import CHAT_TOKENS, END_OF_TEXT, PATTERNS

from .conftest import nonsense, sentencepiece_like
from .test_bpe import TEXT
from .test_cutting import BORDERS, KNOWN

MERGES = {pattern: train_merges(count_words([TEXT], pattern), 40) for pattern in PATTERNS}
NASTY = [
    "", " ", "   \n\n\t  x", "e\u0301 and é", "漢字かな交じり文",
    "👩‍👩‍👧‍👦 🇩🇪", "\x00\x01\x7f\x85\u2028", "a" * 300, " " * 300,
    "<|endoftext|> <|im_start|>user", "don't I'LL we'Ve", "1234567 ½ ²", "\r\n\r\n", "\u202e right to left א",
]  # fmt: skip


def tokenizer(pattern="gpt2") -> Tokenizer:
    return bpe_tokenizer(MERGES[pattern], pattern)


def plain_tiktoken(merges, pattern) -> tiktoken.Encoding:
    ranks = {piece: rank for rank, piece in enumerate(BPE(merges).pieces)}
    return tiktoken.Encoding(
        "", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={}
    )


@pytest.fixture(
    scope="module",
    params=[(pattern, merges) for pattern in PATTERNS for merges in (MERGES[pattern], BORDERS)],
    ids=[f"{pattern}, {merges}" for pattern in PATTERNS for merges in ("learnt", "borders")],
)
def everybody(request):
    """What encodes a text by the same merges: the plain encoder, the library, `tiktoken`, and ours."""
    pattern, merges = request.param
    plain, theirs = BPE(merges, pattern=pattern), plain_tiktoken(merges, pattern)
    made = bpe_tokenizer(merges, pattern)
    assert made.bulk is not None
    return [
        plain.encode, lambda text: made.backend.encode(text).ids, theirs.encode_ordinary, made.encode,
    ]  # fmt: skip


PARTS = [
    "👩‍👩‍👧‍👦", "🇩🇪", "🙂", "漢字かな", "한국어", "e\u0301", "\u0301", "\ufe0f", "\x00", "\x1c", "\x85", "\u2028",
    "\ufeff", " " * 70, "\n" * 9, "\r\n", "\t \t", "\u00a0", "\u3000", "don't", "I'LL", "we'Ve", "'ſ", "123", "½²",
    END_OF_TEXT,
]  # fmt: skip


@given(parts=st.lists(st.text(KNOWN) | st.sampled_from(PARTS)))
def test_everybody_gives_any_unicode_the_same_ids(everybody, parts):
    ids, *others = [encode("".join(parts)) for encode in everybody]
    assert others == [ids] * 3


def test_everybody_gives_every_character_the_same_ids(everybody):
    points = [*range(0x3000), *range(0x3000, 0x110000, 61)]
    known = [chr(i) for i in points if unicodedata.category(chr(i)) not in ("Cs", "Cn")]
    assert len(known) > 14_000
    other = []
    for character in known:
        text = f"a{character}b 1{character} {character}'{character}"
        ids, *others = [encode(text) for encode in everybody]
        if others != [ids] * 3:
            other.append(f"U+{ord(character):04X}")
    assert other == []


@st.composite
def any_merges(draw):
    """Merges that no training would learn, too: ones that never come up, for others come before them."""
    pieces, merges = [b"a", b"b", b"c"], []
    ids = {piece: piece[0] for piece in pieces}
    for _ in range(draw(st.integers(1, 8))):
        left, right = draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces))
        if left + right not in ids:
            ids[left + right] = 256 + len(merges)
            merges.append((ids[left], ids[right]))
            pieces.append(left + right)
    return merges


@given(merges=any_merges(), text=st.text("abc", max_size=40))
def test_ids_are_those_of_the_plain_encoder_whatever_the_merges(merges, text):
    assert bpe_tokenizer(merges).encode(text) == BPE(merges).encode(text)


def test_merges_that_tiktoken_would_take_otherwise_are_left_to_the_library():
    made = bpe_tokenizer([(98, 99), (97, 98), (257, 99)])  # bc, ab, ab + c
    assert made.bulk is None
    assert made.encode("abc") == [97, 256]
    assert plain_tiktoken([(98, 99), (97, 98), (257, 99)], "gpt2").encode("abc") == [258]


@given(text=st.text("ab ", max_size=60), other=st.text("ab ", max_size=60))
def test_merges_that_were_learnt_are_encoded_by_tiktoken(text, other):
    merges = train_merges(count_words([text]), 30)
    made = bpe_tokenizer(merges)
    assert made.bulk is not None
    assert made.encode(other) == BPE(merges).encode(other)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_round_trip_with_the_ids_of_the_plain_encoder(pattern, text):
    ids = tokenizer(pattern).encode(text)
    assert ids == BPE(MERGES[pattern], pattern=pattern).encode(text)
    assert tokenizer(pattern).decode(ids) == text


@pytest.mark.parametrize(
    "made", [tokenizer(), tokenizer("qwen2"), char_tokenizer(sorted(set(TEXT)))]
)
def test_saved_and_loaded_it_gives_the_same_ids_here_and_in_transformers(made, tmp_path):
    made.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode(TEXT) == made.encode(TEXT)
    assert (loaded.specials, loaded.eos_id, loaded.pieces) == (
        made.specials,
        made.eos_id,
        made.pieces,
    )
    assert loaded.fingerprint() == made.fingerprint()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT).input_ids == made.encode(TEXT)
    assert theirs.decode(made.encode(TEXT)) == TEXT
    assert (len(theirs), theirs.eos_token_id) == (made.vocab_size, made.eos_id)
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(
        TEXT
    ).ids == made.encode(TEXT)


def test_special_tokens_come_last_and_only_bpe_has_chat_tokens():
    assert list(tokenizer().specials) == [END_OF_TEXT, *CHAT_TOKENS]
    assert list(tokenizer().specials.values()) == [296, 297, 298]
    assert tokenizer().vocab_size == 299
    assert char_tokenizer(["a", "b"]).specials == {END_OF_TEXT: 2}


def test_the_name_of_a_special_token_in_a_text_is_only_text():
    assert not set(tokenizer().encode(END_OF_TEXT)) & set(tokenizer().specials.values())
    assert tokenizer().decode([tokenizer().eos_id]) == END_OF_TEXT


@given(ids=st.lists(st.integers(0, 298)))
def test_streamed_text_is_the_decoded_text_and_never_half_a_character(ids):
    made = tokenizer()
    stream = made.stream()
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.finish() == made.decode(ids)


def test_a_character_of_several_tokens_is_shown_when_it_is_whole():
    made = bpe_tokenizer([])
    stream = made.stream()
    assert [stream.push(i) for i in made.encode("é🙂!")] == ["", "é", "", "", "", "🙂", "!"]
    stream.push(made.encode("🙂")[0])
    assert stream.finish() == "\ufffd"


def test_threads_at_once_give_the_same_ids(everybody):
    *_, encode = everybody
    text, threads = " ".join(NASTY) * 20, 6
    together = Barrier(threads)

    def work(number):
        together.wait(timeout=30)
        return [encode(text) for _ in range(10)]

    with ThreadPoolExecutor(threads) as pool:
        found = [ids for each in pool.map(work, range(threads)) for ids in each]
    assert found == [encode(text)] * 60


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(UserError, match=r"character 1 of the text is U\+D800"):
        tokenizer().encode("a\ud800")
    with pytest.raises(UserError, match=r"U\+D800"):
        char_tokenizer(["a"]).encode("a\ud800")


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no tokenizer at"):
        Tokenizer.load(tmp_path)
    file = tmp_path / "tokenizer.json"
    tokenizer().save(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read as JSON"):
        Tokenizer.load(file)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"is not a whole tokenizer\.json"):
        Tokenizer.load(file)
    foreign = tokenizers.Tokenizer(tokenizers.models.Unigram([("a", 0.0)], 0, False))
    foreign.save(str(file))
    with pytest.raises(UserError, match="is of type Unigram"):
        Tokenizer.load(file)


TWO_MERGES = [(97, 98), (256, 99)]  # ab, abc
FOREIGN_TEXT = " abc ab ABC cab, caab zz 12 |x| don't e\u0301 é"


def swap_ids(content):
    vocabulary = content["model"]["vocab"]
    vocabulary["ab"], vocabulary["abc"] = vocabulary["abc"], vocabulary["ab"]


def add_token(content, name, index, special):
    token = {"content": name, "id": index, "special": special}
    content["added_tokens"].append(content["added_tokens"][0] | token)


def lose_a_byte(content):
    vocabulary = content["model"]["vocab"]
    vocabulary["zz"] = vocabulary.pop("~")


def add_a_piece(content):
    content["model"]["vocab"]["zz"] = 300
    content["added_tokens"].clear()


SPLIT = {"type": "Split", "pattern": {"Regex": "[a-z]"}, "behavior": "Isolated", "invert": False}
FOREIGN = {
    "ids not in the order of merges": swap_ids,
    "a piece from no merge": add_a_piece,
    "a byte without an id": lose_a_byte,
    "an added token that is not special": lambda c: add_token(c, "|x|", 261, False),
    "a special token that is a piece": lambda c: add_token(c, "abc", 257, True),
    "lower case": lambda c: c.update(normalizer={"type": "Lowercase"}),
    "composed characters": lambda c: c.update(normalizer={"type": "NFC"}),
    "another pattern": lambda c: c.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, c["pre_tokenizer"]]}
    ),
    "no pattern": lambda c: c["pre_tokenizer"].update(use_regex=False),
    "a space before the text": lambda c: c["pre_tokenizer"].update(add_prefix_space=True),
    "whole words before merges": lambda c: c["model"].update(ignore_merges=True),
    "a mark at the end of words": lambda c: c["model"].update(end_of_word_suffix="c"),
    "an unknown token": lambda c: c["model"].update(unk_token="!"),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_tokenizer_that_tiktoken_cannot_stand_for_keeps_its_ids(change, tmp_path):
    content = json.loads(bpe_tokenizer(TWO_MERGES).backend.to_str())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    made = Tokenizer.load(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert made.bulk is None
    assert made.encode(FOREIGN_TEXT) == theirs.encode(FOREIGN_TEXT).ids


def test_a_foreign_tokenizer_without_special_tokens_is_encoded_by_tiktoken(tmp_path):
    content = json.loads(bpe_tokenizer(TWO_MERGES).backend.to_str())
    content["added_tokens"] = []
    content["pre_tokenizer"]["trim_offsets"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    made = Tokenizer.load(tmp_path)
    assert made.bulk is not None
    assert (made.eos_id, made.vocab_size) == (None, 258)
    assert made.encode(FOREIGN_TEXT) == BPE(TWO_MERGES).encode(FOREIGN_TEXT)


def test_a_foreign_tokenizer_that_shortens_or_fills_up_encodes_the_whole_text(tmp_path):
    made = bpe_tokenizer(TWO_MERGES)
    made.backend.enable_truncation(4)
    made.backend.enable_padding(length=100)
    made.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    whole = BPE(TWO_MERGES).encode(FOREIGN_TEXT)
    assert loaded.encode(FOREIGN_TEXT) == loaded.backend.encode(FOREIGN_TEXT).ids == whole


def test_a_piece_that_is_not_made_of_bytes_is_refused(tmp_path):
    content = json.loads(bpe_tokenizer(TWO_MERGES).backend.to_str())
    content["model"]["vocab"]["漢"] = 300
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="a piece with '漢', which stands for no byte"):
        Tokenizer.load(tmp_path)


def test_a_foreign_character_tokenizer_keeps_its_ids(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "b": 1, "a": 2}))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    backend.add_special_tokens(["<pad>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode("ab") == backend.encode("ab").ids == [2, 1]
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"word": 0}))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="knows whole words"):
        Tokenizer.load(tmp_path)


def test_another_end_of_text_is_read_from_the_settings_beside_it(tmp_path):
    tokenizer().save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings | {"eos_token": {"content": "<|im_end|>"}})
    )
    assert Tokenizer.load(tmp_path).eos_id == 298


@pytest.mark.parametrize("value", [7, [], ["a"], {}, {"content": None}, True])
def test_an_end_of_text_without_a_name_is_refused(value, tmp_path):
    tokenizer().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": value}))
    with pytest.raises(UserError, match="has an eos_token without a name"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"eos_token": None}, {"bos_token": 7, "pad_token": []}])
def test_settings_that_name_no_end_of_text_leave_our_own(settings, tmp_path):
    tokenizer().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Tokenizer.load(tmp_path).eos_id == tokenizer().eos_id


@pytest.mark.parametrize("text", ["[]", "7", "{", "[" * 200_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_files_that_hold_no_object_are_refused(name, text, tmp_path):
    tokenizer().save(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_like_llama_2s_is_used_with_what_it_puts_before_a_text(tmp_path):
    backend = sentencepiece_like(nonsense(400))
    made = Tokenizer(backend, eos="</s>")
    made.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.kind, loaded.prefix, loaded.eos_id) == ("other", [1], 2)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the cat sat", " the  cat", "größe 😀 a\nb", "", "a", "<s> the </s>"):
        ids = loaded.encode(text)
        assert loaded.decode(ids) == text
        assert [*loaded.prefix, *ids] == theirs(text, split_special_tokens=True).input_ids
        stream = loaded.stream()
        shown = "".join(stream.push(i) for i in ids) + stream.finish()
        assert shown == (f" {text}" if text else "")  # it goes on from what was before


def test_our_tokenizers_put_nothing_before_a_text():
    assert bpe_tokenizer([]).prefix == char_tokenizer("ab").prefix == []
