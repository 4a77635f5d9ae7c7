"""A model and how it is to decode in, an engine out: device, precision, compiled or not, how many texts at a time."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from minigpt.config import ModelConfig
from minigpt.decisions import can_compile
from minigpt.errors import UserError
from minigpt.inference.compiled import (
    EXAMPLE,
    SoonCompiled,
    load_step,
    start_compiling,
    stop_compiling,
)
from minigpt.inference.decoder import Decoder
from minigpt.inference.engine import Engine
from minigpt.inference.graphed import GraphedStep
from minigpt.inference.packed import Product
from minigpt.inference.plain import Plain
from minigpt.model.transformer import GPT
from minigpt.runtime import pick_device, pick_precision
from minigpt.timing import repeat
from minigpt.tokenizer import Tokenizer

WORTHWHILE = 1.2  # bf16 is taken where a product with one row is so many times as fast
TRIAL_SECONDS = 0.02  # for each precision
MOST_SLOTS = 16  # that are worth it for one person: beyond that a step takes as much longer as it has more rows
SHORTEST = 2 * EXAMPLE  # context that a step is compiled for
LONGEST_COMPILATION = 600.0  # seconds

Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Quantize = Literal["none", "int8"]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a model computes its logits.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto: the faster of fp32 and bf16.
        quantize: int8: weights as whole numbers with a scale for each row, and bf16 between them.
        compile: whether a text alone is written by a compiled step.
    """

    device: str = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize = "none"
    compile: bool = False


def open_engine(
    model: GPT,
    tokenizer: Tokenizer,
    decoding: Decoding,
    *,
    slots: int = 1,
    wait: bool = True,
    say: Callable[[str], None],
) -> Engine:
    """Return an engine that writes with a model.

    Args:
        model: GPT, or any that `transformers` computes.
        tokenizer: of the model.
        decoding: how.
        slots: texts at a time.
        wait: for a compiled step that has to be made; else it takes its place once it is there.
        say: called with what was decided, and what takes long.

    Raises:
        UserError: the device or the precision is not there, or not for this model.
    """
    device = pick_device(decoding.device, "--device")
    model.to(device)
    if type(model) is not GPT:
        if decoding.quantize != "none" or decoding.dtype not in ("auto", "fp32"):
            raise UserError(
                "a model that transformers computes is drawn from as it is; leave --dtype and --quantize out"
            )
        return Engine(Plain(model, slots), tokenizer)
    decoder = Decoder(model, precision_of(model.config, decoding, device, say), slots)
    if decoding.compile:
        use_compiled(decoder, wait, say)
    return Engine(decoder, tokenizer)


def use_compiled(decoder: Decoder, wait: bool, say: Callable[[str], None]) -> None:
    """Have a decoder write a text alone by a compiled step; where none is kept it is made.

    Args:
        decoder: on a CPU; on a GPU it gets a CUDA graph.
        wait: until it is made; else it takes its place once it is.
        say: called with what takes long.
    """
    if decoder.device.type == "cuda":
        decoder.alone = GraphedStep(decoder)
        return
    if decoder.config.block_size < SHORTEST:
        say(f"a context of {decoder.config.block_size} is too short for a compiled step")
        return
    decoder.alone = load_step(decoder)
    if decoder.alone is not None:
        return
    if decoder.device.type != "cpu" or not can_compile(decoder.device):
        say(
            "the step is not compiled: that takes a CPU, a C++ compiler (g++) and Python's headers; see minigpt doctor"
        )
    elif wait:
        say("compiling the step for this shape, once: about half a minute")
        wait_for(start_compiling(decoder))
        decoder.alone = load_step(decoder)
    else:
        decoder.alone = SoonCompiled(decoder, say)


def precision_of(
    config: ModelConfig, decoding: Decoding, device: torch.device, say: Callable[[str], None]
) -> str:
    """Return the precision of the weights; auto: bf16 where it is faster, which is said."""
    if decoding.quantize == "int8":
        if decoding.dtype not in ("auto", "bf16"):
            raise UserError(
                f"--quantize int8 computes in bf16 between its weights; leave --dtype {decoding.dtype} out"
            )
        return "int8"
    if decoding.dtype != "auto" or device.type != "cpu":
        return pick_precision(decoding.dtype, device)
    if decoding.compile and can_compile(device):
        # A compiled step is as fast as its weights can be read: docs/benchmarks.md.
        say(
            "decoding in bf16, which a compiled step takes in two thirds of the time (--dtype fp32: exact)"
        )
        return "bf16"
    gain = bf16_gain(config)
    taken = "bf16" if gain >= WORTHWHILE else "fp32"
    often, slower, faster = (gain, "fp32", "bf16") if gain >= 1 else (1 / gain, "bf16", "fp32")
    say(
        f"decoding in {taken}: in a trial a product took {often:.1f} times as long in {slower} as in {faster}"
    )
    return taken


def bf16_gain(config: ModelConfig) -> float:
    """Return how many times as fast this CPU multiplies one row in bf16 as in fp32, at the widest matrix of a block."""
    weight, row = torch.ones(config.mlp_hidden, config.n_embd), torch.ones(1, config.n_embd)
    least = []
    for precision in ("fp32", "bf16"):
        product = Product(weight, precision)

        def multiply(product: Product = product) -> torch.Tensor:
            return product(row)

        with torch.inference_mode():
            least.append(min(repeat(multiply, lambda: None, seconds=TRIAL_SECONDS, at_least=5)))
    return least[0] / least[1]


def wait_for(compiling: subprocess.Popen[bytes]) -> None:
    """Wait until a step is compiled.

    Raises:
        UserError: it failed.
    """
    try:
        _, errors = compiling.communicate(timeout=LONGEST_COMPILATION)
    except BaseException:
        stop_compiling(compiling)
        raise
    if compiling.returncode:
        last = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"compiling the step failed: {last[-1][:300]}; leave --compile out")
