"""Settings left open in, what is best on this machine out: precision by a short trial, compilation by what it saves.

What is decided here depends on clocks, so it is decided once for a run and written down with its settings.
"""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from minigpt import machine
from minigpt.config import ModelConfig, RunConfig
from minigpt.model.size import parameter_shapes, training_flops_per_token
from minigpt.runtime import pick_precision
from minigpt.timing import seconds_of

# bf16 is taken where its products are so many times as fast: the step gains less, for it casts as well.
WORTHWHILE = 1.5
MOST_ROWS, FEWEST_ROWS = 2048, 64  # of a trial
MOST_FLOPS = 1e9  # of one product in it
WARM_UP = 3  # times
PRODUCT_SECONDS = 0.03  # for each kind of product, in both precisions

# Measured on two cores of an Intel Xeon, at steps of 0.007 to 37 GFLOP: docs/experiments.md.
COMPILE_SECONDS = 20.0
MARGIN = 2.0  # that a run is to save at least so many times as much
SAVED_SECONDS_PER_MICRO_BATCH = 1e-3
SAVED_SECONDS_PER_FLOP = 1.4e-12
SAVED_SHARE = 0.2  # of the time of a step, at least; of the smallest a third
# Of a whole run on a GPU: ten minutes at the 10 TFLOP/s of an old one, a minute at what the newest do.
COMPILED_FROM_FLOPS = 1e16
COMPILED_FROM_MINUTES = 5.0


def decide(config: RunConfig, device: torch.device, say: Callable[[str], None]) -> RunConfig:
    """Return the settings with precision and compilation decided, and say what a trial or an estimate decided.

    Args:
        config: the settings, with the shape resolved, and a length.
        device: of the run.
        say: called with a line for each decision that was not plain.
    """
    train = config.train
    dtype = pick_precision(train.dtype, device)
    if train.dtype == "auto" and device.type == "cpu":
        rows = (train.micro_batch_size or train.batch_size) * config.model.block_size
        gain = bf16_gain(config.model, rows)
        dtype = "bf16" if gain >= WORTHWHILE else "fp32"
        say(
            f"train.dtype is {dtype}: in a trial this CPU took the products of a block {gain:.1f} times as fast in "
            "bf16 as in fp32"
        )
    compiled = train.compile
    if compiled == "auto":
        compiled = "on" if pays_to_compile(config, device) else "off"
        if compiled == "on":
            say("the run is long enough for compiling its step to pay: train.compile is on")
    train = dataclasses.replace(train, device=str(device), dtype=dtype, compile=compiled)
    return dataclasses.replace(config, train=train)


def bf16_gain(shape: ModelConfig, rows: int) -> float:
    """Return how many times as fast as in fp32 a CPU takes the products of a training step in bf16, in a short trial.

    They are those of the linear layers of a block: forward, for the gradient of the input, and for that of the weight.
    On some processors one kind is slow in bf16 alone, on others all are: then not all are tried.

    Args:
        shape: of the model, resolved.
        rows: tokens in a micro-batch.
    """
    layers = Counter(
        size
        for name, size in parameter_shapes(shape).items()
        if len(size) == 2 and name.startswith("blocks.0.")
    )
    fp32 = bf16 = 0.0
    for size, count in layers.items():
        tried = min(rows, _most_rows(size))
        both = (_products(size, tried, dtype) for dtype in (torch.float32, torch.bfloat16))
        for slow, fast in zip(*both, strict=True):
            a, b = _best_seconds(slow, fast)
            fp32, bf16 = fp32 + count * a, bf16 + count * b
        if bf16 > fp32:
            break
    return fp32 / bf16


def _most_rows(size: tuple[int, int]) -> int:
    """Return with how many rows a layer of (outputs, inputs) is tried at most."""
    return min(MOST_ROWS, max(FEWEST_ROWS, int(MOST_FLOPS / (2 * math.prod(size)))))


def _products(size: tuple[int, int], rows: int, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """Return the three products of a layer of (outputs, inputs), with the casts of its weight and its gradient."""
    weight = torch.ones(size)
    x, y = torch.ones(rows, size[1], dtype=dtype), torch.ones(rows, size[0], dtype=dtype)
    return [lambda: x @ weight.to(dtype).T, lambda: y @ weight.to(dtype), lambda: (y.T @ x).float()]


def _best_seconds(*works: Callable[[], Tensor]) -> list[float]:
    """Return how long each takes at best; in turns, so that others who use the machine disturb them alike."""
    best = [math.inf] * len(works)
    for work in works:
        for _ in range(WARM_UP):
            work()  # memory is allocated, code is made for these shapes, and a core wakes up
    began = time.perf_counter()
    while time.perf_counter() - began < PRODUCT_SECONDS or math.inf in best:
        best = [min(least, seconds_of(work)) for least, work in zip(best, works, strict=True)]
    return best


def pays_to_compile(config: RunConfig, device: torch.device) -> bool:
    """Return whether compiling the step takes less time than it saves in a run of these settings, and can be done.

    Args:
        config: the settings, with the shape resolved, and a length.
        device: of the run.
    """
    train = config.train
    if not can_compile(device):
        return False
    tokens = train.batch_size * config.model.block_size
    flops = tokens * training_flops_per_token(config.model)  # of a step
    if device.type == "cuda":
        long_enough = train.steps * flops >= COMPILED_FROM_FLOPS
        return long_enough or train.minutes >= COMPILED_FROM_MINUTES
    if train.minutes:
        return train.minutes * 60 >= MARGIN * COMPILE_SECONDS / SAVED_SHARE
    micro_batches = train.batch_size // (train.micro_batch_size or train.batch_size)
    saved = train.steps * seconds_saved_by_compiling(flops, micro_batches)
    return saved >= MARGIN * COMPILE_SECONDS


def seconds_saved_by_compiling(flops: float, micro_batches: int) -> float:
    """Return by how much a compiled step is shorter on a CPU, of so many operations in so many micro-batches."""
    return micro_batches * SAVED_SECONDS_PER_MICRO_BATCH + flops * SAVED_SECONDS_PER_FLOP


def can_compile(device: torch.device) -> bool:
    """Return whether what `torch.compile` needs is there: on a CPU C++ and Python's headers, on a GPU Triton."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return device.type == "cpu" and machine.compiler() is not None and machine.has_python_headers()
