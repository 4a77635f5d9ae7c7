import pytest

from minigpt.config import RunConfig, TrainConfig
from minigpt.curves import end_of, loss_chart

from .test_report import BASELINES, row

SETTINGS = RunConfig(train=TrainConfig(steps=200, patience=2))


def evaluated(*losses):
    return [row(10 * n, val_loss=loss, val_bits_per_byte=loss / 2) for n, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "end"),
    [([4.0, 3.0, 3.5, 2.0, 2.5], 200), ([4.0, 3.0, 3.0, 3.1], 30), ([4.0, 3.0, 3.1, 3.2, 1.0], 30), ([], 200)],
)  # fmt: skip
def test_a_run_ends_where_its_patience_does(losses, end):
    assert end_of(evaluated(*losses), SETTINGS) == end
    assert end_of(evaluated(*losses), RunConfig(train=TrainConfig(steps=200))) == 200


def test_a_loss_gone_wild_leaves_room_for_the_rest():
    calm, wild = evaluated(4.0, 3.0), evaluated(4.0, 3.0, 400.0, 3.0)
    assert "log scale" not in loss_chart(calm, SETTINGS)
    assert "log scale" not in loss_chart(wild, SETTINGS)  # beside nothing to compare with
    calm[0]["baselines"] = wild[0]["baselines"] = BASELINES
    assert "log scale" not in loss_chart(calm, SETTINGS)
    assert "over steps (log scale); less is better" in loss_chart(wild, SETTINGS)


def test_without_a_loss_there_is_no_chart():
    assert loss_chart([{"step": 1}], SETTINGS) == ""
