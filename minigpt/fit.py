"""The training loop: batches in, better weights out. Pretraining and fine-tuning differ in what they pass in."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minigpt.data.batches import Batch
from minigpt.guard import clip_gradient
from minigpt.loss import IGNORED
from minigpt.parallel import sync_gradients
from minigpt.ranks import ALONE, Ranks


@dataclass
class Progress:
    """How far a run is: with weights and optimiser, all that its future depends on.

    Attributes:
        step: updates done.
        tokens: tokens trained on.
        seconds: spent in updates; evaluation, sampling and saving are not counted.
        losses: of the steps since the last line of the log, in nats per token.
        logged: tokens and seconds at the last line of the log.
        best_loss, best_step: the lowest held-out loss so far and when it was.
        row: the next line of the log, until it is written.
        guard: what the guards of the run remember.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[Any] = field(default_factory=list)
    logged: tuple[int, float] = (0, 0.0)
    best_loss: float | None = None
    best_step: int = 0
    row: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)


class Job(Protocol):
    """What `fit` works on: the parts of a run, and what is done with it every so often."""

    step: nn.Module  # a TrainStep, or one that is shared by several processes
    optimizer: Optimizer
    ranks: Ranks
    steps: int
    clip: float
    seed: int

    def batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step, on the device."""

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 1; a group of the optimiser may have a multiple of it."""

    def is_due(self, what: str, step: int) -> bool:
        """Return whether to "save", "evaluate" or "log" after `step` updates."""

    def should_stop(self) -> bool:
        """Return whether somebody wants the run to end early."""

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""

    def evaluate(self, progress: Progress) -> None:
        """Add the held-out loss to `progress.row` and keep the best weights; `steps` may become fewer."""

    def report(self, progress: Progress) -> None:
        """Write `progress.row`, if there is one, to the log; empty it, and the losses if it held their mean."""


def update(
    step: nn.Module, optimizer: Optimizer, batches: list[Batch], clip: float, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor]:
    """Do one step of the optimiser; return the loss in nats per token and the norm of the gradient.

    The loss is divided by the counted targets of the whole step, over all micro-batches and ranks, so any number of
    them equals one large batch.
    """
    counted = ranks.sum(torch.stack([(b.targets != IGNORED).sum() for b in batches]).sum())
    losses = []
    for batch in batches:
        sync_gradients(step, batch is batches[-1])
        loss_sum, _ = step(batch.ids, batch.targets, batch.documents)
        # Gradients are averaged over the ranks, and are to be their sum.
        (loss_sum * ranks.size / counted).backward()
        losses.append(loss_sum.detach())
    loss = ranks.sum(torch.stack(losses).sum()) / counted
    norm = clip_gradient(step.parameters(), clip, loss, ranks)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm


def fit(job: Job, progress: Progress) -> None:
    """Bring `progress` to `job.steps`, or to where somebody wants it to stop.

    What is due after a step is done in this order: checkpoint, evaluation, log. A run that is resumed from a checkpoint
    therefore repeats what was due at it.
    """
    while True:
        ended = progress.step >= job.steps
        stopped = job.should_stop() and not ended
        if job.is_due("save", progress.step) or ended or stopped:
            job.save(progress)
        if stopped:
            return
        if job.is_due("evaluate", progress.step) or ended:
            job.evaluate(progress)
        job.report(progress)
        if progress.step >= job.steps:
            return
        advance(job, progress)


def advance(job: Job, progress: Progress) -> None:
    """Do the next update and add what it cost and brought to `progress`."""
    started = time.perf_counter()
    rate = job.learning_rate(progress.step + 1)
    for group in job.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    # Dropout is a function of (seed, step, rank), so there is no random state to save.
    torch.manual_seed((job.seed * 1_000_003 + progress.step + (job.ranks.rank << 52)) % 2**64)
    batches = job.batches(progress.step)
    loss, norm = update(job.step, job.optimizer, batches, job.clip, job.ranks)
    progress.step += 1
    progress.tokens += job.ranks.size * sum(batch.ids.numel() for batch in batches)
    progress.losses.append(loss)
    if any(job.is_due(what, progress.step) for what in ("save", "evaluate", "log")):
        norm.item()  # waits for the device, so that its work is counted here
    if job.is_due("log", progress.step) or progress.step == job.steps:
        mean = torch.stack(progress.losses).mean().item()
        progress.row |= {"train_loss": mean, "lr": rate, "grad_norm": norm.item()}
    progress.seconds += time.perf_counter() - started
