import doctest
import math

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
)

from minigpt.inference import filters
from minigpt.inference.filters import (
    LONGEST_PASSAGE,
    add_bias,
    ban,
    followers,
    keep_min_p,
    log_probabilities,
    no_repeat,
    penalise_passages,
    penalise_presence,
    penalise_repetition,
)

INF = float("inf")


def row(*logits):
    return np.array(logits, dtype=np.float32)


def logs(*probabilities):
    return np.log(np.array(probabilities)).astype(np.float32)


def left(logits):
    """Return the ids that are still possible."""
    return np.flatnonzero(logits > -INF).tolist()


def processed(processor, text, logits):
    """Return what a logits processor of transformers makes of a row."""
    ids = torch.tensor([list(text)], dtype=torch.long)
    return processor(ids, torch.from_numpy(logits.copy())[None])[0].numpy()


def random_text(rng):
    """Return a text of few different tokens, so that it repeats itself."""
    return rng.integers(0, rng.integers(1, 6), size=rng.integers(0, 40)).tolist()


def test_the_example_is_true():
    assert doctest.testmod(filters) == (0, 1)


def test_a_bias_is_added_to_its_tokens_alone():
    assert add_bias(row(1, 2, 3), {2: -4.0, 0: 0.5}).tolist() == [1.5, 2.0, -1.0]
    assert add_bias(row(1, 2, 3), {}).tolist() == [1, 2, 3]
    assert add_bias(row(-INF, 2), {0: 100.0}).tolist() == [-INF, 2]


def test_banned_tokens_are_impossible():
    assert ban(row(1, 2, 3), [2, 0, 2]).tolist() == [-INF, 2, -INF]
    assert ban(row(1, 2, 3), []).tolist() == [1, 2, 3]


def test_a_ban_of_every_token_is_refused():
    with pytest.raises(ValueError, match="every token is banned"):
        ban(row(1, 2), [0, 1])
    with pytest.raises(ValueError, match="every token is banned"):
        ban(row(1, -INF), [0])


def test_logits_that_are_no_numbers_are_not_taken_for_a_ban():
    assert np.isnan(ban(row(math.nan, 1), [1])[0])
    assert ban(row(-INF, -INF), [1]).tolist() == [-INF, -INF]


def test_a_repeated_token_is_divided_or_multiplied_once():
    logits = row(3, -3, 0, 4, -4, -INF)
    assert penalise_repetition(logits, [0, 1, 0, 2, 5, 0], 1.5).tolist() == [
        2,
        -4.5,
        0,
        4,
        -4,
        -INF,
    ]
    assert penalise_repetition(logits, [], 1.5).tolist() == logits.tolist()
    assert penalise_repetition(logits, [0, 1, 2], 1.0).tolist() == logits.tolist()


def test_the_lowest_number_is_penalised_without_a_warning():
    lowest = float(np.finfo(np.float32).min)
    assert penalise_repetition(row(lowest, 1), [0], 1.5).tolist() == [-INF, 1]


def test_the_repetition_penalty_is_that_of_transformers():
    rng = np.random.default_rng(0)
    for _ in range(100):
        logits, text = rng.standard_normal(8).astype(np.float32), random_text(rng) or [0]
        penalty = float(rng.uniform(0.5, 2))
        wanted = processed(RepetitionPenaltyLogitsProcessor(penalty), text, logits)
        assert penalise_repetition(logits, text, penalty).tolist() == wanted.tolist()


def test_presence_counts_once_and_frequency_each_time():
    logits = row(5, 5, 5, -INF)
    assert penalise_presence(logits, [2, 0, 2, 2, 3], 0.5, 0.25).tolist() == [4.25, 5, 3.75, -INF]
    assert penalise_presence(logits, [2, 2], -1.0, 0.0).tolist() == [5, 5, 6, -INF]
    assert penalise_presence(logits, [], 0.5, 0.25).tolist() == logits.tolist()


def test_followers_are_those_of_ever_longer_passages():
    found = [tokens.tolist() for tokens in followers([1, 2, 3, 9, 2, 3, 7, 1, 2, 3])]
    assert found == [[9, 7], [9, 7], [9]]
    assert [tokens.tolist() for tokens in followers([4, 4, 4])] == [[4, 4], [4]]
    for text in ([], [1], [1, 2]):
        assert not list(followers(text))


def test_no_passage_comes_twice():
    logits = np.zeros(10, dtype=np.float32)
    text = [1, 2, 3, 9, 2, 3, 7, 1, 2, 3]
    excluded = {
        size: set(range(10)) - set(left(no_repeat(logits, text, size))) for size in range(1, 7)
    }
    assert excluded == {1: {1, 2, 3, 7, 9}, 2: {9, 7}, 3: {9, 7}, 4: {9}, 5: set(), 6: set()}
    assert left(no_repeat(logits, [], 2)) == left(no_repeat(logits, [5], 10**9)) == list(range(10))


def test_without_another_token_a_passage_may_come_twice():
    assert no_repeat(row(1, 2), [0, 1], 1).tolist() == [1, 2]
    assert no_repeat(row(-INF, 2, -INF), [1, 1], 2).tolist() == [-INF, 2, -INF]
    assert no_repeat(row(-INF, 2, 1), [1, 1], 2).tolist() == [-INF, -INF, 1]


def test_no_repeat_is_that_of_transformers():
    rng, excluded = np.random.default_rng(1), 0
    for _ in range(400):
        # The last of the six tokens is in no text, so something is always left.
        logits, text = rng.standard_normal(6).astype(np.float32), random_text(rng) or [0]
        size = int(rng.integers(1, 6))
        wanted = processed(NoRepeatNGramLogitsProcessor(size), text, logits)
        assert no_repeat(logits, text, size).tolist() == wanted.tolist()
        excluded += 6 - len(left(wanted))
    assert excluded > 200


def longest_repetitions(text):
    """Return for each token after how long a repeated passage it would come, in the slow and clear way."""
    found = {}
    for begin in range(len(text)):
        for end in range(begin + 1, len(text)):
            n = end - begin
            if text[begin:end] == text[-n:]:
                found[text[end]] = max(min(n, LONGEST_PASSAGE), found.get(text[end], 0))
    return found


def test_the_longest_repeated_passage_is_what_a_token_pays_for():
    text = [1, 2, 3, 9, 2, 3, 7, 1, 2, 3]
    assert longest_repetitions(text) == {9: 3, 7: 2}
    logits = np.full(10, 4, dtype=np.float32)
    wanted = [4.0] * 10
    wanted[9], wanted[7] = 4 - 3 * 0.5, 4 - 2 * 0.5
    assert penalise_passages(logits, text, 0.5).tolist() == wanted
    for text in ([], [1], [1, 2, 3]):
        assert penalise_passages(logits, text, 0.5).tolist() == logits.tolist()
    assert penalise_passages(row(-INF, 1), [0, 0], 1.0).tolist() == [-INF, 1]


def test_passages_are_penalised_up_to_a_length():
    logits = np.zeros(2, dtype=np.float32)
    for length, counted in ((32, 31), (33, 32), (34, 32), (500, 32)):
        assert penalise_passages(logits, [1] * length, 2.0).tolist() == [0, -2.0 * counted]


def test_penalties_for_passages_are_those_of_the_slow_way():
    rng = np.random.default_rng(2)
    for _ in range(200):
        logits, text = rng.standard_normal(6).astype(np.float32), random_text(rng)
        wanted = logits.astype(np.float64)
        for token, length in longest_repetitions(text).items():
            wanted[token] -= 0.3 * length
        np.testing.assert_allclose(penalise_passages(logits, text, 0.3), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("p", "kept"), [(0.1, [0, 1, 2, 3]), (0.15, [0, 1, 2]), (0.5, [0, 1]), (0.7, [1]), (1.0, [1])]
)
def test_min_p_is_a_share_of_the_likeliest(p, kept):
    logits = logs(0.3, 0.5, 0.14, 0.06)  # 0.6, 1, 0.28 and 0.12 of the likeliest
    assert left(keep_min_p(logits, p, 1.0)) == kept
    assert keep_min_p(logits, p, 1.0)[kept].tolist() == logits[kept].tolist()


def test_min_p_looks_at_the_probabilities_at_the_temperature():
    logits = logs(
        0.3, 0.5, 0.14, 0.06
    )  # at temperature 0.5 0.36, 1, 0.0784 and 0.0144 of the likeliest
    assert left(keep_min_p(logits, 0.3, 0.5)) == [0, 1]
    assert left(keep_min_p(logits, 0.3, 2.0)) == [0, 1, 2, 3]
    assert left(keep_min_p(logits, 0.4, 0.5)) == [1]
    assert left(keep_min_p(logits, 1e-9, 1e-300)) == [1]
    assert left(keep_min_p(logits, 0.9, 1e300)) == [0, 1, 2, 3]


def test_min_p_is_off_at_0_and_where_the_likeliest_is_taken_anyway():
    logits = row(0, 5, -INF)
    assert (
        keep_min_p(logits, 0.0, 1.0).tolist()
        == keep_min_p(logits, 0.9, 0.0).tolist()
        == logits.tolist()
    )


def test_tokens_as_likely_as_the_likeliest_pass_min_p():
    assert left(keep_min_p(row(2, 1, 2, -INF), 1.0, 0.7)) == [0, 2]


def test_min_p_is_that_of_transformers():
    rng = np.random.default_rng(3)
    for _ in range(200):
        logits = (3 * rng.standard_normal(30)).astype(np.float32)
        p, temperature = float(rng.uniform(0.01, 0.9)), float(rng.uniform(0.2, 3))
        warm = processed(TemperatureLogitsWarper(temperature), [0], logits)
        wanted = processed(MinPLogitsWarper(p), [0], warm)
        assert left(keep_min_p(logits, p, temperature)) == left(wanted)


def test_probabilities_are_those_of_the_softmax():
    found = log_probabilities(logs(0.5, 0.25, 0.25) + np.float32(3))
    assert found.dtype == np.float64
    np.testing.assert_allclose(np.exp(found), [0.5, 0.25, 0.25], rtol=1e-6)
    assert log_probabilities(row(0, 0, -INF)).tolist() == [-math.log(2), -math.log(2), -INF]
    logits = (5 * np.random.default_rng(4).standard_normal(100)).astype(np.float32)
    wanted = torch.from_numpy(logits).double().log_softmax(0)
    np.testing.assert_allclose(log_probabilities(logits), wanted.numpy(), atol=1e-12)


def test_probabilities_of_huge_logits_are_numbers():
    most = float(np.finfo(np.float32).max)
    assert log_probabilities(row(most, -most)).tolist() == [0.0, -2 * most]


FILTERS = {
    "bias": lambda logits: add_bias(logits, {0: 1.0}),
    "ban": lambda logits: ban(logits, [0]),
    "repetition": lambda logits: penalise_repetition(logits, [0, 1, 0], 2.0),
    "presence": lambda logits: penalise_presence(logits, [0, 1, 0], 0.5, 0.5),
    "no_repeat": lambda logits: no_repeat(logits, [0, 1, 0], 2),
    "passages": lambda logits: penalise_passages(logits, [0, 1, 0], 0.5),
    "min_p": lambda logits: keep_min_p(logits, 0.9, 1.0),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_leaves_what_it_is_given_and_the_type(name):
    logits = row(3, 2, 1, 0)
    logits.setflags(write=False)
    filtered = FILTERS[name](logits)
    assert logits.tolist() == [3, 2, 1, 0] != filtered.tolist()
    assert filtered.dtype == np.float32
    assert filtered.shape == (4,)
