import math

import numpy as np
import pytest

from minigpt.evaluate.trigram import LARGEST_VOCABULARY, MOST_DISCOUNT, Trigrams

TRAIN = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 0], dtype=np.uint16)


def test_chances_worked_out_by_hand():
    # Three in a row: 012 twice, 120 twice, 201 twice, 013 once, 130 once.
    # Their ends: 12, 20, 01, 13, 30, each after one other token. Of those the ends: 0 twice, 1, 2, 3 once each.
    found = Trigrams(TRAIN, 4)
    after_three, after_two, after_one = 2 / (2 + 2 * 3), MOST_DISCOUNT, 3 / (3 + 2 * 1)
    # None of the pairs stands after two different tokens, so their discount would be 1.
    alone = {
        0: (2 - after_one) / 5 + after_one * 4 / 5 / 4,
        2: (1 - after_one) / 5 + after_one * 4 / 5 / 4,
    }
    pair = {
        (1, 2): (1 - after_two) / 2 + after_two * 2 / 2 * alone[2],
        (0, 2): after_two * 1 / 1 * alone[2],
        (1, 0): after_two * 2 / 2 * alone[0],
    }
    for (first, second), chance in pair.items():
        assert found.after_one(np.array([first * 4 + second])) == pytest.approx(chance)
    triples = {
        (0, 1, 2): (2 - after_three) / 3 + after_three * 2 / 3 * pair[1, 2],
        (0, 1, 0): after_three * 2 / 3 * pair[1, 0],
        (1, 0, 2): pair[0, 2],  # 10 was never seen
    }
    for (first, second, third), chance in triples.items():
        gram = (first * 4 + second) * 4 + third
        assert found.after_two(np.array([gram])) == pytest.approx(chance)


@pytest.mark.parametrize(
    "train", [TRAIN, TRAIN[:1], TRAIN[:2], np.zeros(50, np.uint16), np.arange(50) % 4]
)
def test_after_any_history_the_chances_sum_to_one(train):
    found = Trigrams(train, 5)
    for history in range(25):
        chances = found.after_two(history * 5 + np.arange(5))
        assert chances.sum() == pytest.approx(1)
        assert chances.min() > 0
    for last in range(5):
        assert found.after_one(last * 5 + np.arange(5)).sum() == pytest.approx(1)


def test_the_loss_is_that_of_each_token_after_the_two_before_it():
    found, val = Trigrams(TRAIN, 4), [0, 1, 2, 0, 1, 2, 3, 3, 1]
    nats = -math.log(found.after_one(np.array([0 * 4 + 1]))[0])
    for first, second, third in zip(val, val[1:], val[2:], strict=False):
        nats -= math.log(found.after_two(np.array([(first * 4 + second) * 4 + third]))[0])
    assert found.loss(np.array(val)) == pytest.approx(nats / 8)
    assert found.loss(np.array([0, 1])) == pytest.approx(
        -math.log(found.after_one(np.array([1]))[0])
    )


def test_the_largest_vocabulary_fits_into_a_number():
    last = LARGEST_VOCABULARY - 1
    found = Trigrams(np.full(5, last, np.uint32), LARGEST_VOCABULARY)
    assert found.loss(np.full(5, last, np.uint32)) < 1.0  # of the 14.6 of chance


def test_three_say_more_than_two_where_the_text_is_so():
    text = np.array([0, 1, 1, 2, 1, 3] * 50)
    assert Trigrams(text, 4).loss(text) < 0.1
