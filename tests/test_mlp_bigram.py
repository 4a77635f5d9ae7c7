import math

import numpy as np
import pytest
import torch

from minigpt.evaluate.baselines import bigram_loss
from minigpt.evaluate.mlp_bigram import mlp_bigram_loss


def drawn(seed, count=4000):
    """Tokens of which each depends on the last one."""
    random = np.random.default_rng(seed)
    chances = np.random.default_rng(0).dirichlet(0.3 * np.ones(12), size=12)
    tokens = [0]
    for _ in range(count):
        tokens.append(random.choice(12, p=chances[tokens[-1]]))
    return np.array(tokens), chances


def test_it_learns_what_follows_a_token():
    train, chances = drawn(1)
    val, _ = drawn(2)
    best = -np.log(chances[val[:-1], val[1:]]).mean()
    found = mlp_bigram_loss(train, val, 12)
    assert best < found < best + 0.05
    assert found == pytest.approx(bigram_loss(train, val, 12), abs=0.02)


def test_each_history_has_a_distribution():
    train, _ = drawn(1, 300)
    train %= 4
    for before in (0, 4):  # the last one was never seen
        pairs = [np.array([before, after]) for after in range(5)]
        chances = [math.exp(-mlp_bigram_loss(train, pair, 5)) for pair in pairs]
        assert sum(chances) == pytest.approx(1, abs=1e-4)


def test_it_is_always_the_same_and_leaves_the_seed_alone():
    train, _ = drawn(1, 300)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with torch.no_grad():
        first = mlp_bigram_loss(train, train, 12)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert mlp_bigram_loss(train, train, 12) == first
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
