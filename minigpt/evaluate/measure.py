"""A run directory in; its likelihoods on held-out text out, beside the baselines from the text it was trained on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.config import RunConfig, TrainConfig
from minigpt.data.prepare import prepare
from minigpt.data.shards import TokenSequence
from minigpt.data.tokens import Tokens, find_prepared
from minigpt.errors import UserError
from minigpt.evaluate.baselines import baselines
from minigpt.evaluate.difference import difference
from minigpt.evaluate.likelihood import Likelihood, evaluate
from minigpt.files import expanded, read_json
from minigpt.inference.decoder import Decoder
from minigpt.interop.loading import load_both
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.rundir import RunDir
from minigpt.runtime import prepare_step, start_runtime
from minigpt.tokenizer import Tokenizer

LONGEST_WINDOW = 2048  # tokens: what people compare models of others at
TOKENS_AT_ONCE = 32_768


Text = Callable[[Tokenizer], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """How well a model foretells a text: the numbers, and what they come from, to compare it with another."""

    facts: dict[str, Any]
    likelihood: Likelihood


def measure(run: Path | str, text: Text | None = None, **options: Any) -> dict[str, Any]:
    """Return the facts of `measured`: loss, perplexity, bits per byte and character, their standard errors, …"""
    return measured(run, text, **options).facts


def measured(
    run: Path | str,
    text: Text | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
    stride: int | None = None,
) -> Measured:
    """Return how well a model foretells a text, and baselines where there are some.

    A run is measured in windows of the context that it was trained in, as it measures itself; any other model in those
    of its context, but of at most 2,048 tokens.

    Args:
        run: what `minigpt.load` takes: a run directory, one of its checkpoints, a Hugging Face directory, a file.
        text: returns the ids of a text to measure on, made by the model's tokenizer; None: the held-out part of the
            run.
        device: where.
        precision: fp32, bf16, fp16 or int8: measure as well how the model foretells where it is decoded in that.
        stride: tokens from one window to the next; None: windows do not overlap.

    Raises:
        UserError: nothing to load, no text to measure on, or weights that are not numbers.
    """
    model, tokenizer = load_both(run)
    is_run = (run_of(run) / "run.toml").is_file()
    config = RunDir(run_of(run)).config if is_run else RunConfig()
    # tf32 is a faster way to the same, which not every device has.
    dtype = "fp32" if config.train.dtype == "tf32" else config.train.dtype
    settings = TrainConfig(device=device, dtype=dtype)
    step = prepare_step(TrainStep(model), start_runtime(settings), settings)
    if text is None:
        tokens = tokens_of(run)
        val, compared = tokens.val, baselines(tokens.train, tokens.val, tokenizer)
    else:
        val, compared = TokenSequence([text(tokenizer)]), {}
    separator = tokenizer.eos_id if config.data.documents == "separate" else None
    context = model.config.block_size if is_run else min(model.config.block_size, LONGEST_WINDOW)
    at_once = max(1, min(32, TOKENS_AT_ONCE // context))

    def likelihood(step: TrainStep) -> Likelihood:
        found = evaluate(
            step,
            val,
            tokenizer,
            separator=separator,
            context=context,
            stride=stride,
            batch_size=at_once,
        )
        if not math.isfinite(found.loss):
            raise UserError(
                f"the loss of {run} is {found.loss}: its weights are damaged or diverged"
            )
        return found

    found = likelihood(step)
    facts = found.facts() | {"context": context, "stride": stride, "baselines": compared}
    if precision is not None:
        if type(model) is not GPT:
            raise UserError(
                f"{run} is computed by transformers, in its own precision; leave --dtype and --quantize out"
            )
        decoder: Any = Decoder(model, precision, slots=0)
        decoded = likelihood(TrainStep(decoder))
        facts["decoded"] = {"precision": precision} | decoded.facts()
        facts["decoded"]["difference"] = difference(found, decoded)
    return Measured(facts, found)


def tokens_of(run: Path | str) -> Tokens:
    """Return the tokens that a run was trained and evaluated on: from the cache, or made again from its source.

    Raises:
        UserError: `run` is no run, or its text is gone or has changed.
    """
    folder = run_of(run)
    if not (folder / "data.json").is_file():
        raise UserError(f"{run} does not say what it was trained on; pass a text with --data")
    if is_tuned(run):
        raise UserError(
            f"{run} was tuned on conversations and not on a text; pass a text to measure on with --data, or measure it "
            "beside runs that were tuned on the same conversations"
        )
    fingerprint = str(read_json(folder / "data.json").get("fingerprint", ""))
    if found := find_prepared(fingerprint):
        return found
    tokens = prepare(RunDir.open(folder).config.data)
    if tokens.fingerprint != fingerprint:
        raise UserError(
            f"the text that {folder} was trained on has changed; pass the text to measure on with --data"
        )
    return tokens


def is_tuned(run: Path | str) -> bool:
    """Return whether a run was tuned on conversations."""
    facts = run_of(run) / "data.json"
    return facts.is_file() and "formats" in read_json(facts)


def run_of(run: Path | str) -> Path:
    """Return the run directory that a checkpoint belongs to, or the path itself."""
    path = expanded(run).resolve()
    return path.parent.parent if path.parent.name == "checkpoints" else path
