import doctest
import random

import numpy as np
import pytest
import torch

from minigpt.finetune import packing
from minigpt.finetune.chatml import CHATML
from minigpt.finetune.conversations import Conversations, Recorded
from minigpt.finetune.packing import PackedBatches, pack
from minigpt.finetune.targets import Example, make_examples
from minigpt.fit import update
from minigpt.inference.template import Template
from minigpt.loss import IGNORED, TrainStep
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer

from .conftest import tiny


def examples(count: int, longest: int, seed: int = 0) -> list[Example]:
    """Return examples of ids that tell them apart: of each the first is its number."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        size = int(rng.integers(2, longest + 2))
        ids = np.concatenate([[number], rng.integers(0, 29, size - 1)]).astype(np.int32)
        said = rng.random(size) < 0.5
        said[-1] = True
        made.append(Example(number, ids, said))
    return made


def batches(count: int = 40, **changes) -> PackedBatches:
    settings = {"block_size": 16, "batch_size": 4, "seed": 3, "packed": True}
    return PackedBatches(examples(count, 12), **(settings | changes))


def all_of(order: PackedBatches, at_once: int):
    """Yield every row once, in their order."""
    for start in range(0, len(order.rows), at_once):
        yield order.batch(order.rows[start : start + at_once])


def alone(example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.from_numpy(example.ids.astype(np.int64))
    targets = torch.where(torch.from_numpy(example.said), ids, IGNORED)
    return ids[None, :-1], targets[None, 1:]


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(packing) == (0, 1)


def test_rows_hold_everything_once_and_no_more_than_fits():
    rng = random.Random(0)
    for _ in range(50):
        room = rng.randrange(1, 40)
        lengths = [rng.randrange(1, room + 1) for _ in range(rng.randrange(1, 60))]
        rows = pack(lengths, room)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert max(sum(lengths[i] for i in row) for row in rows) <= room
        assert pack(lengths, room) == rows


def test_no_two_rows_would_fit_into_one():
    lengths = [1 + i % 7 for i in range(100)]
    sums = sorted(sum(lengths[i] for i in row) for row in pack(lengths, 16))
    assert sums[0] + sums[1] > 16


def test_a_hundred_thousand_conversations_are_packed_at_once():
    rng = random.Random(0)
    lengths = [rng.randrange(1, 500) for _ in range(100_000)]
    assert sum(lengths) / (len(pack(lengths, 1024)) * 1024) > 0.999


@pytest.mark.parametrize(
    "switches",
    [{}, {"qk_norm": True, "n_kv_head": 1, "rope_scaling": "linear", "rope_factor": 2.0}],
)
@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_a_packed_batch_is_the_sum_over_its_conversations_alone(switches, packed):
    torch.manual_seed(0)
    step = TrainStep(GPT(tiny(block_size=24, **switches)))
    with torch.no_grad():
        for parameter in step.model.parameters():
            parameter.normal_(std=0.3)  # so that places and neighbours matter
    made = examples(12, 20)
    order = PackedBatches(made, block_size=24, batch_size=4, packed=packed)
    together = [step(b.ids, b.targets, b.documents) for b in all_of(order, 3)]
    apart = [step(*alone(example)) for example in made]
    wanted = sum(loss for loss, _ in apart)
    assert sum(loss for loss, _ in together).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert sum(n for _, n in together) == sum(n for _, n in apart)
    gradients = [
        torch.autograd.grad(sum(loss for loss, _ in losses), step.model.head.weight)[0]
        for losses in (together, apart)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    if packed:
        mixed = sum(step(b.ids, b.targets)[0] for b in all_of(order, 3))
        assert abs(mixed - wanted) > 1e-2


def test_of_learned_positions_each_conversation_begins_at_the_first():
    torch.manual_seed(0)
    step = TrainStep(GPT(tiny(block_size=24, position="learned")))
    made = examples(6, 20)
    order = PackedBatches(made, block_size=24, batch_size=2, packed=False)
    found = sum(step(b.ids, b.targets, b.documents)[0] for b in all_of(order, 6))
    wanted = sum(step(*alone(example))[0] for example in made)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert order.width == max(example.length for example in made)


def test_targets_are_those_of_the_conversations_and_padding_counts_for_nothing():
    order = batches()
    found = {}
    for batch in all_of(order, 100):
        for ids, targets, documents in zip(batch.ids, batch.targets, batch.documents, strict=True):
            for number in range(int(documents.max()) + 1):
                inside = documents == number
                if (targets[inside] != IGNORED).any():
                    found[int(ids[inside][0])] = (ids[inside][None], targets[inside][None])
    for example in order.examples:
        for got, wanted in zip(found[example.number], alone(example), strict=True):
            assert torch.equal(got, wanted)


def test_an_epoch_takes_every_conversation_once_whatever_the_batch_size():
    for size in (1, 3, 4):
        order = batches(batch_size=size)
        rows = order.windows_per_epoch
        taken = [
            number for step in range(rows * 2) for b in order.at(step) for number in _rows_of(b)
        ]
        assert len(taken) == 2 * rows * size
        for epoch in range(2 * size):
            seen = sorted(i for row in taken[epoch * rows : (epoch + 1) * rows] for i in row)
            assert seen == list(range(40))


def _rows_of(batch) -> list[list[int]]:
    """Return the examples in each row that have targets, so that padding is left out."""
    rows = []
    for ids, targets, documents in zip(batch.ids, batch.targets, batch.documents, strict=True):
        parts = [documents == n for n in range(int(documents.max()) + 1)]
        rows.append([int(ids[p][0]) for p in parts if p.any() and (targets[p] != IGNORED).any()])
    return rows


def test_a_batch_is_a_function_of_seed_and_step():
    order = batches()
    for step in (7, 0, 31, 7):
        assert torch.equal(order.at(step)[0].ids, batches().at(step)[0].ids)
        assert torch.equal(order.at(step)[0].documents, batches().at(step)[0].documents)
    assert not torch.equal(order.at(0)[0].ids, batches(seed=4).at(0)[0].ids)
    epochs = {tuple(order.starts(step)) for step in range(80)}
    assert len(epochs) == 80


def test_micro_batches_and_processes_are_the_batch_in_parts():
    whole = batches(batch_size=8).at(2)[0]
    for world_size in (1, 2, 4):
        ranks = [
            batches(batch_size=8, micro_batch_size=2, rank=r, world_size=world_size)
            for r in range(world_size)
        ]
        parts = [part for order in ranks for part in order.at(2)]
        assert [len(part.ids) for part in parts] == [2] * 4
        assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
        assert all(np.array_equal(o.starts(2), batches(batch_size=8).starts(2)) for o in ranks)


def test_the_micro_batch_may_be_halved_on_the_way():
    order = batches(batch_size=4)
    whole = order.at(1)[0].ids
    order.micro_batch_size = 1
    assert torch.equal(torch.cat([part.ids for part in order.at(1)]), whole)


def test_starts_are_the_numbers_of_the_first_conversations():
    order = batches()
    assert order.starts(5).tolist() == order.at(5)[0].ids[:, 0].tolist()


def test_epochs_and_padding_are_counted():
    order = batches(batch_size=1)
    assert order.epoch_at(0) == 0
    assert order.epoch_at(2 * order.windows_per_epoch) == 2
    used = sum(example.length for example in order.examples)
    assert order.filled == used / (len(order.rows) * order.width)


def test_unpacked_rows_need_no_documents():
    (batch,) = batches(packed=False).at(0)
    assert batch.documents is None
    assert batch.ids.shape == (4, 12)


def test_a_model_learns_to_answer_and_to_end_its_answer():
    tokenizer = bpe_tokenizer([])
    template = Template(CHATML, tokenizer)
    answers = {"one": "1", "two": "22", "three": "3!"}
    talks = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        for asked, said in answers.items()
    ]
    found = Conversations("a", "line", [Recorded(i, talk) for i, talk in enumerate(talks)])
    made = make_examples(found, template, 96)
    order = PackedBatches(made.good, block_size=96, batch_size=1, packed=True)
    assert len(order.rows) == 1
    torch.manual_seed(0)
    model = GPT(tiny(block_size=96, vocab_size=tokenizer.vocab_size))
    step, optimizer = TrainStep(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for number in range(80):
        loss, _ = update(step, optimizer, order.at(number), clip=1.0)
    assert loss < 0.05
    end = tokenizer.specials["<|im_end|>"]
    for asked, said in answers.items():
        ids = template.ids([{"role": "user", "content": asked}])
        for wanted in [*tokenizer.encode(said), end]:
            assert model(torch.tensor([ids]))[0, -1].argmax() == wanted
            ids = [*ids, wanted]
