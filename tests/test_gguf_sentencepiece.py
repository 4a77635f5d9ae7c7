import contextlib
import doctest
import json
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, models

from minigpt.errors import UserError
from minigpt.interop import gguf_sentencepiece
from minigpt.interop.gguf import read_gguf_vocabulary
from minigpt.interop.gguf_sentencepiece import scores_of
from minigpt.tokenizer import Tokenizer

from .conftest import nonsense, sentencepiece_like
from .llama_cpp import Llama, small_for, written

WORDS = (
    "the cat  ran under   a tree.\n\n  the dog sat on größe 😀👩‍👩‍👧 and ÄÖÜ\tthen\r\n naïve ▁▁ 你好 1 < 2 > 0 "
    "   the mat "
)
TEXT = f"{WORDS} </s> <s>a<0x0A>  <unk>é "
LEARNT = sentencepiece_like(WORDS + nonsense(800), 440).to_str()


def changed(change) -> Tokenizer:
    """Return a tokenizer like that of Llama 2 whose tokenizer.json `change` has been at."""
    content = json.loads(LEARNT)
    change(content)
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)), eos="</s>")


def spaces(scheme: str, cuts: bool = False):
    """Return a change that has spaces replaced, and put before a text, by a pre-tokenizer as in newer files."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cuts}
    return lambda content: content.update(normalizer=None, pre_tokenizer=metaspace)


def no_space_before(content):
    content["normalizer"] = content["normalizer"]["normalizers"][1]


def cut_at_spaces(content):
    spaces("never", cuts=True)(content)
    model = content["model"]
    model["merges"] = [pair for pair in model["merges"] if "▁" not in "".join(pair)[1:]]
    model["vocab"] = {name: i for name, i in model["vocab"].items() if "▁" not in name[1:]}


def converted(content):
    """Every pair that makes up a piece becomes a merge, as where a tokenizer.json is made from a SentencePiece file."""
    model, vocabulary = content["model"], content["model"]["vocab"]
    pieces = ["".join(pair) for pair in model["merges"]]
    ways = {p: [(p[:i], p[i:]) for i in range(1, len(p))] for p in pieces}
    there = {p: [w for w in ways[p] if vocabulary.keys() >= {*w}] for p in pieces}
    model["merges"] = [w for p in pieces for w in sorted(there[p], key=lambda w: vocabulary[w[0]])]


SAME = {
    "as Llama 2": lambda content: None,
    "converted": converted,
    "no space before": no_space_before,
    "Metaspace, always": spaces("always"),
    "Metaspace, first": spaces("first"),
    "Metaspace, never": spaces("never"),
    "Metaspace, cut": cut_at_spaces,
}


def texts() -> list[str]:
    """Return parts of a text, and random characters of it, each of them somewhere at the beginning."""
    letters = np.random.default_rng(0).choice([*TEXT], 3000)
    random = "".join(letters)
    parts = [TEXT[i:j] for i, j in pairwise(range(0, len(TEXT), 7))]
    return ["", "a", " ", "  ", "\n", TEXT, *parts, nonsense(200), random, *random.split("\n")]


@pytest.mark.parametrize("name", SAME)
def test_llama_cpp_has_the_same_ids_and_the_same_text(name, tmp_path):
    tokenizer, said = changed(SAME[name]), []
    path = written(tmp_path, small_for(tokenizer, 4), tokenizer, say=said.append)
    llama = Llama(path)
    assert tokenizer.kind == "other"
    known = [t for t in texts() if not said or not t.startswith((" ", "▁"))]
    assert len(known) > 40
    for text in known:
        ids = tokenizer.encode(text)
        assert llama.encode(text) == ids
        assert llama.encode(text, add_special=True) == [*tokenizer.prefix, *ids] == [1, *ids]
        stream = tokenizer.stream()  # it goes on from what was before, as llama.cpp does
        assert llama.decode(ids) == "".join(map(stream.push, ids)) + stream.finish()
        assert tokenizer.decode(ids) == text.replace("▁", " ")
    assert llama.encode("<s></s>", parse_special=True) == [1, 2]
    assert len(said) == (name in ("Metaspace, always", "Metaspace, first"))


def test_where_a_text_begins_with_a_space_the_difference_is_said(tmp_path):
    tokenizer, said = changed(spaces("first")), []
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer, say=said.append))
    assert "not before one that begins with a space" in said[0]
    assert llama.encode(" the") != tokenizer.encode(" the") == tokenizer.encode("the")


def test_each_token_has_its_kind(tmp_path):
    tokenizer = changed(lambda content: None)
    found = read_gguf_vocabulary(written(tmp_path, small_for(tokenizer, 1), tokenizer))
    unknown, control, normal, unused, byte = 2, 3, 1, 5, 6
    assert found.token_type[:5] == [unknown, control, control, byte, byte]
    assert found.token_type[3:259] == [byte] * 256
    assert {*found.token_type[259:-1]} == {normal}
    assert (found.token_type[-1], found.tokens[-1]) == (unused, f"[PAD{tokenizer.vocab_size}]")
    assert (found.bos_token_id, found.eos_token_id, found.unknown_token_id) == (1, 2, 0)
    assert (found.model, found.add_bos_token, found.add_space_prefix) == ("llama", True, True)


def test_llama_cpp_finds_added_tokens_in_a_text(tmp_path):
    backend = tokenizers.Tokenizer.from_str(LEARNT)
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<x>", "größe")])
    tokenizer = Tokenizer(backend, eos="</s>")
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer))
    for text in ("<x>", "the <x><x> cat", "a<x>größe  b größegröße", "<x> a"):
        assert llama.encode(text) == tokenizer.encode(text)


def test_a_score_is_the_place_of_the_last_pair_that_a_piece_comes_of():
    # "abc" is joined from a and bc, because bc comes first; its own first merge is never used.
    merges = [("b", "c"), ("ab", "c"), ("a", "b"), ("a", "bc")]
    assert scores_of(["abc", "bc", "ab", "a", "xyz"], merges) == [-4, -1, -3, 0, 0]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(gguf_sentencepiece) == (0, 1)


def joined_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """Return a text in pieces, as llama.cpp makes them: the neighbours with the best score first, then the leftmost."""
    parts = [*text]
    while found := [
        (-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores
    ]:
        _, place = min(found)
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
    return parts


def random_merges(rng) -> list[tuple[str, str]]:
    """Return pairs of letters or of what earlier pairs make, some in two ways, in any order."""
    pieces, merges = [*"abc"], {}
    for _ in range(rng.integers(2, 12)):
        left, right = rng.choice(pieces, 2)
        merges[str(left), str(right)] = None
        pieces.append(str(left + right))
    return [[*merges][i] for i in rng.permutation(len(merges))]


def test_joining_by_score_is_joining_by_merges_for_any_merges_that_are_not_refused():
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(500):
        merges = random_merges(rng)
        pieces = [*"abc", *dict.fromkeys("".join(pair) for pair in merges)]
        with contextlib.suppress(UserError):
            scores = dict(zip(pieces, scores_of(pieces, merges), strict=True))
            model = models.BPE({piece: i for i, piece in enumerate(pieces)}, merges)
            for _ in range(20):
                text = "".join(rng.choice([*"abc"], 30))
                wanted = [token.value for token in model.tokenize(text)]
                assert joined_by_score(text, scores) == wanted, merges
                compared += 1
    assert compared > 1000


def test_pieces_that_llama_cpp_alone_would_join_are_refused():
    with pytest.raises(UserError, match="never joins 'ab' and 'c', and llama"):
        scores_of(["ab", "abc"], [("a", "b")])


def test_a_special_token_that_llama_cpp_would_find_in_a_text_is_refused(tmp_path):
    tokenizer = Tokenizer(sentencepiece_like("<s <s" * 9, 280), eos="</s>")
    with pytest.raises(UserError, match=r"never joins '<s' and '>', .* because '<s>' is a piece"):
        written(tmp_path, small_for(tokenizer), tokenizer)


def unigram(content):
    pieces = [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0]]
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    content.update(added_tokens=[], post_processor=None)


def without(key: str):
    return lambda content: content["model"]["vocab"].pop(key)


def joins_bytes(content):
    content["model"]["vocab"]["<0x0A><0x0A>"] = 2000
    content["model"]["merges"].append(["<0x0A>", "<0x0A>"])


def lowercases(content):
    content["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})


def adds(scheme: str, **flags):
    """Return a change that adds a token which is not special."""

    def change(content):
        content["model"]["vocab"]["<x>"] = len(content["model"]["vocab"])
        token = {"id": content["model"]["vocab"]["<x>"], "content": "<x>", "special": False}
        flag = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append(token | flag | flags)
        if scheme:
            spaces(scheme)(content)

    return change


REFUSED = {
    "is of type Unigram": unigram,
    "has ignore_merges = True": lambda c: c["model"].update(ignore_merges=True),
    "has no pieces <0x00> to <0xFF>": lambda c: c["model"].update(byte_fallback=False),
    r"has no pieces <0x00> to <0xFF> for": without("<0x41>"),
    "joins bytes like": joins_bytes,
    "changes and cuts text otherwise .*Lowercase": lowercases,
    "changes and cuts text otherwise .*null, null": lambda c: c.update(normalizer=None),
    "cuts text at spaces, so '.+' never comes of it": spaces("never", cuts=True),
    "has added tokens and puts a space .* by the rule 'first'": adds("first"),
    "looks for '<x>' with normalized": adds("", normalized=True),
}


@pytest.mark.parametrize(("sentence", "change"), REFUSED.items(), ids=REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(sentence, change, tmp_path):
    tokenizer = changed(change)
    with pytest.raises(UserError, match=f"{sentence}.*export it with --to hf"):
        written(tmp_path, small_for(tokenizer), tokenizer)
    assert not list(tmp_path.iterdir())
