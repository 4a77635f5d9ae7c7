"""Settings in, the seconds that the parts of their run cost out: the real step, tried briefly on random tokens.

A step that takes too long is tried in part: fewer sequences, and where one of them takes too long, fewer blocks. The
rest is arithmetic: time grows in proportion to the sequences, and by the same amount with each block.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from minigpt import loss
from minigpt.config import ModelConfig, RunConfig, SampleConfig
from minigpt.data.batches import Batch
from minigpt.files import flush, sha256_of
from minigpt.fit import update
from minigpt.guard import Guard
from minigpt.model.size import block_parameters, parameter_count, training_flops_per_token
from minigpt.model.weights import save_tensors
from minigpt.rehearsal import flops_per_second, make_step, random_batches
from minigpt.runtime import Runtime
from minigpt.sampling import choose, draw_at, draw_tokens
from minigpt.timing import repeat, seconds_of
from minigpt.trial import Costs

# What one update of a trial may take by the estimate below: as a whole; of one micro-batch; of some blocks.
COMFORTABLE_SECONDS = 1.0
PATIENT_SECONDS = 2.5
LONGEST_SECONDS = 6.0
REPEATING_SECONDS = 1.5  # updates are repeated for so long
SLOW_SECONDS = 5.0  # a trial of one block that takes so long is followed by one of two
# An estimate, to choose what is tried: a step takes so many times what its products take at the rate of large ones …
OVERHEAD = 1.6
SECONDS_PER_PARAMETER = (
    1e-8  # … and reads and writes each parameter, its gradient and what the optimiser remembers.
)
NEWTON_SCHULZ_FLOPS = 30  # for each parameter of a square matrix, times its side
WARM_UP_TOKENS = 16  # of a sequence
SAMPLED = 16  # tokens
WRITTEN_BYTES = 1 << 25


@dataclasses.dataclass(frozen=True)
class Portion:
    """How much of a step is tried.

    Attributes:
        layers: how many blocks, each a trial of its own.
        sequences: of a micro-batch.
        micro_batches: how many of them.
    """

    layers: tuple[int, ...]
    sequences: int
    micro_batches: int

    def within(self, config: RunConfig) -> Iterator[RunConfig]:
        """Yield the settings of each trial."""
        batch = self.sequences * self.micro_batches
        train = dataclasses.replace(
            config.train, batch_size=batch, micro_batch_size=self.sequences, compile="off"
        )
        for layers in self.layers:
            model = dataclasses.replace(config.model, n_layer=layers)
            yield dataclasses.replace(config, model=model, train=train)

    def describe(self, config: RunConfig) -> str:
        """Return in words what is tried."""
        shape, train = config.model, config.train
        all_layers = self.layers == (shape.n_layer,)
        if all_layers and self.sequences * self.micro_batches == train.batch_size:
            words = "whole steps"
        else:
            words = f"{self.sequences:,} of {train.batch_size:,} sequences"
            if not all_layers:
                words += (
                    f", in {self.layers[0]:,} and in {self.layers[1]:,} of {shape.n_layer:,} blocks"
                )
            words += "; the rest in proportion"
        return words + ("; not compiled" if train.compile == "on" else "")


@dataclasses.dataclass(frozen=True)
class Speed:
    """What has been found out.

    Attributes:
        tried: how, in words.
        costs: the seconds of the parts of a run.
    """

    tried: str
    costs: Costs


@dataclasses.dataclass(frozen=True)
class Parts:
    """The seconds of the parts of an update and of what is done beside it.

    Attributes:
        passes: forward and backward of one sequence.
        optimizer: the rest of an update.
        forward: forward alone, of one sequence.
        token: of a sample.
    """

    passes: float
    optimizer: float
    forward: float
    token: float


def try_out(config: RunConfig, runtime: Runtime, held_out: int = 0) -> Speed | float:
    """Return what the parts of a run cost; where even the smallest trial takes too long, the least seconds of a step.

    Args:
        config: the settings, with the shape resolved.
        runtime: where it trains. There must be memory for a whole step.
        held_out: tokens, where they are known.
    """
    rate = flops_per_second(runtime)
    portion = choose_portion(config, rate)
    if portion is None:
        tokens = config.train.batch_size * config.model.block_size
        return training_flops_per_token(config.model) * tokens / rate
    # What else the machine does grows with what is reckoned from a few blocks, so there the least counts.
    typical = statistics.mean if len(portion.layers) == 1 else min
    began = time.perf_counter()
    tried = []
    for number in range(len(portion.layers)):
        if number and time.perf_counter() - began > SLOW_SECONDS:
            portion = dataclasses.replace(portion, layers=(1, 2))
        tried.append(_try(list(portion.within(config))[number], runtime, typical))
        runtime.forget()
    parts = extrapolate(portion.layers, tried, config.model.n_layer)
    written = _seconds_per_byte_written()
    return Speed(portion.describe(config), costs_from(parts, config, written, held_out))


def choose_portion(config: RunConfig, rate: float) -> Portion | None:
    """Return the largest part of a step that does not take too long; None where each does.

    Args:
        config: the settings, with the shape resolved.
        rate: floating-point operations per second of this machine.
    """
    train, layers = config.train, config.model.n_layer
    micro = train.micro_batch_size or train.batch_size

    def seconds(sequences: int, blocks: int) -> float:
        return expected_seconds(config, sequences, blocks, rate)

    if seconds(train.batch_size, layers) <= COMFORTABLE_SECONDS:
        return Portion((layers,), micro, train.batch_size // micro)
    fewest = _fewest_sequences(config.model, micro)
    for sequences in range(micro, fewest, -1):
        if seconds(sequences, layers) <= COMFORTABLE_SECONDS:
            return Portion((layers,), sequences, 1)
    if seconds(fewest, layers) <= PATIENT_SECONDS:
        return Portion((layers,), fewest, 1)
    deep = [n for n in range(2, layers) if seconds(fewest, n) <= LONGEST_SECONDS]
    return Portion((1, min(deep[-1], 4)), fewest, 1) if deep else None


def expected_seconds(config: RunConfig, sequences: int, layers: int, rate: float) -> float:
    """Return about how long an update takes, to choose by; see `choose_portion`."""
    shape = dataclasses.replace(config.model, n_layer=layers)
    flops = training_flops_per_token(shape) * sequences * shape.block_size
    parameters = parameter_count(shape)
    if config.optim.name == "muon":
        blocks = layers * sum(block_parameters(shape).values())
        flops += NEWTON_SCHULZ_FLOPS * shape.n_embd * blocks
    if config.train.recompute:
        flops *= 4 / 3
    return OVERHEAD * flops / rate + parameters * SECONDS_PER_PARAMETER


def _fewest_sequences(shape: ModelConfig, micro: int) -> int:
    """Return how many sequences have their logits made in chunks, or not, as those of a whole micro-batch have."""
    rows = loss.LOGITS_AT_ONCE // shape.vocab_size
    return min(micro, rows // shape.block_size + 1) if micro * shape.block_size > rows else 1


def extrapolate(layers: tuple[int, ...], tried: list[Parts], wanted: int) -> Parts:
    """Return the parts of a model of `wanted` blocks from those of one model with as many, or of two with fewer.

    >>> few, more = Parts(2.0, 1.0, 0.5, 0.1), Parts(4.0, 1.2, 1.0, 0.1)
    >>> extrapolate((1, 3), [few, more], 12).passes
    13.0
    """
    if len(layers) == 1:
        return tried[0]
    few, more = (dataclasses.astuple(parts) for parts in tried)
    share = (wanted - layers[0]) / (layers[1] - layers[0])
    return Parts(*(a + max(0.0, b - a) * share for a, b in zip(few, more, strict=True)))


def costs_from(parts: Parts, config: RunConfig, seconds_per_byte: float, held_out: int) -> Costs:
    """Return what the parts of a run cost, from the parts of its update.

    Args:
        parts: of an update.
        config: the settings, with the shape resolved.
        seconds_per_byte: of writing a checkpoint.
        held_out: tokens; 0: not known.
    """
    train, block_size = config.train, config.model.block_size
    evaluated = min(train.eval_tokens, held_out or train.eval_tokens)
    numbers = parameter_count(config.model)
    in_blocks = config.model.n_layer * sum(block_parameters(config.model).values())
    by_muon = in_blocks if config.optim.name == "muon" else 0
    return Costs(
        update=parts.passes * train.batch_size + parts.optimizer,
        evaluation=parts.forward * max(1, evaluated // block_size),
        sample=parts.token * config.sample.max_tokens * config.sample.num_samples,
        # Weights, and two numbers for each that the optimiser remembers; Muon remembers one.
        checkpoint=4 * (3 * numbers - by_muon) * seconds_per_byte,
        publishing=4 * numbers * seconds_per_byte,
    )


def _try(config: RunConfig, runtime: Runtime, typical: Callable[[list[float]], float]) -> Parts:
    """Return the parts of an update with these settings.

    Args:
        config: the settings, with the shape resolved.
        runtime: where it trains.
        typical: which of several times counts.
    """
    torch.manual_seed(0)
    step, optimizer = make_step(config, runtime)
    batches = random_batches(config, runtime.device)
    in_optimizer: list[float] = []
    on_device, scale = runtime.device.type == "cuda", step.loss_scale
    Guard(optimizer, step.model.named_parameters(), on_device=on_device, loss_scale=scale)
    _time_within(optimizer, runtime, in_optimizer)
    # What is allocated once, and compiled or chosen at the first call, is no part of a step.
    update(step, optimizer, [_shortened(batch) for batch in batches], config.optim.clip)
    in_optimizer.clear()
    times = repeat(
        lambda: update(step, optimizer, batches, config.optim.clip),
        runtime.wait,
        seconds=REPEATING_SECONDS,
        at_least=2,
    )
    settled = len(times) // 4  # the first steps allocate memory
    whole = typical(times[settled:])
    rest = typical(in_optimizer[settled:])
    step.eval()
    looks = repeat(lambda: _look(step, batches[0]), runtime.wait, seconds=0.3)
    token = seconds_of(lambda: _draw(step, config.sample)) / SAMPLED
    return Parts(
        (whole - rest) / config.train.batch_size, rest, typical(looks) / len(batches[0].ids), token
    )


def _time_within(optimizer: torch.optim.Optimizer, runtime: Runtime, seconds: list[float]) -> None:
    """Have each step of the optimiser add the seconds that it took."""
    began = [0.0]

    def begin(*_: object) -> None:
        runtime.wait()
        began[0] = time.perf_counter()

    def end(*_: object) -> None:
        runtime.wait()
        seconds.append(time.perf_counter() - began[0])

    optimizer.register_step_pre_hook(begin)
    optimizer.register_step_post_hook(end)


def _shortened(batch: Batch) -> Batch:
    return Batch(batch.ids[:, :WARM_UP_TOKENS], batch.targets[:, :WARM_UP_TOKENS])


@torch.no_grad()
def _look(step: loss.TrainStep, batch: Batch) -> None:
    step(batch.ids, batch.targets, batch.documents)


def _draw(step: loss.TrainStep, sample: SampleConfig) -> None:
    def pick(logits: np.ndarray, position: int) -> int:
        drawn = draw_at(sample.seed, position)
        return choose(logits, sample.temperature, sample.top_k, sample.top_p, drawn)

    for _ in islice(draw_tokens(step.model, [0], pick), SAMPLED):
        pass


def _seconds_per_byte_written() -> float:
    """Return how long it takes to write a byte of a checkpoint here, flushed and hashed."""
    here = Path.cwd()
    tensors = {"numbers": torch.zeros(WRITTEN_BYTES // 4)}
    with tempfile.TemporaryDirectory(
        prefix=".minigpt-", dir=here if os.access(here, os.W_OK) else None
    ) as folder:
        path = Path(folder) / "numbers.safetensors"

        def write() -> None:
            save_tensors(tensors, path)
            flush(path)
            sha256_of(path)

        return seconds_of(write) / WRITTEN_BYTES
