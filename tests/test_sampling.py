import random

import numpy as np
import pytest
import torch

from minigpt.errors import UserError
from minigpt.model.transformer import GPT
from minigpt.sampling import choose, draw_tokens, keep_top_k, keep_top_p
from minigpt.tokenizer import char_tokenizer

from .conftest import tiny
from .test_transformer import model

INF = float("inf")
TOKENIZER = char_tokenizer([chr(97 + i) for i in range(26)])


def logs(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities)).astype(np.float32)


def draws(logits, temperature=1.0, top_k=0, top_p=1.0, of=1000):
    """Return the share of the interval that each token has."""
    chosen = [choose(logits, temperature, top_k, top_p, i / of) for i in range(of)]
    return {token: chosen.count(token) / of for token in sorted(set(chosen))}


def test_top_k_keeps_exactly_k_of_equals_the_first():
    logits = np.array([1.0, 3.0, 2.0, 3.0, 2.0], dtype=np.float32)
    kept = [keep_top_k(logits, k).tolist() for k in range(1, 6)]
    assert kept == [[1], [1, 3], [1, 2, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_top_k_is_the_beginning_of_a_stable_sort():
    rng = np.random.default_rng(0)
    for _ in range(300):
        logits = rng.integers(0, rng.integers(1, 40), size=rng.integers(1, 60)).astype(np.float32)
        logits[rng.random(len(logits)) < 0.2] = -INF
        k = int(rng.integers(1, len(logits) + 1))
        wanted = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]
        assert keep_top_k(logits, k).tolist() == sorted(wanted)


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.0, [1]), (0.4, [1]), (0.499, [1]), (0.6, [0, 1]), (0.85, [0, 1, 3]), (1.0, [0, 1, 2, 3])],
)
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_top_p_keeps_the_token_that_crosses(p, kept, scale):
    assert keep_top_p(scale * np.array([0.3, 0.5, 0.05, 0.15]), p).tolist() == kept


def test_top_p_is_the_beginning_of_a_stable_sort():
    rng = np.random.default_rng(1)
    for _ in range(300):
        weights = rng.integers(1, 9, size=rng.integers(1, 60)) ** rng.integers(1, 9)
        p, reached, wanted = rng.random(), 0, []
        for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
            wanted.append(i)
            reached += int(weights[i])
            if reached >= p * int(weights.sum()):
                break
        assert keep_top_p(weights.astype(np.float64), p).tolist() == sorted(wanted)


def test_of_equal_tokens_top_p_keeps_those_with_the_smaller_ids():
    assert draws(np.zeros(5, dtype=np.float32), top_p=0.5, of=300) == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}


def test_the_draw_shares_out_the_interval_in_the_order_of_the_ids():
    logits = logs(0.2, 0.3, 0.5)
    chosen = [choose(logits, 1.0, 0, 1.0, draw) for draw in (0.0, 0.19, 0.21, 0.49, 0.51, 0.999999)]
    assert chosen == [0, 0, 1, 1, 2, 2]


def test_frequencies_match_probabilities():
    probabilities = np.array([0.05, 0.4, 0.0, 0.25, 0.3])
    rng, n = random.Random(0), 20_000
    counts = np.zeros(5)
    for _ in range(n):
        counts[choose(logs(*probabilities), 1.0, 0, 1.0, rng.random())] += 1
    assert counts[2] == 0
    expected = (probabilities * n)[probabilities > 0]
    chi_square = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, one in a thousand


def test_temperature_sharpens_flattens_and_ends_in_greed():
    logits = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    # At temperature 0.5 the odds are squared: e^0 : e^2 : e^4.
    share = 1 / (1 + np.e**2 + np.e**4)
    assert choose(logits, 0.5, 0, 1.0, share - 1e-6) == 0
    assert choose(logits, 0.5, 0, 1.0, share + 1e-6) == 1
    assert {choose(logits, 0.0, 0, 1.0, draw) for draw in (0.0, 0.5, 0.99)} == {2}
    for temperature in (1e-300, 5e-324):
        assert {choose(logits, temperature, 0, 1.0, draw) for draw in (0.0, 0.5, 0.99)} == {2}


def test_filters_work_together():
    logits = logs(0.4, 0.3, 0.2, 0.1)
    assert draws(logits, top_k=2).keys() == {0, 1}
    assert draws(logits, top_k=3, top_p=0.5).keys() == {0, 1}
    # Of the two that top-k leaves, the first has 4/7 of the probability.
    assert draws(logits, top_k=2, top_p=0.5) == {0: 1.0}


@pytest.mark.parametrize("top_k", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("top_p", [0.0, 0.9, 1.0])
def test_what_is_excluded_is_never_drawn(top_k, top_p):
    logits = np.array([-INF, 2.0, -INF, 2.0, -INF], dtype=np.float32)
    wanted = {1: 1.0} if top_k == 1 or not top_p else {1: 0.5, 3: 0.5}
    assert draws(logits, 0.7, top_k, top_p) == wanted
    assert {choose(logits, 1.0, top_k, top_p, draw) for draw in (0.0, 1 - 2**-53)} == set(wanted)


def test_huge_logits_are_weighed_like_others():
    most = float(np.finfo(np.float32).max)
    assert draws(np.array([-most, most, most], dtype=np.float32)) == {1: 0.5, 2: 0.5}
    assert draws(np.array([-most, -most, -INF], dtype=np.float32)) == {0: 0.5, 1: 0.5}
    assert draws(np.array([most, -most], dtype=np.float32), 1e-300, 2, 0.9) == {0: 1.0}


@pytest.mark.parametrize("logits", [[0.0, np.nan, -INF], [np.nan] * 3, [-INF] * 3, [0.0, INF, 0.0]])
@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, 0), (1.0, 0), (1.0, 1)])
def test_logits_that_are_no_numbers_are_refused(logits, temperature, top_k):
    with pytest.raises(UserError, match="not finite numbers: its weights are damaged"):
        choose(np.array(logits, dtype=np.float32), temperature, top_k, 0.9, 0.5)


def test_choosing_leaves_the_logits_as_they_are():
    logits = logs(0.4, 0.3, 0.2, 0.1)
    logits.setflags(write=False)
    assert choose(logits, 0.7, 3, 0.9, 0.0) == 0


@torch.no_grad()
def uncached(made, ids, count, prefix):
    """Return the greedy continuation without a cache, with the window that `draw_tokens` documents."""
    text, room = list(ids), made.config.block_size - len(prefix)
    begin = max(0, len(ids) - room)
    for _ in range(count):
        if len(text) - begin > room:
            begin = len(text) - made.config.block_size // 2 + len(prefix)
        text.append(int(made(torch.tensor([prefix + text[begin:]]))[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("length", [1, 5, 12, 20])
@pytest.mark.parametrize("prefix", [[], [7], [7, 8]], ids=len)
def test_text_past_the_context_is_that_of_the_model_without_a_cache(position, length, prefix):
    made = model(position=position)
    ids = [i % 29 for i in range(length)]
    pick = lambda logits, position: int(logits.argmax())  # noqa: E731
    drawn = draw_tokens(made, prefix + ids, pick, keep=len(prefix))
    assert [next(drawn) for _ in range(30)] == uncached(made, ids, 30, prefix)


def biased(token: int, vocab_size: int = 29) -> GPT:
    """Return a model that always foretells one token."""
    made = GPT(
        tiny(vocab_size=vocab_size, norm="layernorm", bias=True, tie_embeddings=False)
    ).eval()
    torch.nn.init.zeros_(made.head.weight)
    torch.nn.init.zeros_(made.norm.weight)
    torch.nn.init.ones_(made.norm.bias)
    with torch.no_grad():
        made.head.weight[token] = 1.0
    return made
