import pytest

from minigpt.config import OptimConfig
from minigpt.optim.schedule import learning_rate

# lr 1.0, min_lr 0.1, 10 updates of warm-up, 110 in all: at update 0, 5, 10, in the middle (60), at 99 and at the end
EXPECTED = {
    "cosine": [0.0, 0.5, 1.0, 0.55, 0.1264, 0.1],
    "linear": [0.0, 0.5, 1.0, 0.55, 0.199, 0.1],
    "wsd": [0.0, 0.5, 1.0, 1.0, 0.55, 0.1],
    "constant": [0.0, 0.5, 1.0, 1.0, 1.0, 1.0],
}


@pytest.mark.parametrize("schedule", EXPECTED)
def test_rates_worked_out_by_hand(schedule):
    config = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=10, schedule=schedule)
    rates = [learning_rate(update, config, 110) for update in (0, 5, 10, 60, 99, 110)]
    assert rates == pytest.approx(EXPECTED[schedule], abs=2e-3)


def test_the_rate_never_rises_after_the_warm_up_nor_leaves_its_range():
    for schedule in EXPECTED:
        config = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=10, schedule=schedule)
        rates = [learning_rate(update, config, 110) for update in range(1, 111)]
        assert rates[:10] == sorted(rates[:10])
        assert rates[9:] == sorted(rates[9:], reverse=True)
        assert (max(rates), min(rates[9:])) == pytest.approx((1.0, EXPECTED[schedule][-1]))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_without_a_lowest_rate_it_ends_at_zero(schedule):
    config = OptimConfig(lr=1.0, warmup_steps=10, schedule=schedule)
    assert learning_rate(110, config, 110) == pytest.approx(0.0, abs=1e-12)


def test_without_warm_up_the_first_update_has_nearly_the_whole_rate():
    config = OptimConfig(lr=1.0, warmup_steps=0, schedule="linear")
    assert learning_rate(1, config, 100) == pytest.approx(0.99)
    assert learning_rate(1, config, 1) == 0.0
