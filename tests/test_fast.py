import json

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import UserError
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.bpe import BPE, count_words, train_merges
from minigpt.tokenizer.patterns import CHAT_TOKENS, END_OF_TEXT, PATTERNS

from .test_bpe import TEXT

MERGES = {pattern: train_merges(count_words([TEXT], pattern), 40) for pattern in PATTERNS}
NASTY = [
    "", " ", "   \n\n\t  x", "e\u0301 and é", "漢字かな交じり文",
    "👩‍👩‍👧‍👦 🇩🇪", "\x00\x01\x7f\x85\u2028", "a" * 300, " " * 300,
    "<|endoftext|> <|im_start|>user", "don't I'LL we'Ve", "1234567 ½ ²", "\r\n\r\n", "\u202e right to left א",
]  # fmt: skip


def tokenizer(pattern="gpt2") -> Tokenizer:
    return bpe_tokenizer(MERGES[pattern], pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text())
def test_ids_are_those_of_the_plain_encoder_on_any_unicode(pattern, text):
    assert tokenizer(pattern).encode(text) == BPE(MERGES[pattern], pattern=pattern).encode(text)


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
    with pytest.raises(UserError, match=r"is not a whole tokenizer\.json"):
        Tokenizer.load(file)
    foreign = tokenizers.Tokenizer(tokenizers.models.Unigram([("a", 0.0)], 0, False))
    foreign.save(str(file))
    with pytest.raises(UserError, match="is of type Unigram"):
        Tokenizer.load(file)


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
