import base64
import contextlib
import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from minigpt.errors import UserError
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.checks import LARGEST_ID, refusing
from minigpt.tokenizer.patterns import END_OF_TEXT

from .conftest import nonsense, sentencepiece_like

BPE = json.loads(bpe_tokenizer([(97, 98), (256, 99)]).backend.to_str())
CHARACTERS = json.loads(char_tokenizer("\n abc").backend.to_str())
LIKE_LLAMA = json.loads(sentencepiece_like(nonsense(400)).to_str())


def unigram(pieces, unk_id=0):
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id, False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


UNIGRAM = json.loads(unigram([("<unk>", 0.0), ("a", -1.0), ("▁", -1.5), ("▁a", -0.5)]).to_str())


def load(folder, content) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.load(folder)


def changed(content, *changes):
    """Return a copy of a tokenizer.json with other values; a change is the keys that lead to one, and the value."""
    content = json.loads(json.dumps(content))
    for *keys, last, value in changes:
        part = content
        for key in keys:
            part = part[key]
        part[last] = value
    return content


def refusal(folder, content) -> str:
    with pytest.raises(UserError) as refused:
        load(folder, content)
    message = str(refused.value)
    assert message.isprintable()
    return message


def charsmap(raw: bytes) -> dict:
    table = base64.b64encode(raw).decode()
    return {
        "type": "Sequence",
        "normalizers": [{"type": "Precompiled", "precompiled_charsmap": table}],
    }


def split(pattern, behavior="Isolated"):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def template(*names, ids):
    items = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    specials = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing", "single": [*items, text], "pair": [text], "special_tokens": specials,
    }  # fmt: skip


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
ADDED = BPE["added_tokens"][0]
VOCABULARY = ("model", "vocab")
REFUSED = {
    "characters that are changed": (
        changed(CHARACTERS, ("normalizer", REPLACE)), "changes text by the normalizer Replace",
    ),
    "characters that are not cut": (changed(CHARACTERS, ("pre_tokenizer", None)), "by the pre_tokenizer None"),
    "characters that are cut in pairs": (
        changed(CHARACTERS, ("pre_tokenizer", split(".."))), "into other than single characters",
    ),
    "newlines that a dot does not cut": (
        changed(CHARACTERS, ("pre_tokenizer", split("."))), "into other than single characters",
    ),
    "characters that are taken away": (
        changed(CHARACTERS, ("pre_tokenizer", split(r"[\s\S]", "Removed"))), "into other than single characters",
    ),
    "a word among characters": (
        changed(CHARACTERS, ("added_tokens", [ADDED | {"content": "ab", "id": 5, "special": False}])),
        "has the added token 'ab', which is not special",
    ),
    "two pieces with one id": (changed(CHARACTERS, (*VOCABULARY, "b", 1)), "the same id 1; wanted one id"),
    "a piece twice": (
        changed(UNIGRAM, (*VOCABULARY, [["<unk>", 0], ["a", 0], ["a", 0]])), "has the piece 'a' twice",
    ),
    "no pieces": (changed(CHARACTERS, (*VOCABULARY, {}), ("added_tokens", [])), "has no pieces"),
    "an id of a billion": (changed(BPE, (*VOCABULARY, "ab", 10**9)), "'ab' the id 1,000,000,000; wanted ids of at"),
    "the largest id of all": (changed(BPE, (*VOCABULARY, "ab", 2**32 - 1)), "the id 4,294,967,295; wanted ids of at"),
    "chance": (changed(BPE, ("model", "dropout", 0.5)), "has dropout = 0.5, which gives a text other ids each time"),
    "a mark within words": (
        changed(BPE, ("model", "continuing_subword_prefix", "\x1b[31m")), r"continuing_subword_prefix = '\x1b[31m'",
    ),
    "bytes that nothing makes": (changed(BPE, ("pre_tokenizer", None)), "but no ByteLevel pre_tokenizer"),
    "no decoder": (changed(BPE, ("decoder", None)), "is of type BPE with the decoder None"),
    "an added token with another id": (
        changed(BPE, ("added_tokens", 0, "id", 300)), f"gives the added token '{END_OF_TEXT}' the id 300, but",
    ),
    "an unknown token before a text": (
        changed(LIKE_LLAMA, ("post_processor", template("\x1b<a>", ids={"<s>": 1}))), r"has '\x1b<a>' in the template",
    ),
    "an unknown id before a text": (
        changed(LIKE_LLAMA, ("post_processor", template("<s>", ids={"<s>": 10**6}))), "puts the id 1000000 before",
    ),
    "an unknown token after a text": (
        changed(LIKE_LLAMA, ("post_processor", "single", 1, {"SpecialToken": {"id": "<a>", "type_id": 0}})),
        "does not hold the text once",
    ),
    "a text that is left out": (
        changed(BPE, ("post_processor", template(ids={}) | {"single": []})), "does not hold the text once",
    ),
    "no model": (changed(BPE, ("model", None)), "is not a whole tokenizer.json"),
    "a normalizer of an unknown kind": (
        changed(BPE, ("normalizer", {"type": "\x1b[31m\n" * 200})), "is not a whole tokenizer.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_would_give_other_ids_is_refused_in_one_sentence(content, sentence, tmp_path):
    message = refusal(tmp_path, content)
    assert sentence in message
    assert len(message) < 700


DAMAGED = {
    "empty": b"",
    "short": b"\4\0\0",
    "cut": b"\10\0\0\0\1\2\3\4",
    "no text": b"\4\0\0\0abcd\xff",
}


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_table_of_characters_is_refused_before_the_library_panics(raw, tmp_path, capfd):
    content = changed(UNIGRAM, ("normalizer", charsmap(raw)))
    assert "a damaged precompiled_charsmap" in refusal(tmp_path, content)
    assert capfd.readouterr().err == ""


def test_a_panic_of_the_library_is_refused(tmp_path):
    content = changed(UNIGRAM, ("normalizer", charsmap(b"\4\0\0\0\xff\xff\xff\xff")))
    assert "cannot encode the text that begins with 'a': index out" in refusal(tmp_path, content)


def test_an_interruption_is_no_mistake_in_a_file():
    with pytest.raises(KeyboardInterrupt), refusing("the file is damaged"):
        raise KeyboardInterrupt


def test_a_character_without_any_piece_is_refused():
    made = Tokenizer(unigram([("a", -1.0), ("▁", -1.5)], None))
    assert made.encode("a a") == made.backend.encode("a a").ids
    with pytest.raises(UserError, match="text that begins with 'a漢': Encountered an unknown"):
        made.encode("a漢")


@pytest.mark.parametrize("pattern", [r"[\s\S]", "(?m:.)", "(?m)."])
def test_characters_that_any_pattern_cuts_singly_have_the_ids_of_the_library(pattern, tmp_path):
    made = load(tmp_path, changed(CHARACTERS, ("pre_tokenizer", split(pattern))))
    assert made.encode("a\n\ncb") == made.backend.encode("a\n\ncb").ids


def test_the_largest_id_is_large_enough_for_any_vocabulary_and_quickly_read(tmp_path):
    made = load(tmp_path, changed(BPE, (*VOCABULARY, "ab", LARGEST_ID)))
    assert made.vocab_size == LARGEST_ID + 1
    assert made.decode(made.encode("abc ab")) == "abc ab"


def test_a_prefix_in_the_form_of_roberta_is_put_before_a_text(tmp_path):
    content = changed(LIKE_LLAMA, ("post_processor", None))
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    loaded = load(tmp_path, json.loads(made.to_str()))
    assert loaded.prefix == [1]
    assert [*loaded.prefix, *loaded.encode("the cat"), 2] == made.encode("the cat").ids


def test_a_prefix_of_two_post_processors_in_another_order_is_refused(tmp_path):
    parts = [template(name, ids={name: i}) for name, i in (("<s>", 1), ("</s>", 2))]
    content = changed(LIKE_LLAMA, ("post_processor", {"type": "Sequence", "processors": parts}))
    assert "by its post_processor; wanted [1, 2, " in refusal(tmp_path, content)


VALUES = [
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "a",
    "\x1b[31m\n",
    [],
    {},
    ["a", 1],
    {"type": "Lowercase"},
    {"type": "ByteLevel"},
]
BASES = {"bpe": BPE, "characters": CHARACTERS, "like Llama's": LIKE_LLAMA, "unigram": UNIGRAM}


def places(part, before=()):
    """Yield the keys that lead to each part of a tokenizer.json, of long lists to the first few."""
    pairs = list(
        part.items()
        if isinstance(part, dict)
        else enumerate(part)
        if isinstance(part, list)
        else ()
    )
    for key, value in pairs[: 20 if len(pairs) < 20 else 2]:
        yield (*before, key)
        yield from places(value, (*before, key))


def answer(folder, content, text) -> list[int] | None:
    """Return the ids of a text, or None where the tokenizer or the text is refused."""
    with contextlib.suppress(UserError):
        return load(folder, content).encode(text)
    return None


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_whatever_is_changed_the_ids_are_those_of_the_library_or_refused(base, tmp_path):
    text, taken = "abc\n\n ab c", 0
    for place in places(base):
        for value in VALUES:
            ids = answer(tmp_path, changed(base, (*place, value)), text)
            if ids is not None:
                theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
                theirs.encode_special_tokens = True
                theirs.no_truncation()
                theirs.no_padding()
                assert ids == theirs.encode(text, add_special_tokens=False).ids, (place, value)
                taken += 1
    assert taken > 10
