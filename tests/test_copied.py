import random

import numpy as np
import pytest
import torch

from minigpt.data.shards import TokenSequence
from minigpt.errors import UserError
from minigpt.evaluate import copied
from minigpt.evaluate.copied import (
    Copied,
    as_text,
    beginnings,
    draw,
    find_copies,
    judge,
    measure_copied,
    share,
)
from minigpt.evaluate.measure import tokens_of
from minigpt.model.transformer import GPT
from minigpt.pretrain import train
from minigpt.rundir import RunDir
from minigpt.tokenizer import Tokenizer

from .conftest import tiny
from .test_pretrain import changed


def slowly(corpus: np.ndarray, text: np.ndarray, n: int) -> Copied:
    """Return what `find_copies` returns for one text, from all spans as Python's own tuples."""
    known = {}
    for length in range(1, len(text) + 1):
        known[length] = {tuple(corpus[i : i + length]) for i in range(len(corpus) - length + 1)}
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    spans = [
        (length, -i)
        for length, there in known.items()
        for i in range(len(text) - length + 1)
        if tuple(text[i : i + length]) in there
    ]
    longest, start = max(spans, default=(0, 0))
    return Copied(len(grams), sum(gram in known[n] for gram in grams), longest, -start)


@pytest.mark.parametrize("ids", [2, 5, 300])
@pytest.mark.parametrize("block", [7, 1000])
def test_copies_are_what_comparing_all_spans_finds(ids, block, monkeypatch):
    monkeypatch.setattr(copied, "BLOCK", block)
    generator = np.random.default_rng(ids)
    corpus = generator.integers(ids, size=200, dtype=np.uint16)
    texts = [generator.integers(ids, size=size) for size in (1, 3, 4, 12, 30, 0)]
    texts.append(corpus[60:90].astype(np.int64))
    parts = TokenSequence([corpus[:50], corpus[50:51], corpus[51:]])
    for found, text in zip(find_copies(parts, texts, 4, ids), texts, strict=True):
        wanted = slowly(corpus, text, min(4, max(1, len(text))))
        assert found.longest == wanted.longest
        span = text[found.start : found.start + found.longest]
        assert tuple(span) in {tuple(corpus[i : i + found.longest]) for i in range(len(corpus))}
        assert found.ngrams == max(0, len(text) - 3)
        assert found.copied == (wanted.copied if len(text) >= 4 else 0)


def test_planted_copies_are_found_to_the_token():
    generator = np.random.default_rng(0)
    corpus = generator.integers(1000, size=1 << 19).astype(np.uint16)
    text = generator.integers(1000, 2000, size=300)  # nothing of it occurs
    text[40:137] = corpus[copied.BLOCK - 50 : copied.BLOCK + 47]  # over the end of a block
    text[200:210] = corpus[5:15]
    text[290:300] = corpus[-10:]
    (found,) = find_copies(TokenSequence([corpus]), [text], 8, 2000)
    assert found == Copied(ngrams=293, copied=90 + 3 + 3, longest=97, start=40)


def test_one_token_again_and_again_is_found_too(monkeypatch):
    monkeypatch.setattr(copied, "BLOCK", 64)
    corpus, text = np.zeros(1000, np.uint16), np.array([0] * 20 + [1] + [0] * 30)
    corpus[500:520] = 1
    (found,) = find_copies(TokenSequence([corpus]), [text], 8, 2)
    assert (found.longest, found.start) == (31, 20)


def test_fingerprints_that_are_the_same_do_not_deceive(monkeypatch):
    monkeypatch.setattr(copied, "mixed", lambda ids: np.ones(len(ids), np.uint64))
    corpus = np.random.default_rng(1).integers(3, size=60, dtype=np.uint16)
    text = np.random.default_rng(2).integers(3, size=12)
    (found,) = find_copies(TokenSequence([corpus]), [text], 4, 3)
    assert found == slowly(corpus, text, 4)


def test_too_many_texts_are_refused(monkeypatch):
    monkeypatch.setattr(copied, "LONGEST", 10)
    with pytest.raises(UserError, match="the texts have 11 tokens; at most 10"):
        find_copies(TokenSequence([np.zeros(5, np.uint16)]), [np.zeros(11, np.int64)], 4, 2)


def test_prompts_are_spread_over_the_held_out_text():
    held_out = TokenSequence([np.arange(10_000, dtype=np.uint16)])
    prompts, passages = beginnings(held_out, 8, 48)
    assert len(prompts) == len(passages) == copied.TEXTS
    assert prompts[0].tolist() == list(range(8))
    assert passages[-1][-1] == 9999
    assert all(b[0] == a[-1] + 1 for a, b in zip(prompts, passages, strict=True))
    prompts, passages = beginnings(TokenSequence([np.arange(40, dtype=np.uint16)]), 8, 6)
    assert [p.tolist() for p in prompts] == [[0, 1, 2]]
    assert len(passages[0]) == 37
    with pytest.raises(UserError, match="the held-out part has 10 tokens; 16 are needed"):
        beginnings(TokenSequence([np.arange(10, dtype=np.uint16)]), 8, 48)


def test_a_model_that_has_learnt_nothing_copies_nothing(trained):
    tokens, tokenizer = tokens_of(trained), Tokenizer.load(trained)
    torch.manual_seed(0)
    model = GPT(tiny(vocab_size=tokenizer.vocab_size, block_size=48)).eval()
    prompts, passages = beginnings(tokens.val, 8, 48)
    drawn = draw(model, tokenizer, prompts, len(passages[0]))
    assert share(find_copies(tokens.train, drawn, 8, tokenizer.vocab_size)) == 0.0
    assert share(find_copies(tokens.train, [tokens.train[50:300]], 8, tokenizer.vocab_size)) == 1.0


def test_texts_are_drawn_again_the_same(trained):
    found = measure_copied(trained)
    again = measure_copied(trained)
    assert found["samples"] == again["samples"]
    assert found["ngram"] == 8
    assert len(found["samples"]) >= 2
    assert found["longest"] == max(one["longest"] for one in found["samples"])
    assert 2 < found["longest"] < 100
    assert abs(found["train_loss"] - found["held_out_loss"]) < 0.1 * found["held_out_loss"]
    corpus = Tokenizer.load(trained).decode(tokens_of(trained).train[:].tolist())
    assert all(one["text"].strip("\ufffd") in corpus for one in found["samples"])
    assert found["sentence"] in as_text(found)


@pytest.mark.slow
def test_a_text_that_is_learnt_by_heart_is_called_so(small_config, tmp_path):
    rng = random.Random(0)
    text = tmp_path / "noise.txt"
    text.write_text("".join(rng.choices("abcdefgh", k=400)))
    config = changed(
        small_config, data={"source": str(text)}, model={"n_embd": 64, "dropout": 0.0},
        train={"steps": 300, "eval_every": 300, "micro_batch_size": 8}, sample={"prompt": "a"},
    )  # fmt: skip
    run = train(config, tmp_path / "run")
    found = measure_copied(RunDir(run).newest_whole()[0].path)
    assert found["verdict"] == "memorising"
    assert found["ngram"] == 32


def test_the_verdict_goes_by_the_gap_and_by_what_is_copied():
    assert judge(2.0, 2.05, 0.03, 0.03, 8).kind == "generalising"
    assert judge(1.7, 2.0, 0.03, 0.03, 8).kind == "between"
    assert judge(1.2, 2.0, 0.03, 0.03, 8).kind == "memorising"
    assert judge(2.0, 2.0, 0.3, 0.03, 8).kind == "memorising"
    assert "(2.4% less)" in judge(2.0, 2.05, 0.03, 0.03, 8).sentence
