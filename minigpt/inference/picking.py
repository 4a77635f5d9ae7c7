"""Logits and a text in, the next token out, by the settings of one request.

The order of the steps, each of which sees what those before it left:

1. bias                   nats added to single tokens
2. bans                   tokens that are never drawn
3. repetition penalty     for tokens of the text, prompt included
4. presence, frequency    for tokens that were drawn
5. no repeated n-grams    passages that never come a second time
6. n-gram penalty         for going on with a repetition
7. temperature
8. min-p
9. top-k
10. top-p
11. draw                  by seed and number of the new token; at temperature 0 or greedy, the likeliest after step 6

The same logits, text and seed give the same token, whatever else is drawn beside it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minigpt.config import SampleConfig
from minigpt.inference.filters import (
    add_bias,
    ban,
    keep_min_p,
    log_probabilities,
    no_repeat,
    penalise_passages,
    penalise_presence,
    penalise_repetition,
)
from minigpt.sampling import choose, draw_at

LARGEST_BIAS = 1e6  # nats: more than between any two logits, and far from where float32 overflows

# (V,) logits, the text, the length of its prompt -> (V,) logits
Filter = Callable[[np.ndarray, Sequence[int], int], np.ndarray]


@dataclass(frozen=True)
class Picked:
    """A token and what the model thought of it.

    Attributes:
        token: its id.
        log_probability: by the model itself, before all filters and at temperature 1, in nats; nan if not asked for.
        top: the likeliest tokens with theirs, as many as were asked for; of equals, the smaller id first.
    """

    token: int
    log_probability: float = math.nan
    top: tuple[tuple[int, float], ...] = ()


class Picker:
    """Turns logits into tokens for one request."""

    def __init__(
        self,
        settings: SampleConfig,
        *,
        seed: int | None = None,
        known: int,
        bias: Mapping[int, float] = {},
        banned: Iterable[int] = (),
        top: int = 0,
        wants_probability: bool = False,
    ):
        """Choose the steps that the settings ask for.

        Args:
            settings: temperature, filters and penalties.
            seed: None: that of the settings.
            known: only ids below it are drawn; logits beyond are padding.
            bias: nats for single tokens.
            banned: tokens that are never drawn.
            top: how many of the likeliest tokens `Picked.top` names.
            wants_probability: whether `Picked.log_probability` is worked out, as it is with `top`; it costs a pass over
                the logits.

        Raises:
            ValueError: a bias or a ban names an unknown id, a bias is not within ±`LARGEST_BIAS`, or all is banned.
        """
        self.seed = settings.seed if seed is None else seed
        self.known, self.top = known, top
        self.wants_probability = wants_probability or top > 0
        self.temperature = 0.0 if settings.greedy else settings.temperature
        self.top_k, self.top_p = settings.top_k, settings.top_p
        bias, banned = dict(bias), np.array(sorted(set(banned)), dtype=np.int64)
        for token in (*bias, *banned[[0, -1]].tolist()) if len(banned) else bias:
            if not 0 <= token < known:
                raise ValueError(f"token {token} is not known; ids go from 0 to {known - 1}")
        for token, nats in bias.items():
            if not abs(nats) <= LARGEST_BIAS:
                raise ValueError(
                    f"the bias of token {token} is {nats}; wanted at most {LARGEST_BIAS:g} nats up or down"
                )
        if len(banned) == known:
            raise ValueError(f"all {known} tokens are banned; leave at least one")
        self.filters = list(_filters(settings, self.temperature, bias, banned))

    def pick(self, logits: np.ndarray, text: Sequence[int], prompt_length: int) -> Picked:
        """Return the token that goes on from a text.

        Args:
            logits: (V,) float32, which stay as they are.
            text: the ids of the prompt, then those drawn so far.
            prompt_length: ids of the prompt.

        Raises:
            UserError: the logits are not finite numbers.
            ValueError: all that the model holds possible is banned.
        """
        own = left = logits[: self.known]
        for apply in self.filters:
            left = apply(left, text, prompt_length)
        draw = draw_at(self.seed, len(text) - prompt_length) if self.temperature else 0.0
        token = choose(left, self.temperature, self.top_k, self.top_p, draw)
        if not self.wants_probability:
            return Picked(token)
        return thought_of(own, token, self.top)


def thought_of(logits: np.ndarray, token: int, top: int) -> Picked:
    """Return a token with its log-probability by the logits, (V,), and so many of the likeliest with theirs."""
    nats = log_probabilities(logits)
    best = tuple((i, float(nats[i])) for i in _likeliest(logits, top))
    return Picked(token, float(nats[token]), best)


def _filters(
    settings: SampleConfig, temperature: float, bias: Mapping[int, float], banned: np.ndarray
) -> Iterable[Filter]:
    """Yield the filters that are on, in their order."""
    if bias:
        yield lambda logits, text, begin: add_bias(logits, bias)
    if len(banned):
        yield lambda logits, text, begin: ban(logits, banned)
    if (repetition := settings.repetition_penalty) != 1:
        yield lambda logits, text, begin: penalise_repetition(logits, text, repetition)
    presence, frequency = settings.presence_penalty, settings.frequency_penalty
    if presence or frequency:
        yield lambda logits, text, begin: penalise_presence(
            logits, text[begin:], presence, frequency
        )
    if size := settings.no_repeat_ngram:
        yield lambda logits, text, begin: no_repeat(logits, text, size)
    if penalty := settings.ngram_penalty:
        yield lambda logits, text, begin: penalise_passages(logits, text, penalty)
    if temperature and (p := settings.min_p):
        yield lambda logits, text, begin: keep_min_p(logits, p, temperature)


def _likeliest(logits: np.ndarray, count: int) -> list[int]:
    """Return the ids of the largest logits, the largest first; of equals, the smaller ids."""
    if not count:
        return []
    count = min(count, len(logits))
    ids = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    return ids[np.argsort(-logits[ids], kind="stable")][:count].tolist()
