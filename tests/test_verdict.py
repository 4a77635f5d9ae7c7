import doctest
import math

import pytest

from minigpt import verdict as module
from minigpt.verdict import beside_baselines, verdict


def rows(held_out, trained, every=100):
    """Return rows of a run: held-out losses every 100 steps, losses in training between them, too."""
    found = [{"step": every * n, "val_loss": loss} for n, loss in enumerate(held_out)]
    found += [{"step": every // 2 * n, "train_loss": loss} for n, loss in enumerate(trained, 1)]
    return sorted(found, key=lambda row: row["step"])


FALLING = [4.0 * 0.9**n for n in range(21)]


@pytest.mark.parametrize(
    ("held_out", "kind", "step", "words"),
    [
        ([4.0 - 0.2 * n for n in range(11)], "improving", 1000, "still improving"),
        ([4, 3, 2.5, 2.2, 2.1, 2.05, 2.02, 2.001, 2.0, 2.0, 2.0], "converged", 800, "converged"),
        ([4, 3, 2.5, 2.2, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7], "overfitting", 400, "overfitting since step 400"),
        ([4, 3, 2.5, 2.2, 2.1, 2.1, 2.11, 2.1, 2.11, 2.1, 2.105], "converged", 400, "converged"),
    ],
)  # fmt: skip
def test_a_curve_is_told_by_its_end(held_out, kind, step, words):
    found = verdict(rows(held_out, FALLING))
    assert (found.kind, found.step) == (kind, step)
    assert words in found.sentence


@pytest.mark.parametrize(("last", "kind"), [(1.9, "overfitting"), (2.6, "worse")])
def test_one_loss_in_training_since_the_best_is_held_against_the_one_before(last, kind):
    trained = [{"step": 300, "train_loss": 2.0}, {"step": 400, "train_loss": last}]
    found = [*rows([4.0, 3.0, 2.5, 2.1, 2.8], []), *trained]
    assert verdict(sorted(found, key=lambda row: row["step"])).kind == kind


def test_a_rise_on_both_parts_is_no_overfitting():
    held_out = [4, 3, 2.5, 2.2, 2.1, 2.5, 3.0, 3.5]
    trained = [4, 3.5, 3, 2.8, 2.5, 2.3, 2.2, 2.1, 2.2, 2.5, 2.8, 3.0, 3.3, 3.5]
    found = verdict(rows(held_out, trained))
    assert (found.kind, found.step) == ("worse", 400)
    assert "smaller optim.lr" in found.sentence


def test_few_evaluations_are_too_few():
    for held_out in ([], [4.0], [4.0, 3.0, 2.0]):
        assert verdict(rows(held_out, FALLING)).kind == "too early"
    assert "3 evaluations" in verdict(rows([4.0, 3.0, 2.0], FALLING)).sentence


def test_rows_without_a_figure_are_passed_over():
    full = rows([4.0 - 0.2 * n for n in range(11)], FALLING)
    gaps = [{"step": 3, "skipped": 1}, {"step": 4, "train_loss": math.nan}, *full]
    assert verdict(gaps) == verdict(full)
    assert verdict(iter(full)) == verdict(full)


def test_evaluations_that_all_lie_in_the_last_quarter_are_no_mistake():
    rows = [{"step": step, "val_loss": 2.0, "train_loss": 2.0} for step in (90, 95, 98, 100)]
    assert verdict(rows).kind == "converged"


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(module).failed == 0


def test_a_model_is_held_against_what_it_must_beat():
    assert beside_baselines(2.0, {}) == beside_baselines(2.0, {"uniform": 3.0}) == ""
    assert beside_baselines(2.0, {"bigram": 2.0}) == "loses to the bigram by 0.00 bits per byte"
    said = "beats the bigram by 1.00 bits per byte, the trigram by 0.50"
    assert beside_baselines(2.0, {"bigram": 3.0, "trigram": 2.5}) == said
