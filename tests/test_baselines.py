import math

import numpy as np
import pytest

from minigpt.evaluate.baselines import baselines, bigram_loss, unigram_loss
from minigpt.tokenizer import char_tokenizer

TRAIN = np.array([0, 1, 0, 1, 0, 2], dtype=np.uint16)


def test_counts_worked_out_by_hand():
    # Of 6 tokens: 0 three times, 1 twice, 2 once; one is added to each, 4 ids in all.
    assert unigram_loss(TRAIN, np.array([3, 0, 1]), 4) == pytest.approx(
        -(math.log(4 / 10) + math.log(3 / 10)) / 2
    )
    # After 0: 1 twice, 2 once. After 1: 0 twice. After 3: nothing.
    pairs = {(0, 1): 3 / 7, (1, 0): 3 / 6, (0, 0): 1 / 7, (3, 2): 1 / 4}
    for (first, second), chance in pairs.items():
        assert bigram_loss(TRAIN, np.array([first, second]), 4) == pytest.approx(-math.log(chance))


def test_each_baseline_is_a_distribution():
    for before in range(4):
        chances = [
            math.exp(-bigram_loss(TRAIN, np.array([before, after]), 4)) for after in range(4)
        ]
        assert sum(chances) == pytest.approx(1)
        assert sum(
            math.exp(-unigram_loss(TRAIN, np.array([before, after]), 4)) for after in range(4)
        ) == pytest.approx(1)


def test_knowing_more_costs_less():
    tokenizer = char_tokenizer(["a", "b", "c"])
    train = np.array(tokenizer.encode("abcab" * 200))
    found = baselines(train, train, tokenizer)
    losses = [found[name]["loss"] for name in ("uniform", "unigram", "bigram")]
    assert losses == sorted(losses, reverse=True)
    assert found["mlp"]["loss"] < found["unigram"]["loss"]
    assert found["trigram"]["loss"] < found["bigram"]["loss"]
    assert found["uniform"]["loss"] == pytest.approx(math.log(4))
    assert found["bigram"]["bits_per_byte"] == pytest.approx(found["bigram"]["loss"] / math.log(2))


def test_what_would_take_long_is_left_out(monkeypatch):
    monkeypatch.setattr("minigpt.evaluate.mlp_bigram.LARGEST_VOCABULARY", 3)
    tokenizer = char_tokenizer(["a", "b", "c"])
    train = np.array(tokenizer.encode("abcab" * 20))
    assert list(baselines(train, train, tokenizer)) == ["uniform", "unigram", "bigram", "trigram"]
