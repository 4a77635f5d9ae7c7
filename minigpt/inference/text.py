"""A model and a prompt in, text out: for a few lines of Python."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from minigpt import config
from minigpt.config import SampleConfig
from minigpt.inference.engine import Engine
from minigpt.inference.plain import Plain
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer


def stream(model: GPT, tokenizer: Tokenizer, prompt: str, **settings: Any) -> Iterator[str]:
    """Yield the text that goes on from `prompt`, piece by piece; ends after `max_tokens` or at the end-of-text token.

    Args:
        model: with its tokenizer.
        tokenizer: of the model.
        prompt: text.
        settings: the fields of `SampleConfig`: max_tokens, temperature, top_k, seed …

    Raises:
        UserError: a setting is unknown or out of range, or the prompt holds a character that the tokenizer does not
            know.
    """
    chosen = config.build([("generate", {"sample": settings})]).sample
    with _asked(model, tokenizer) as engine:
        yield from engine.run(engine.submit(prompt, chosen))


def generate(model: GPT, tokenizer: Tokenizer, prompt: str, **settings: Any) -> str:
    """Return the text that `stream`, with the same settings, yields piece by piece.

    Args:
        model: with its tokenizer.
        tokenizer: of the model.
        prompt: text; it is not in what is returned.
        settings: the fields of `SampleConfig`: max_tokens, temperature, top_k, seed …

    Raises:
        UserError: as `stream`.
    """
    return "".join(stream(model, tokenizer, prompt, **settings))


def texts(model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleConfig) -> list[str]:
    """Return as many texts as the settings say, each with the prompt that it goes on from."""
    with _asked(model, tokenizer) as engine:
        seeds = range(settings.seed, settings.seed + settings.num_samples)
        begun = (engine.submit(prompt, settings, seed=seed) for seed in seeds)
        return [prompt + "".join(engine.run(one)) for one in begun]


@contextlib.contextmanager
def _asked(model: GPT, tokenizer: Tokenizer) -> Generator[Engine]:
    """Have a model in eval mode for a while, as it is: what is packed would not follow the next update."""
    training = model.training
    model.eval()
    try:
        yield Engine(Plain(model), tokenizer)
    finally:
        model.train(training)
