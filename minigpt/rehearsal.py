"""Settings in, the parts of a training step out, without a text: model, optimiser, random tokens.

What a step takes, in memory and in time, depends on the shapes alone; so it can be found out before there is a text.
"""

import dataclasses

import torch

from minigpt.config import RunConfig
from minigpt.data.batches import Batch
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer
from minigpt.runtime import Runtime, pick_newton_schulz_dtype, prepare_step
from minigpt.timing import repeat

SIDE = 1024  # of the matrices whose product gives the rate of the machine


def make_step(
    config: RunConfig, runtime: Runtime, kind: type[TrainStep] = TrainStep
) -> tuple[TrainStep, torch.optim.Optimizer]:
    """Return the step of a run and its optimiser, as at step 0.

    Args:
        config: the settings, with the shape resolved.
        runtime: where it trains, and in which precision.
        kind: of the step.
    """
    step = prepare_step(kind(GPT(config.model)), runtime, config.train)
    inner = pick_newton_schulz_dtype(config.optim.newton_schulz_dtype, runtime.device)
    optim = dataclasses.replace(config.optim, newton_schulz_dtype=inner)
    return step, make_optimizer(step.model, optim)


def random_batches(config: RunConfig, device: torch.device) -> list[Batch]:
    """Return the micro-batches of one step, of random tokens, on the device."""
    train, shape = config.train, config.model
    generator = torch.Generator().manual_seed(0)
    size = (train.batch_size, shape.block_size + 1)
    tokens = torch.randint(shape.vocab_size, size, generator=generator).to(device)
    parts = tokens.split(train.micro_batch_size or train.batch_size)
    if config.data.documents == "join":
        return [Batch(part[:, :-1], part[:, 1:]) for part in parts]
    return [Batch(part[:, :-1], part[:, 1:], torch.zeros_like(part[:, 1:])) for part in parts]


def flops_per_second(runtime: Runtime) -> float:
    """Return floating-point operations per second in the product of two large matrices, the best of several."""
    left, right = (
        torch.ones(SIDE, SIDE, dtype=runtime.dtype, device=runtime.device) for _ in range(2)
    )
    runtime.wait()
    return 2 * SIDE**3 / min(repeat(lambda: left @ right, runtime.wait, seconds=0, at_least=10))
