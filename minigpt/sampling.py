"""A model and the tokens of a prompt in, one more token out, and again.

A token is a function of the logits, the seed and its position alone: the same request draws the same text whatever else
is drawn beside it.
"""

import math
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

from minigpt.errors import UserError
from minigpt.model.transformer import GPT

Pick = Callable[[np.ndarray, int], int]  # (V,) logits, the number of the new token -> the token
DAMAGED = (
    "the model's logits are not finite numbers: its weights are damaged, or it diverged in "
    "training; take another checkpoint"
)


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Return the ids of the k largest of (V,) logits, ascending; of equals, the smaller ids stay."""
    least = np.partition(logits, -k)[-k]
    ids = np.flatnonzero(logits >= least)
    if len(ids) > k:
        ids = np.delete(ids, np.flatnonzero(logits[ids] == least)[k - len(ids) :])
    return ids


def keep_top_p(weights: np.ndarray, p: float) -> np.ndarray:
    """Return the ids, ascending, of the largest of (V,) weights that together reach the share p of their sum.

    Holtzman et al. (2020). The token that crosses p is kept, so at least one is; of equals, those with the smaller ids
    stay.
    """
    total = weights.sum()
    likely = np.flatnonzero(weights * len(weights) >= total * (1 - p) / 2)  # the rest is too little
    order = likely[np.argsort(-weights[likely], kind="stable")]
    reached = weights[order].cumsum()
    return np.sort(order[: np.searchsorted(reached, p * total) + 1])


def choose(logits: np.ndarray, temperature: float, top_k: int, top_p: float, draw: float) -> int:
    """Return the token at `draw`, in [0, 1), of the distribution that temperature, top-k and top-p leave.

    Args:
        logits: (V,); those of tokens that are excluded are minus infinity.
        temperature: 0 takes the likeliest; of equals, the smallest id.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        draw: the tokens share out [0, 1) in the order of their ids.

    Raises:
        UserError: a logit is not a number or infinite, or all are minus infinity.
    """
    highest = logits.max()
    if not math.isfinite(highest):
        raise UserError(DAMAGED)
    if temperature == 0:
        return int(logits.argmax())
    some = 0 < top_k < len(logits)
    ids = keep_top_k(logits, top_k) if some else np.flatnonzero(logits > -np.inf)
    with np.errstate(over="ignore"):  # at a temperature near 0 all but the likeliest end at -inf
        weights = np.exp((logits[ids].astype(np.float64) - highest) / temperature)
    if top_p < 1:
        kept = keep_top_p(weights, top_p)
        ids, weights = ids[kept], weights[kept]
    upper = weights.cumsum()
    return int(ids[np.searchsorted(upper, draw * upper[-1], side="right")])


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
        token = pick(logits.float().cpu().numpy(), len(text) - len(ids))
        yield token
        text.append(token)
        new = [token]
