import numpy as np
import pytest
import torch

from minigpt.data.batches import Batches, make_batch
from minigpt.data.shards import TokenSequence
from minigpt.errors import UserError

TOKENS = np.arange(1000, dtype=np.uint16)


def sequence(length: int = 1000) -> TokenSequence:
    """The same ids in two files."""
    return TokenSequence([TOKENS[: min(length, 300)], TOKENS[300:length]])


def batches(**changes) -> Batches:
    return Batches(sequence(), **({"block_size": 16, "batch_size": 4, "seed": 3} | changes))


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
    order = Batches(sequence(length), block_size=16, batch_size=3)
    for step in range(30):
        for batch in order.at(step):
            assert batch.targets.max() < length


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(
        UserError, match=r"has 16 tokens, but one window needs model\.block_size \+ 1 = 17"
    ):
        Batches(sequence(16), block_size=16, batch_size=1)


def test_a_separator_begins_a_document():
    batch = make_batch(np.array([[5, 6, 0, 7, 8, 0, 9]]), separator=0)
    assert batch.documents.tolist() == [[0, 0, 1, 1, 1, 2]]
    assert make_batch(np.array([[1, 2]])).documents is None


def test_epochs_are_counted():
    order = batches()
    assert order.epoch_at(0) == 0
    assert order.epoch_at(61) == pytest.approx(4)


class Growing(TokenSequence):
    """A stream: a file more is there whenever somebody waits for it."""

    def __init__(self, length: int) -> None:
        super().__init__([])
        self.to_come = [TOKENS[i : min(i + 100, length)] for i in range(0, length, 100)]

    def reach(self, count: int) -> bool:
        while len(self) < count and self.to_come:
            self.add(self.to_come.pop(0))
        return len(self) >= count


def test_a_stream_is_read_in_order_first_and_shuffled_later():
    order = Batches(Growing(400), block_size=16, batch_size=4, streamed=True)
    assert len(order.tokens) == 100  # no more than a window needs
    in_order = [int(s) for step in range(6) for s in order.starts(step)]
    assert in_order == [16 * n for n in range(24)]
    assert order.epoch_at(6) == 0
    later = np.concatenate([order.starts(step) for step in range(6, 14)])
    assert later.tolist() != sorted(later.tolist())
    shuffled = later[: order.windows_per_epoch]
    assert len(set(shuffled.tolist())) == order.windows_per_epoch == 24
    assert order.epoch_at(6 + 6) == pytest.approx(2)


def test_a_stream_gives_the_same_batches_whether_it_is_there_already_or_not():
    growing = Batches(Growing(700), block_size=16, batch_size=4, streamed=True)
    whole = Batches(sequence(700), block_size=16, batch_size=4, streamed=True)
    for step in (0, 3, 10, 11, 25, 2):
        assert growing.starts(step).tolist() == whole.starts(step).tolist()
        assert growing.epoch_at(step) == whole.epoch_at(step)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_processes_together_take_every_window_once_per_epoch(world_size):
    taken = np.zeros((3, 1000), np.int64)  # how often each token was an input, by epoch
    ranks = [batches(batch_size=61 * 4, rank=r, world_size=world_size) for r in range(world_size)]
    # One step of 244 windows: four epochs of 61, of which three are looked at.
    together = torch.cat([batch.ids for order in ranks for batch in order.at(0)])
    assert torch.equal(together, batches(batch_size=61 * 4).at(0)[0].ids)
    for epoch in range(3):
        for row in together[61 * epoch : 61 * (epoch + 1)]:
            taken[epoch, row.numpy()] += 1
    for bitmap in taken:
        first, last = np.flatnonzero(bitmap)[[0, -1]]
        assert bitmap.max() == 1
        assert bitmap[first : last + 1].all()
        assert last + 1 - first == 61 * 16


def test_micro_batches_are_of_a_processs_own_share():
    parts = batches(batch_size=8, micro_batch_size=2, rank=1, world_size=2).at(3)
    assert [len(part.ids) for part in parts] == [2, 2]
    assert torch.equal(
        torch.cat([part.ids for part in parts]), batches(batch_size=8).at(3)[0].ids[4:]
    )
