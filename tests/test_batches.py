import numpy as np
import pytest
import torch

from minigpt.data.batches import Batches, make_batch
from minigpt.errors import UserError

TOKENS = np.arange(1000, dtype=np.uint16)


def batches(**changes) -> Batches:
    return Batches(TOKENS, **({"block_size": 16, "batch_size": 4, "seed": 3} | changes))


def test_targets_are_the_inputs_moved_by_one():
    (batch,) = batches().at(5)
    assert batch.ids.shape == batch.targets.shape == (4, 16)
    assert torch.equal(batch.targets, batch.ids + 1)


def test_a_batch_is_a_function_of_seed_and_step():
    order = batches()
    for step in (7, 0, 31, 7):
        assert torch.equal(order.at(step)[0].ids, batches().at(step)[0].ids)
    assert not torch.equal(order.at(0)[0].ids, batches(seed=4).at(0)[0].ids)


def test_an_epoch_takes_every_window_once_whatever_the_batch_size():
    for size in (1, 4, 7):
        order = batches(batch_size=size)
        windows = order.windows_per_epoch
        assert windows == 61
        starts = np.concatenate([order.starts(step) for step in range(2 * windows)])
        for epoch in range(2 * size):
            taken = np.sort(starts[epoch * windows : (epoch + 1) * windows])
            offset = taken[0]
            assert 0 <= offset < 16
            assert taken.tolist() == list(range(offset, offset + 16 * windows, 16))


def test_epochs_differ_in_order_and_offset():
    order = batches(batch_size=61)
    firsts = [order.starts(epoch) for epoch in range(20)]
    assert len({tuple(starts) for starts in firsts}) == 20
    assert len({starts.min() for starts in firsts}) > 5


def test_micro_batches_are_the_batch_in_parts():
    whole = batches(batch_size=6).at(2)[0]
    parts = batches(batch_size=6, micro_batch_size=2).at(2)
    assert len(parts) == 3
    assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)


@pytest.mark.parametrize("length", [17, 18, 31, 32, 33, 48, 49])
def test_short_texts_stay_inside_their_bounds(length):
    order = Batches(TOKENS[:length], block_size=16, batch_size=3)
    for step in range(30):
        for batch in order.at(step):
            assert batch.targets.max() < length


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(
        UserError, match=r"has 16 tokens, but one window needs model\.block_size \+ 1 = 17"
    ):
        Batches(TOKENS[:16], block_size=16, batch_size=1)


def test_a_separator_begins_a_document():
    batch = make_batch(np.array([[5, 6, 0, 7, 8, 0, 9]]), separator=0)
    assert batch.documents.tolist() == [[0, 0, 1, 1, 1, 2]]
    assert make_batch(np.array([[1, 2]])).documents is None


def test_epochs_are_counted():
    order = batches()
    assert order.epoch_at(0) == 0
    assert order.epoch_at(61) == pytest.approx(4)
