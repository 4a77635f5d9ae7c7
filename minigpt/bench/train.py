"""Settings in; milliseconds of a step, tokens per second, utilisation and memory out, ours beside a peer's.

Everybody trains the same shape on the same random tokens, each in a process of its own, in turns; the best round
counts, for other processes only ever slow one down. The floor is the time that the step's floating-point operations
would take at the rate that this machine multiplies large matrices with. MFU, model FLOPs utilisation, is the share of
what the maker of the GPU says that it can do, where that is known (Chowdhery et al., 2022, section 4.1).
"""

import dataclasses
import functools
import multiprocessing
import statistics
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from minigpt.bench.rows import Row, row
from minigpt.config import RunConfig, from_dict, to_dict
from minigpt.data.batches import Batch
from minigpt.decisions import decide
from minigpt.errors import UserError
from minigpt.extras import require
from minigpt.fit import update
from minigpt.guard import Guard
from minigpt.model.size import training_flops_per_token, with_vocabulary
from minigpt.rehearsal import flops_per_second, make_step, random_batches
from minigpt.runtime import Runtime, start_runtime
from minigpt.timing import repeat
from minigpt.tokenizer import vocabulary_size

PEERS = ("hf",)
ROUNDS = 3
WARM_UP = 3  # steps before the clock starts: memory is allocated, and a compiled step is compiled
CHARACTERS = 96  # ids of a character tokenizer, where no text says how many: printable ASCII and the end of a text

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one process has found.

    Attributes:
        seconds: of a step, the median.
        peak_bytes: of memory.
        flops_per_second: of the product of two large matrices in the precision of the step.
        peak_flops: a second, by the maker of the device; None: not known.
        sequences: of a micro-batch, where it had to be smaller than was asked for; else 0.
    """

    seconds: float
    peak_bytes: int
    flops_per_second: float
    peak_flops: float | None = None
    sequences: int = 0


def bench_train(
    config: RunConfig,
    *,
    peers: Collection[str] = (),
    seconds: float = 5.0,
    say: Say = lambda line: None,
) -> list[Row]:
    """Return rows of figures for a step of these settings.

    Args:
        config: the settings; text and length of the run do not matter.
        peers: "hf" for a GPT-2 of `transformers` with as many layers, heads, channels, positions and ids, trained by a
            plain loop.
        seconds: of each of three rounds.
        say: called with what is going on.

    Raises:
        UserError: a peer that is not known or not there.
    """
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise UserError(f"--vs {unknown[0]} is not known; peers: {', '.join(PEERS)}")
    if peers:
        require("hf", "--vs hf")
    config = sized(config, say)
    ways: dict[str, Callable[[dict[str, Any], float], Measured]] = {"minigpt": ours}
    ways |= dict.fromkeys(peers, transformers_gpt2)
    best: dict[str, Measured] = {}
    for number in range(ROUNDS):
        for who, way in ways.items():
            say(f"{who}, round {number + 1} of {ROUNDS} …")
            found = _in_a_process(way, to_dict(config), seconds)
            if who not in best or found.seconds < best[who].seconds:
                best[who] = found
    rate = max(found.flops_per_second for found in best.values())
    return [line for who, found in best.items() for line in _rows(config, who, found, rate)]


def sized(config: RunConfig, say: Say) -> RunConfig:
    """Return the settings with the shape resolved, though no text is read, and the decisions made."""
    known = {"bpe": config.data.vocab_size, "char": CHARACTERS}
    named = config.data.tokenizer
    ids = config.model.vocab_size or known.get(named) or vocabulary_size(named)
    config = dataclasses.replace(config, model=with_vocabulary(config.model, ids))
    return decide(config, start_runtime(config.train).device, say)


def ours(settings: dict[str, Any], seconds: float) -> Measured:
    """Measure our step as a run does it: loss, backward, clipping, optimiser, and the guard that watches them."""
    config = from_dict(settings, "the benchmark")
    runtime = start_runtime(config.train)
    torch.manual_seed(0)
    step, optimizer = make_step(config, runtime)
    batches = random_batches(config, runtime.device)
    guard = Guard(
        optimizer,
        step.model.named_parameters(),
        on_device=runtime.device.type == "cuda",
        loss_scale=step.loss_scale,
    )
    memory, losses = {}, []

    def guarded() -> None:
        losses.append(update(step, optimizer, batches, config.optim.clip)[0])
        if guard.waits or len(losses) == config.train.log_every:
            list(guard.look(memory, 0, losses))
            losses.clear()

    return _measure(guarded, runtime, seconds)


def transformers_gpt2(settings: dict[str, Any], seconds: float) -> Measured:
    """Measure a GPT-2 of `transformers` in a plain loop, in the precision of ours; on a GPU compiled."""
    import transformers

    config = from_dict(settings, "the benchmark")
    shape, runtime = config.model, start_runtime(config.train)
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)
    theirs = transformers.GPT2Config(
        vocab_size=shape.vocab_size, n_positions=shape.block_size, n_embd=shape.n_embd, n_layer=shape.n_layer,
        n_head=shape.n_head, embd_pdrop=shape.dropout, resid_pdrop=shape.dropout, attn_pdrop=shape.dropout,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(theirs).to(runtime.device).train()
    if runtime.device.type == "cuda":
        model.compile()
    on_gpu = runtime.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), config.optim.lr, fused=on_gpu)
    low = runtime.dtype != torch.float32

    def step(batches: list[Batch]) -> None:
        for batch in batches:
            with torch.autocast(runtime.device.type, runtime.dtype, enabled=low):
                loss = model(batch.ids, labels=batch.ids).loss / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad()

    return _with_room(step, config, runtime, seconds)


def _with_room(
    step: Callable[[list[Batch]], Any], config: RunConfig, runtime: Runtime, seconds: float
) -> Measured:
    """Measure a step, in micro-batches half as large where the memory does not hold those that are asked for."""
    asked = micro = config.train.micro_batch_size or config.train.batch_size
    while True:
        train = dataclasses.replace(config.train, micro_batch_size=micro)
        batches = random_batches(dataclasses.replace(config, train=train), runtime.device)
        try:
            found = _measure(functools.partial(step, batches), runtime, seconds)
            return dataclasses.replace(found, sequences=micro if micro < asked else 0)
        except torch.OutOfMemoryError:
            if micro % 2:
                raise
            micro //= 2
        runtime.forget()


def _measure(step: Callable[[], Any], runtime: Runtime, seconds: float) -> Measured:
    repeat(step, runtime.wait, seconds=0, at_least=WARM_UP)
    times = repeat(step, runtime.wait, seconds=seconds)
    return Measured(
        statistics.median(times),
        runtime.peak_memory_bytes(),
        flops_per_second(runtime),
        runtime.peak_flops(),
    )


def _in_a_process(
    way: Callable[[dict[str, Any], float], Measured], settings: dict[str, Any], seconds: float
) -> Measured:
    """Measure in a fresh process: its memory is its own, and nothing is left of who came before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, settings, seconds).result()


def _rows(config: RunConfig, who: str, found: Measured, rate: float) -> list[Row]:
    tokens = config.train.batch_size * config.model.block_size
    flops = tokens * training_flops_per_token(config.model)
    rows = [
        row("step", who, found.seconds * 1e3, "ms"),
        row("training", who, tokens / found.seconds, "tokens/s"),
        row("share of the floor", who, 100 * flops / rate / found.seconds, "%"),
        row("peak memory", who, found.peak_bytes / 1e6, "MB"),
    ]
    if found.peak_flops:
        rows.insert(2, row("MFU", who, 100 * flops / found.seconds / found.peak_flops, "%"))
    if found.sequences:
        rows.append(row("micro-batch, smaller for room", who, found.sequences, "sequences"))
    return rows
