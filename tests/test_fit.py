import dataclasses

import numpy as np
import torch

from minigpt.data.batches import Batches
from minigpt.data.shards import TokenSequence
from minigpt.fit import Progress, fit, update
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.ranks import ALONE

from .conftest import tiny

TOKENS = TokenSequence([np.random.default_rng(0).integers(0, 29, 600)])


def parts(micro_batch_size=None):
    torch.manual_seed(0)
    step = TrainStep(GPT(tiny()))
    optimizer = torch.optim.SGD(step.parameters(), 0.5)
    return (
        step,
        optimizer,
        Batches(TOKENS, block_size=12, batch_size=6, micro_batch_size=micro_batch_size),
    )


def test_micro_batches_equal_one_large_batch_with_unequal_counts_too():
    results = []
    for micro_batch_size in (6, 2, 1):
        step, optimizer, order = parts(micro_batch_size)
        batches = order.at(0)
        batches[0].targets[0, 3:] = -100  # one row has fewer targets that count
        loss, norm = update(step, optimizer, batches, clip=0.1)
        results.append((loss, norm, step.model.blocks[0].mlp.up.weight.detach()))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_gradient_is_clipped_and_its_norm_reported_before():
    for clip, moved in ((0.01, True), (0.0, False)):
        step, optimizer, order = parts()
        before = [p.detach().clone() for p in step.parameters()]
        _, norm = update(step, optimizer, order.at(0), clip)
        change = (
            torch.stack(
                [(p - b).square().sum() for p, b in zip(step.parameters(), before, strict=True)]
            )
            .sum()
            .sqrt()
        )
        assert norm > 0.1
        torch.testing.assert_close(
            change, torch.tensor(0.5 * 0.01) if moved else 0.5 * norm, rtol=1e-3, atol=1e-6
        )
        assert all(p.grad is None for p in step.parameters())


class Recorded:
    """A job that notes down what `fit` asks of it."""

    def __init__(self, steps=6, stop_at=None):
        self.step, self.optimizer, self.order = parts()
        self.ranks = ALONE
        self.steps, self.clip, self.seed, self.stop_at = steps, 1.0, 0, stop_at
        self.calls, self.rows, self.now = [], [], 0

    def batches(self, step):
        self.now = step + 1
        return self.order.at(step)

    def learning_rate(self, update):
        return 0.1 * update

    def is_due(self, what, step):
        return step % {"save": 3, "evaluate": 2, "log": 4}[what] == 0

    def should_stop(self):
        return self.now == self.stop_at

    def save(self, progress):
        self.calls.append(("save", progress.step))

    def evaluate(self, progress):
        self.calls.append(("evaluate", progress.step))
        progress.row["val_loss"] = 1.0

    def report(self, progress):
        if progress.row:
            self.rows.append(progress.row | {"step": progress.step})
            if "train_loss" in progress.row:
                progress.losses = []
            progress.row = {}


def test_checkpoint_then_evaluation_then_log_and_all_at_the_end():
    job, progress = Recorded(steps=7), Progress()
    fit(job, progress)
    assert job.calls == [
        ("save", 0), ("evaluate", 0), ("evaluate", 2), ("save", 3), ("evaluate", 4), ("save", 6), ("evaluate", 6),
        ("save", 7), ("evaluate", 7),
    ]  # fmt: skip
    assert [row["step"] for row in job.rows] == [0, 2, 4, 6, 7]
    assert [row["step"] for row in job.rows if "train_loss" in row] == [4, 7]
    assert job.rows[-1]["lr"] == 0.1 * 7
    assert (progress.step, progress.tokens, progress.losses) == (7, 7 * 6 * 12, [])


def test_a_group_may_have_a_multiple_of_the_rate():
    job = Recorded(steps=2)
    job.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr_scale": 3.0})
    fit(job, Progress())
    assert [group["lr"] for group in job.optimizer.param_groups] == [0.1 * 2, 0.1 * 2 * 3.0]
    assert job.rows[-1]["lr"] == 0.1 * 2


def test_a_stop_saves_and_does_nothing_else():
    job, progress = Recorded(stop_at=5), Progress()
    fit(job, progress)
    assert progress.step == 5
    assert job.calls[-1] == ("save", 5)
    fit(job, progress)
    assert job.calls[-1] == ("save", 5)


def test_a_finished_run_is_left_alone_but_for_its_last_evaluation():
    job = Recorded(steps=4)
    fit(job, Progress(step=4))
    assert job.now == 0


def test_the_logged_loss_is_the_mean_since_the_last_line():
    job, losses = Recorded(steps=4), []
    batches = job.batches

    def noting(step):
        (batch,) = batches(step)
        with torch.no_grad():
            loss, count = job.step(batch.ids, batch.targets)
        losses.append((loss / count).item())
        return [batch]

    job.batches = noting
    fit(job, Progress())
    assert abs(job.rows[-1]["train_loss"] - sum(losses) / 4) < 1e-5


def test_progress_is_all_plain_values():
    assert Progress(**dataclasses.asdict(Progress())) == Progress()
