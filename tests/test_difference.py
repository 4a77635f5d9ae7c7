import math

import numpy as np
import pytest

from minigpt.evaluate.clusters import difference_error
from minigpt.evaluate.difference import difference
from minigpt.evaluate.likelihood import evaluate
from minigpt.loss import TrainStep
from minigpt.tokenizer import bpe_tokenizer

from .test_transformer import model

BYTES = bpe_tokenizer([])
MERGED = bpe_tokenizer([(97, 98), (99, 100), (256, 257)])  # ab, cd, abcd
TEXT = "".join(np.random.default_rng(0).choice(["ab", "cd", "abcd", "e"], 900))


def found(tokenizer, text=TEXT, **options):
    small = TrainStep(model(vocab_size=tokenizer.vocab_size, seed=options.pop("seed", 0)))
    return evaluate(small, np.array(tokenizer.encode(text)), tokenizer, **options)


def test_the_same_windows_are_paired():
    first, other = found(BYTES), found(BYTES, seed=1)
    known = difference(first, other)
    assert known["paired_by"] == "windows"
    assert known["pairs"] == math.ceil((len(TEXT) - 1) / 12)
    assert known["loss"] == other.loss - first.loss
    assert known["bits_per_byte"] == pytest.approx(known["loss"] / math.log(2))
    # Every window but the last one has twelve bytes: nearly the standard error of a mean.
    apart = (other.windows.nats - first.windows.nats)[:-1] / 12
    wanted = apart.std(ddof=1) / math.sqrt(len(apart))
    assert known["loss_stderr"] == pytest.approx(wanted, rel=0.02)
    assert known["bits_per_byte_stderr"] == pytest.approx(known["loss_stderr"] / math.log(2))


def test_a_model_is_no_different_from_itself():
    known = difference(found(BYTES), found(BYTES))
    assert (known["bits_per_byte"], known["bits_per_byte_stderr"]) == (0, 0)


def test_other_tokens_are_paired_by_the_bytes_of_the_text():
    first, other = found(BYTES), found(MERGED)
    known = difference(first, other)
    assert known["paired_by"] == "bytes"
    assert "loss" not in known
    assert known["bits_per_byte"] == other.bits_per_byte - first.bits_per_byte
    # Windows of twelve tokens have fewer bytes than a slice: each slice is a stretch.
    assert known["pairs"] == math.ceil(len(TEXT) / 128)
    bits = [(one.slices.nats / math.log(2), one.slices.bytes) for one in (first, other)]
    assert known["bits_per_byte_stderr"] == difference_error(*bits)
    assert sum(one.slices.bytes.sum() for one in (first,)) == len(TEXT) - 1


def test_other_windows_of_the_same_tokens_are_paired_by_bytes():
    known = difference(found(BYTES), found(BYTES, context=6))
    assert known["paired_by"] == "bytes"


def test_stretches_are_at_least_as_long_as_a_window(monkeypatch):
    monkeypatch.setattr("minigpt.evaluate.likelihood.SLICE_BYTES", 4)
    monkeypatch.setattr("minigpt.evaluate.difference.SLICE_BYTES", 4)
    first, other = found(BYTES), found(MERGED)
    size = other.windows.bytes.sum() / len(other.windows.bytes)
    count = math.ceil(size / 4)
    assert difference(first, other)["pairs"] == math.ceil(math.ceil(len(TEXT) / 4) / count)


def test_texts_that_do_not_line_up_are_not_paired():
    first, other = found(BYTES), found(MERGED, " " + TEXT)
    known = difference(first, other)
    assert known["paired_by"] is None
    wanted = math.hypot(first.bits_per_byte_stderr, other.bits_per_byte_stderr)
    assert known["bits_per_byte_stderr"] == wanted


def test_of_one_stretch_there_is_no_standard_error():
    known = difference(found(BYTES, "abc"), found(MERGED, "abc"))
    assert known["bits_per_byte_stderr"] is None
    assert known["pairs"] == 1
