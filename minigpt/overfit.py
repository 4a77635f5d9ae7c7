"""Settings in; out comes whether a model so built and so trained can learn one batch by heart, and if not, why.

The oldest check of a training loop: what cannot learn a few windows of text has a fault that no amount of text mends.
It begins at ln V, the loss of a model that knows nothing, and must come below 0.05 nats per token.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from minigpt import config as settings
from minigpt.config import OptimConfig, RunConfig
from minigpt.data.batches import Batch, Batches
from minigpt.data.prepare import prepare
from minigpt.data.tokens import Tokens
from minigpt.errors import UserError
from minigpt.fit import update
from minigpt.guard import Guard
from minigpt.loss import TrainStep
from minigpt.model.size import with_vocabulary
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer
from minigpt.runtime import prepare_step, start_runtime

WANTED = 0.05  # nats per token
MOST_STEPS = 400
WARMUP_STEPS = 10
SEQUENCES, POSITIONS = 4, 64  # at most: 256 tokens, so that a large model is done in minutes, too
FAR_OFF = 0.1  # share of ln V
SAID_EVERY = 25  # steps

Say = Callable[[str], None]


def overfit(config: RunConfig, say: Say) -> dict[str, Any]:
    """Train on one batch until it is known by heart; return what came of it. Nothing is written.

    Dropout and weight decay are off; the learning rates rise over ten steps to those of `optim` and stay there.

    Args:
        config: the settings of a run.
        say: where progress goes.

    Raises:
        UserError: settings or text cannot be used.
    """
    settings.check(config)
    if config.train.began_as:
        raise UserError(
            f"the settings begin with {config.train.began_as}, but what is asked is whether a model learns from "
            "nothing; leave that out"
        )
    runtime = start_runtime(config.train)
    tokens = prepare(config.data, say)
    shape = with_vocabulary(
        dataclasses.replace(config.model, dropout=0.0), tokens.tokenizer.vocab_size
    )
    torch.manual_seed(config.train.seed)
    model = GPT(shape)
    step = prepare_step(TrainStep(model), runtime, config.train)
    optimizer = make_optimizer(model, dataclasses.replace(config.optim, weight_decay=0.0))
    if step.loss_scale is not None:  # finds its size by updates that are left out
        Guard(optimizer, model.named_parameters(), on_device=False, loss_scale=step.loss_scale)
    batch = [b.to(runtime.device) for b in one_batch(config, tokens)]
    rows, positions = batch[0].ids.shape
    say(
        f"one batch of {rows} x {positions} = {rows * positions} tokens, at most {MOST_STEPS} steps, "
        f"{_said(learning_rates(config.optim))}"
    )
    losses = _learn(step, optimizer, batch, config, shape.vocab_size, say)
    knows = math.log(shape.vocab_size)
    return {
        "learnt": losses[-1] < WANTED,
        "first_loss": losses[0],
        "ln_v": knows,
        "last_loss": losses[-1] if math.isfinite(losses[-1]) else None,
        "steps": len(losses) - 1,
        "diagnosis": diagnose(losses, learning_rates(config.optim)),
    }


def one_batch(config: RunConfig, tokens: Tokens) -> list[Batch]:
    """Return the batch to learn by heart: of the run's first windows a few, cut to a few positions."""
    order = Batches(
        tokens.train,
        block_size=min(config.model.block_size, POSITIONS),
        batch_size=min(config.train.batch_size, SEQUENCES),
        seed=config.data.seed,
        separator=tokens.tokenizer.eos_id if config.data.documents == "separate" else None,
        streamed=config.data.stream,
    )
    return order.at(0)


def learning_rates(optim: OptimConfig) -> dict[str, float]:
    """Return the learning rates that are in force, by the names of their settings."""
    rates = {"optim.lr": optim.lr}
    return rates | {"optim.muon_lr": optim.muon_lr} if optim.name == "muon" else rates


def describe_start(loss: float, ids: int) -> str:
    """Return how the first loss stands to ln V, in a sentence."""
    expected = math.log(ids)
    line = f"first loss {loss:.3f}; a model that knows nothing has ln {ids} = {expected:.3f}"
    if abs(loss - expected) > FAR_OFF * expected:
        line += (
            f"\nwarning: that is {abs(loss / expected - 1):.0%} off: the first weights are too large, or targets and "
            "vocabulary do not fit together"
        )
    return line


def _learn(
    step: TrainStep,
    optimizer: torch.optim.Optimizer,
    batch: list[Batch],
    config: RunConfig,
    ids: int,
    say: Say,
) -> list[float]:
    """Return the loss before each update, until one is low enough, is no number, or the steps are over."""
    losses: list[float] = []
    rates = [group["lr"] for group in optimizer.param_groups]
    for number in range(MOST_STEPS + 1):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (number + 1) / WARMUP_STEPS)
        losses.append(update(step, optimizer, batch, config.optim.clip)[0].item())
        if number == 0:
            say(describe_start(losses[0], ids))
        elif number % SAID_EVERY == 0:
            say(f"step {number:>3}  loss {losses[-1]:.4f}")
        if losses[-1] < WANTED or not math.isfinite(losses[-1]):
            break
    return losses


def diagnose(losses: Sequence[float], rates: Mapping[str, float]) -> str:
    """Return what became of the losses in a sentence or two, with what to try where it went wrong.

    Args:
        losses: before each update, in nats per token.
        rates: the learning rates by the names of their settings.
    """
    first, last = losses[0], losses[-1]
    if last < WANTED:
        return f"learnt by heart: loss {last:.4f} after {len(losses) - 1} steps"
    failed = (
        f"not learnt by heart: loss {last:.4f} after {len(losses) - 1} steps, wanted below {WANTED}"
    )
    given, are = _said(rates), "is" if len(rates) == 1 else "are"
    if not math.isfinite(last):
        return (
            f"{failed}. It diverged: {given} {are} far too high, or a computation gives infinities"
        )
    if max(losses) - min(losses) < 0.01 * first:
        return (
            f"{failed}. It stands still: gradients do not reach the weights, the optimiser does not hold them, or "
            f"{given} {are} far too low"
        )
    if last > 0.9 * first:
        return f"{failed}. It does not stay down: {given} {are} too high; try {_said(rates, 0.1)}"
    before = losses[-1 - len(losses) // 4]
    if last < 0.95 * before:
        return f"{failed}. It is still falling: {given} {are} low for this; try {_said(rates, 3)}"
    return (
        f"{failed}. It has come to rest above: targets that do not follow from what the model sees (a wrong shift or "
        f"mask), too few channels, or {given} too high to settle"
    )


def _said(rates: Mapping[str, float], factor: float = 1.0) -> str:
    """Return settings of learning rates, each times a factor, in words."""
    return " and ".join(f"{name} = {rate * factor:g}" for name, rate in rates.items())
