"""A model and a prompt in, text out, token by token.

A token is a function of the logits, the seed and its position alone: the same request draws the same text whatever else
is drawn beside it.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer

Pick = Callable[[Tensor, int], int]  # (V,) logits and the number of the new token -> the token


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Return (V,) logits with all but the k largest at minus infinity; of equals, those with the smaller ids stay."""
    order = logits.argsort(descending=True, stable=True)
    return logits.index_fill(0, order[k:], float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Return (V,) logits with only the likeliest tokens that together reach probability p (Holtzman et al., 2020).

    The token that crosses p is kept, so at least one is.
    """
    ordered, order = logits.softmax(dim=0).sort(descending=True, stable=True)
    reached = ordered.cumsum(0) >= p
    return logits.index_fill(0, order[1:][reached[:-1]], float("-inf"))


def choose(logits: Tensor, temperature: float, top_k: int, top_p: float, draw: float) -> int:
    """Return the token at `draw`, in [0, 1), of the distribution that temperature, top-k and top-p leave.

    Args:
        logits: (V,).
        temperature: 0 takes the likeliest.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        draw: the tokens share out [0, 1) in the order of their ids.
    """
    if temperature == 0:
        return int(logits.argmax())
    logits = (logits.double() - logits.max()) / temperature
    if 0 < top_k < len(logits):
        logits = keep_top_k(logits, top_k)
    if top_p < 1:
        logits = keep_top_p(logits, top_p)
    upper = logits.softmax(dim=0).cumsum(0)  # (V,)
    return int(torch.searchsorted(upper, draw * upper[-1], right=True))


def draw_at(seed: int, position: int) -> float:
    """Return the draw, in [0, 1), for the new token at a position; equal everywhere for equal seeds."""
    return random.Random(f"{seed}/{position}").random()


@torch.inference_mode()
def draw_tokens(model: GPT, ids: list[int], pick: Pick, keep: int = 0) -> Iterator[int]:
    """Yield the tokens that go on from `ids` (at least one), without end.

    Of a text that is longer than the context, the younger part is seen: when the context is full, its younger half is
    read again and goes on from there.

    Args:
        keep: so many ids at the beginning stay before all that is seen, as a tokenizer's prefix must.
    """
    size, device = model.config.block_size, model.head.weight.device
    text, cache, new = list(ids), model.new_cache(), ids[:keep] + ids[keep:][keep - size :]
    while True:
        if cache.length + len(new) > size:
            cache, new = model.new_cache(), ids[:keep] + text[keep:][-max(1, size // 2 - keep) :]
        logits = model(torch.tensor([new], device=device), cache=cache)[0, -1]  # (V,)
        token = pick(logits.float().cpu(), len(text) - len(ids))
        yield token
        text.append(token)
        new = [token]


def stream(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the text that goes on from `prompt`, piece by piece; ends after `max_tokens` or at the end-of-text token.

    Raises:
        UserError: the prompt holds a character that the tokenizer does not know.
    """

    def pick(logits: Tensor, position: int) -> int:
        known = logits[: tokenizer.vocab_size]  # rows beyond are padding
        return choose(known, temperature, top_k, top_p, draw_at(seed, position))

    ids = [*tokenizer.prefix, *tokenizer.encode(prompt)] or [tokenizer.eos_id or 0]
    text, training, keep = tokenizer.stream(), model.training, len(tokenizer.prefix)
    try:
        for token in islice(draw_tokens(model.eval(), ids, pick, keep), max_tokens):
            if token == tokenizer.eos_id:
                break
            yield text.push(token)
        yield text.finish()
    finally:
        model.train(training)


def generate(model: GPT, tokenizer: Tokenizer, prompt: str, **settings: Any) -> str:
    """Return the text that `stream`, with the same settings, yields piece by piece."""
    return "".join(stream(model, tokenizer, prompt, **settings))
