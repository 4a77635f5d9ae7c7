import math

import numpy as np
import pytest

from minigpt.evaluate.clusters import Sums, Tally, difference_error, standard_error

ABOVE, BELOW = np.array([4.0, 5.0, 9.0]), np.array([2.0, 2.0, 4.0])


def test_a_standard_error_worked_out_by_hand():
    # 18 / 8 = 2.25; what is left of each: 4 - 4.5, 5 - 4.5, 9 - 9, over 8.
    assert standard_error(ABOVE, BELOW) == pytest.approx(math.sqrt(3 / 2 * (0.25 + 0.25)) / 8)


def test_with_equal_stretches_it_is_that_of_a_mean():
    above = np.random.default_rng(0).normal(3.0, 1.0, 50)
    wanted = above.std(ddof=1) / math.sqrt(50)
    assert standard_error(above, np.ones(50)) == pytest.approx(wanted)


def test_it_is_how_far_ratios_of_other_texts_lie_apart():
    random = np.random.default_rng(0)
    ratios, errors = [], []
    for _ in range(400):
        below = random.integers(20, 60, 40).astype(float)
        above = below * random.normal(3.0, 0.5, 40)
        ratios.append(above.sum() / below.sum())
        errors.append(standard_error(above, below))
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)


def test_empty_stretches_are_none():
    above, below = np.append(ABOVE, [0.0, 0.0]), np.append(BELOW, [0.0, 0.0])
    assert standard_error(above, below) == standard_error(ABOVE, BELOW)
    assert standard_error(ABOVE[:1], BELOW[:1]) is None
    assert standard_error(np.zeros(3), np.zeros(3)) is None


def test_what_is_hard_for_both_cancels():
    other = (ABOVE + 0.5 * BELOW, BELOW)
    assert difference_error((ABOVE, BELOW), other) == pytest.approx(0, abs=1e-12)
    better = np.array([3.0, 5.0, 8.0])
    # The differences -1, 0, -1 have -2 / 8 on each token.
    left = np.array([-1 + 0.5, 0 + 0.5, -1 + 1]) / 8
    wanted = math.sqrt(3 / 2 * (left**2).sum())
    assert difference_error((ABOVE, BELOW), (better, BELOW)) == pytest.approx(wanted)


def test_a_tally_adds_up_by_stretch_in_any_order():
    tally = Tally()
    tally.add(np.array([4, 4, 5]), np.array([1.0, 2.0, 3.0]), np.array([1, 0, 2]))
    tally.add(np.array([0, 4]), np.array([0.5, 0.25]), np.array([7, 1]))
    nats, tokens, sizes = tally.sums()
    assert nats.tolist() == [0.5, 0, 0, 0, 3.25, 3.0]
    assert tokens.tolist() == [1, 0, 0, 0, 3, 1]
    assert sizes.tolist() == [7, 0, 0, 0, 2, 2]


def test_stretches_are_joined_and_filled():
    sums = Sums(np.arange(5.0), np.ones(5), 2 * np.ones(5))
    assert sums.joined(2).nats.tolist() == [1.0, 5.0, 4.0]
    assert sums.joined(2).bytes.tolist() == [4.0, 4.0, 2.0]
    assert sums.filled(7).tokens.tolist() == [1, 1, 1, 1, 1, 0, 0]
