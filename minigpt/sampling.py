"""A model and a prompt in, text out, token by token.

A token is a function of the logits, the seed and its position alone: the same request draws the same text whatever else
is drawn beside it.
"""

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from minigpt.model.attention import Cache
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer


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


def choose(
    logits: Tensor, temperature: float, top_k: int, top_p: float, draw: float
) -> int:
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


@torch.inference_mode()
def draw_tokens(
    model: GPT,
    ids: list[int],
    *,
    vocab_size: int | None = None,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Yield the tokens that go on from `ids` (at least one), without end.

    Of a text that is longer than the context, the younger part is seen: when the context is full, its younger half is
    read again and goes on from there.

    Args:
        vocab_size: ids from here on are never drawn; None: all may be.
    """
    size, device = model.config.block_size, model.head.weight.device
    text, new = list(ids), ids[-size:]
    cache = Cache(model.config, device=device)
    while True:
        if cache.length + len(new) > size:
            cache, new = Cache(model.config, device=device), text[-max(1, size // 2) :]
        logits = model(torch.tensor([new], device=device), cache=cache)[0, -1].float().cpu()  # (V,)
        draw = random.Random(f"{seed}/{len(text) - len(ids)}").random()
        token = choose(logits[:vocab_size], temperature, top_k, top_p, draw)
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
    ids = tokenizer.encode(prompt) or [tokenizer.eos_id or 0]
    text, training = tokenizer.stream(), model.training
    drawn = draw_tokens(
        model.eval(), ids, vocab_size=tokenizer.vocab_size,
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )  # fmt: skip
    try:
        for _, token in zip(range(max_tokens), drawn, strict=False):
            if token == tokenizer.eos_id:
                break
            if piece := text.push(token):
                yield piece
        if piece := text.finish():
            yield piece
    finally:
        model.train(training)


def generate(model: GPT, tokenizer: Tokenizer, prompt: str, **settings: float) -> str:
    """Return the text that `stream` yields, in one piece."""
    return "".join(stream(model, tokenizer, prompt, **settings))
