"""Logits in, other logits out: some tokens less likely, likelier or impossible, by what the text holds so far.

Pure functions on the logits of one text, (V,) in nats; what is excluded is at minus infinity. Token ids lie below V. A
filter that goes by the text never excludes the last token that is possible: where it would, it is left out. Only a ban
can ask for nothing at all, and is refused.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

LONGEST_PASSAGE = 32  # tokens of a repeated passage that count for its penalty


def add_bias(logits: np.ndarray, bias: Mapping[int, float]) -> np.ndarray:
    """Return the logits with so many nats added for each token of `bias`."""
    biased = logits.copy()
    biased[list(bias.keys())] += np.array(list(bias.values()), dtype=logits.dtype)
    return biased


def ban(logits: np.ndarray, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the logits with `tokens` made impossible.

    Raises:
        ValueError: no token that was possible is left.
    """
    left = logits.copy()
    left[np.asarray(tokens, dtype=np.int64)] = -np.inf
    if left.max() == -np.inf < logits.max():
        raise ValueError("every token is banned; leave at least one that can be drawn")
    return left


def penalise_repetition(logits: np.ndarray, text: Sequence[int], penalty: float) -> np.ndarray:
    """Return the logits with those of the tokens in `text` divided by the penalty, or multiplied where negative.

    Keskar et al. (2019), "CTRL", section 4.1, which divides; a negative logit is multiplied, so that it gets less
    likely too. A token counts once, however often it is there; 1 changes nothing.
    """
    ids = np.asarray(text, dtype=np.int64)
    found, penalised = logits[ids], logits.copy()
    with np.errstate(over="ignore"):  # the lowest float32 stands for minus infinity here and there
        penalised[ids] = np.where(found < 0, found * penalty, found / penalty)
    return penalised


def penalise_presence(
    logits: np.ndarray, drawn: Sequence[int], presence: float, frequency: float
) -> np.ndarray:
    """Return the logits less `presence` for each token in `drawn`, and `frequency` for each time it is there.

    Args:
        logits: (V,).
        drawn: the new tokens only; the prompt does not count.
        presence: nats.
        frequency: nats.
    """
    ids, counts = np.unique(np.asarray(drawn, dtype=np.int64), return_counts=True)
    penalised = logits.copy()
    penalised[ids] -= (presence + frequency * counts).astype(logits.dtype)
    return penalised


def followers(text: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield, for n = 1, 2, …, the tokens that earlier followed the last n tokens of the text; end where none did.

    >>> [tokens.tolist() for tokens in followers([1, 2, 3, 9, 2, 3, 7, 1, 2, 3])]
    [[9, 7], [9, 7], [9]]
    """
    ids = np.asarray(text, dtype=np.int64)
    ends = np.flatnonzero(ids[:-1] == ids[-1:])  # where an earlier passage like the last one ends
    for n in range(1, len(ids)):
        if not len(ends):
            return
        yield ids[ends + 1]
        ends = ends[ends >= n]
        ends = ends[ids[ends - n] == ids[-1 - n]]


def no_repeat(logits: np.ndarray, text: Sequence[int], size: int) -> np.ndarray:
    """Return the logits without the tokens that would complete a passage of `size` tokens that is in the text already.

    Paulus et al. (2017), section 2.5. Where that leaves no token, nothing is excluded.

    Args:
        logits: (V,).
        text: what is to be gone on from, prompt and new tokens.
        size: 1 excludes every token of the text.
    """
    tokens = text if size == 1 else next(islice(followers(text), size - 2, None), ())
    left = logits.copy()
    left[np.asarray(tokens, dtype=np.int64)] = -np.inf
    return logits if left.max() == -np.inf else left


def penalise_passages(logits: np.ndarray, text: Sequence[int], penalty: float) -> np.ndarray:
    """Return the logits less `penalty` nats, for the tokens that would go on with a repetition, for each of its tokens.

    A token goes on with a repetition of n tokens where it followed earlier on the last n tokens of the text; the
    longest counts, up to `LONGEST_PASSAGE`.
    """
    penalised = logits.copy()
    for n, tokens in enumerate(islice(followers(text), LONGEST_PASSAGE), 1):
        penalised[tokens] = logits[tokens] - penalty * n
    return penalised


def keep_min_p(logits: np.ndarray, p: float, temperature: float) -> np.ndarray:
    """Return the logits of only the tokens that are at least p times as likely as the likeliest, at this temperature.

    Nguyen et al. (2024). The likeliest always stays; with p = 0 or temperature 0 all stay.
    """
    if not p or not temperature:
        return logits
    least = np.float64(logits.max()) + temperature * math.log(p)
    return np.where(logits >= least, logits, logits.dtype.type(-np.inf))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the float64 logarithms of the probabilities, (V,) in nats: log-softmax."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - math.log(np.exp(shifted).sum())
