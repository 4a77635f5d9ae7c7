"""Counts of three tokens in a row in; how well they foretell the next token out, backing off to fewer where they fail.

Interpolated Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7). From every count of a
history h a discount D is taken, and what that frees goes to the history that is one token shorter:

    p(w | h) = max(c(h w) - D, 0) / c(h)  +  D · N(h) / c(h) · p(w | shorter h)

where c(h) is the sum of c(h w) over w and N(h) the number of different w. For the whole history c counts occurrences;
for a shorter one, different tokens in front of it: "Francisco" is common but follows "San" alone, so it is unlikely
elsewhere. Below the single tokens are all ids, alike. A history that was never seen says nothing, and the shorter one
is taken as it is. Each p sums to one.
"""

from dataclasses import dataclass

import numpy as np

# Of 1 a singleton would count for nothing, of 0 nothing would be left for what was not seen.
LEAST_DISCOUNT, MOST_DISCOUNT = 0.05, 0.95
LARGEST_VOCABULARY = (1 << 21) - 1  # three ids in 63 bits


@dataclass(frozen=True)
class Level:
    """The counts of one length of history.

    Attributes:
        grams: history and token as one number each, rising, (grams,).
        counts: of each.
        discount: what is taken from each count.
        histories: as one number each, rising, (histories,).
        totals: the counts of each history together.
        kinds: different tokens after each.
    """

    grams: np.ndarray
    counts: np.ndarray
    discount: float
    histories: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray

    def refined(self, grams: np.ndarray, vocab_size: int, shorter: np.ndarray) -> np.ndarray:
        """Return the chances of `grams`, rising, given those of the same tokens after the shorter history."""
        counts = _looked_up(self.grams, self.counts, grams)
        histories = grams // vocab_size
        totals = _looked_up(self.histories, self.totals, histories)
        kept = np.maximum(counts - self.discount, 0)
        freed = self.discount * _looked_up(self.histories, self.kinds, histories)
        return np.where(totals > 0, (kept + freed * shorter) / np.maximum(totals, 1), shorter)


class Trigrams:
    """The counts of a text, as chances of a token after two others, or after one."""

    def __init__(self, tokens: np.ndarray, vocab_size: int) -> None:
        """Count `tokens`, (tokens,), of fewer than 2 million ids."""
        self.vocab_size = vocab_size
        grams, counts = np.unique(_triples(tokens, vocab_size), return_counts=True)
        self._after_two = _level(grams, counts, vocab_size)
        pairs, befores = np.unique(grams % vocab_size**2, return_counts=True)
        self._after_one = _level(pairs, befores, vocab_size)
        ids, befores = np.unique(pairs % vocab_size, return_counts=True)
        uniform = np.full(vocab_size, 1 / vocab_size)
        after_none = _level(ids, befores, vocab_size)
        self._alone = after_none.refined(np.arange(vocab_size), vocab_size, uniform)

    def after_one(self, pairs: np.ndarray) -> np.ndarray:
        """Return the chance of the second token of each pair; `pairs`: first · V + second, rising, (pairs,)."""
        shorter = self._alone[pairs % self.vocab_size]
        return self._after_one.refined(pairs, self.vocab_size, shorter)

    def after_two(self, grams: np.ndarray) -> np.ndarray:
        """Return the chance of the third token of each three; `grams`: (first · V + second) · V + third, rising."""
        pairs, place = np.unique(grams % self.vocab_size**2, return_inverse=True)
        return self._after_two.refined(grams, self.vocab_size, self.after_one(pairs)[place])

    def loss(self, tokens: np.ndarray) -> float:
        """Return nats per token of two or more without the first; the second is foretold from the first alone."""
        first, second = tokens[:2].tolist()
        nats = -np.log(self.after_one(np.array([first * self.vocab_size + second]))[0])
        # Each three are looked up once, in order: many times faster than one by one.
        grams, times = np.unique(_triples(tokens, self.vocab_size), return_counts=True)
        nats -= np.log(self.after_two(grams)) @ times
        return float(nats / (len(tokens) - 1))


def _level(grams: np.ndarray, counts: np.ndarray, vocab_size: int) -> Level:
    histories = grams // vocab_size  # rising, as the grams do
    starts = np.flatnonzero(np.diff(histories, prepend=-1))
    totals = np.add.reduceat(counts, starts) if len(starts) else counts
    kinds = np.diff(starts, append=len(grams))
    # Ney, Essen and Kneser (1994): the discount that leaves out one occurrence at a time.
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / max(1, once + 2 * twice)
    discount = min(max(float(discount), LEAST_DISCOUNT), MOST_DISCOUNT)
    return Level(grams, counts, discount, histories[starts], totals, kinds)


def _looked_up(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the value of each wanted number, 0 where it is not known; both rise."""
    if not len(known):
        return np.zeros(len(wanted), np.int64)
    found = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[found] == wanted, values[found], 0)


def _triples(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return one number for each three tokens in a row, (tokens - 2,) int64."""
    codes = tokens[:-2].astype(np.int64)
    for later in (tokens[1:-1], tokens[2:]):
        codes *= vocab_size
        codes += later
    return codes
