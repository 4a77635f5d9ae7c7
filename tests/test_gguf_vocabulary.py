import json
import urllib.error

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, normalizers, processors

from minigpt.errors import UserError
from minigpt.interop.gguf import read_gguf_vocabulary
from minigpt.interop.gguf_reader import read_header
from minigpt.interop.gguf_vocabulary import SPLITS, vocabulary_of
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.bpe import count_words, train_merges

from .conftest import nonsense
from .llama_cpp import LETTERS, Llama, made, rewritten, small_for, written

TEXT = (
    "Es war  einmal ein Bär,\n\n  der aß 12345 Äpfel (für 3,50 €).\tThen I'll say: DON'T!   \n"
    "naïve café — 你好，世界 🙂👩‍👩‍👧 \r\n x=y+1;// ok   "
)


def published_split(name: str) -> Tokenizer:
    """Return a BPE that cuts text as Llama 3 or SmolLM does, in the words of their tokenizer.json."""
    ours = bpe_tokenizer(train_merges(count_words([TEXT, nonsense(200)]), 60))
    content = json.loads(ours.backend.to_str())
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if name == "smollm":
        first = {"type": "Digits", "individual_digits": True}
        parts = [first, bytes_only | {"use_regex": True}]
    else:
        expression = next(key[0] for key, value in SPLITS.items() if value == name)
        first = {
            "type": "Split",
            "pattern": {"Regex": expression},
            "behavior": "Isolated",
            "invert": False,
        }
        parts = [first, bytes_only | {"use_regex": False}]
        content["model"]["ignore_merges"] = True
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


def trained(pattern: str) -> Tokenizer:
    return bpe_tokenizer(train_merges(count_words([TEXT, nonsense(200)], pattern), 60), pattern)


def like_llama_3() -> Tokenizer:
    """Return a BPE that puts <|begin_of_text|> before a text, in the words of the tokenizer.json of Llama 3."""
    made = published_split("llama-bpe").backend
    made.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    begin = ("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin]),
        ]
    )
    return Tokenizer(made, eos="<|end_of_text|>")


TOKENIZERS = {
    "gpt-2": lambda: trained("gpt2"),
    "qwen2": lambda: trained("qwen2"),
    "llama-bpe": lambda: published_split("llama-bpe"),
    "smollm": lambda: published_split("smollm"),
    "characters": lambda: char_tokenizer(sorted(set(TEXT))),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_has_the_same_ids_and_the_same_text(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    path = written(tmp_path, small_for(tokenizer, spare=5), tokenizer)
    assert read_header(path)[0].get("tokenizer.ggml.pre", "characters") == name
    llama = Llama(path)
    parts = [TEXT, *TEXT.split(" "), *TEXT.split("\n"), " ", "\n", "  \n ", "a x"]
    for text in parts:
        ids = tokenizer.encode(text)
        assert llama.encode(text) == ids
        assert llama.decode(ids) == text
        assert llama.encode(text, add_special=True) == ids  # nothing is put before or after it
    assert llama.encode("<|endoftext|>", parse_special=True) == [tokenizer.eos_id]


def test_llama_cpp_puts_the_same_id_before_a_text(tmp_path):
    tokenizer = like_llama_3()
    path = written(tmp_path, small_for(tokenizer), tokenizer)
    assert read_gguf_vocabulary(path).bos_token_id == tokenizer.bos_id != tokenizer.eos_id
    llama = Llama(path)
    for text in (TEXT, "a", ""):
        wanted = [*tokenizer.prefix, *tokenizer.encode(text)]
        assert llama.encode(text, add_special=True) == wanted
        assert wanted[0] == tokenizer.backend.token_to_id("<|begin_of_text|>")


def test_two_ids_before_a_text_are_refused(tmp_path):
    tokenizer = like_llama_3()
    tokenizer.prefix *= 2
    with pytest.raises(UserError, match="puts 2 ids before a text, and llama"):
        written(tmp_path, small_for(tokenizer), tokenizer)


@pytest.mark.parametrize("pattern", ["gpt2", "qwen2"])
def test_llama_cpp_has_the_same_ids_for_random_text(pattern, tmp_path):
    tokenizer = trained(pattern)
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer))
    letters = np.array([*"aB'sl 1é\n\r\t.!²٣あ🙂ß\u00a0\u2003<|>_-"])
    text = "".join(np.random.default_rng(0).choice(letters, 4000))
    assert llama.encode(text) == tokenizer.encode(text)
    assert llama.decode(tokenizer.encode(text)) == text


def test_llama_cpp_stops_at_our_end_of_text(tmp_path):
    llama = Llama(written(tmp_path, made()))
    answer = llama.complete(prompt=[3, 4], n_predict=5, logit_bias=[[28, 100]])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 1


def test_llama_cpp_refuses_a_character_that_ours_refuses(tmp_path):
    llama = Llama(written(tmp_path, made()))
    with pytest.raises(UserError, match="does not know 'Q'"):
        LETTERS.encode("aQ")
    with pytest.raises(urllib.error.HTTPError, match="500"):
        llama.encode("aQ")


def test_llama_cpp_applies_the_chat_template(tmp_path):
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = trained("qwen2")
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer, chat_template=template))
    answer = llama.post("apply-template", {"messages": [{"role": "user", "content": "hello"}]})
    assert answer["prompt"] == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_vocabulary_in_the_file_is_the_one_that_was_given(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    path = written(tmp_path, small_for(tokenizer, spare=2), tokenizer)
    found = read_gguf_vocabulary(path)
    assert found == vocabulary_of(tokenizer, tokenizer.vocab_size + 2, pytest.fail)
    assert found != vocabulary_of(tokenizer, tokenizer.vocab_size + 3, pytest.fail)
    assert found.eos_token_id == tokenizer.eos_id
    assert found.token_type[-3:] == [
        3,
        5,
        5,
    ]  # end of text or <|im_end|>, and two that stand for nothing


def test_a_spare_row_is_the_end_where_the_tokenizer_has_none(tmp_path):
    endless = Tokenizer(LETTERS.backend, eos="<|nothing|>")
    path = written(tmp_path, made(vocab_size=30), endless)
    assert read_gguf_vocabulary(path).eos_token_id == 29
    with pytest.raises(UserError, match="no token that ends a text"):
        written(tmp_path, made(), endless)


def test_composing_characters_first_is_said(tmp_path):
    tokenizer = trained("qwen2")
    tokenizer.backend.normalizer = normalizers.NFC()
    said = []
    written(tmp_path, small_for(tokenizer), tokenizer, say=said.append)
    assert len(said) == 1
    assert "NFC" in said[0]


def changed(change, pattern: str = "qwen2") -> Tokenizer:
    """Return a BPE tokenizer whose tokenizer.json `change` has been at."""
    content = json.loads(trained(pattern).backend.to_str())
    change(content)
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


def cut_elsewhere(content):
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\P{L}+"


def add_prefix(content):
    content["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


REFUSED = {
    "by a pattern that llama.cpp has under none of the names gpt-2": lambda: changed(cut_elsewhere),
    "has under none of the names": lambda: changed(add_prefix),
    "changes text by Lowercase first": lambda: changed(
        lambda c: c.update(normalizer={"type": "Lowercase"})
    ),
    "has ignore_merges = True": lambda: changed(lambda c: c["model"].update(ignore_merges=True)),
    "has no merges": lambda: bpe_tokenizer([]),
    r"has the character U\+2581": lambda: char_tokenizer([" ", "a", "▁"]),
    r"has the character U\+0000": lambda: char_tokenizer(["\0", "a"]),
}


@pytest.mark.parametrize(("sentence", "make"), REFUSED.items(), ids=REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(sentence, make, tmp_path):
    tokenizer = make()
    with pytest.raises(UserError, match=sentence):
        written(tmp_path, small_for(tokenizer), tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_an_added_token_that_takes_more_than_its_letters_is_refused(flag, tmp_path):
    tokenizer = trained("gpt2")
    tokenizer.backend.add_tokens([AddedToken("<x>", **{flag: True})])
    tokenizer = Tokenizer(tokenizer.backend)
    with pytest.raises(UserError, match=f"looks for '<x>' with {flag}, which llama.cpp does not"):
        written(tmp_path, small_for(tokenizer), tokenizer)


def test_llama_cpp_finds_added_tokens_in_a_text(tmp_path):
    tokenizer = trained("gpt2")
    tokenizer.backend.add_tokens(["<x>", "<y>"])
    tokenizer = Tokenizer(tokenizer.backend)
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer))
    text = "the <x><y> cat<x> <|endoftext|>"
    assert llama.encode(text) == tokenizer.encode(text)
    assert llama.decode(tokenizer.encode(text)) == text


def test_a_piece_that_looks_like_a_spare_row_is_refused(tmp_path):
    tokenizer = trained("gpt2")
    size = tokenizer.vocab_size
    tokenizer.backend.add_tokens([AddedToken(f"[PAD{size + 1}]")])
    tokenizer = Tokenizer(tokenizer.backend)
    with pytest.raises(UserError, match=rf"has the piece '\[PAD{size + 1}\]' twice"):
        written(tmp_path, small_for(tokenizer, spare=1), tokenizer)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 29 ids but the model was built for 20"):
        written(tmp_path, made(vocab_size=20))


def test_a_file_without_a_tokenizer_is_refused_where_one_is_asked_for(tmp_path):
    path = rewritten(written(tmp_path, made()), drop=["tokenizer.ggml.tokens"])
    with pytest.raises(UserError, match=r"it has no tokenizer\.ggml\.tokens"):
        read_gguf_vocabulary(path)
