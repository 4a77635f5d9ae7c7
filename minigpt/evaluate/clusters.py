"""Nats, tokens and bytes of stretches of a text in; standard errors of their ratios and of differences out.

Tokens beside each other are not independent, so the text is cut into stretches, and those are taken for a sample of
what could have been written. With a_k nats in stretch k over b_k tokens (or bytes), A = Σ a_k, B = Σ b_k and K
stretches, the ratio A / B has the standard error

    sqrt(K / (K - 1) · Σ r_k²),   r_k = (a_k - (A / B) · b_k) / B

(Cochran, Sampling Techniques, 1977, chapter 6: a ratio estimator; Miller, Adding Error Bars to Evals,
arXiv:2411.00640: clusters). For two models on the same stretches the r_k are subtracted first: what is hard for both
cancels (paired). Stretches of one document resemble each other, too, so on few documents the true error is larger.
"""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sums:
    """What each of some stretches of a text comes to; all zero where nothing of it was foretold.

    Attributes:
        nats, tokens, bytes: (stretches,) fp64.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray

    def joined(self, count: int) -> "Sums":
        """Return the sums of each `count` stretches; the last one may have fewer."""
        starts = np.arange(0, len(self.nats), count)
        return Sums(*(np.add.reduceat(x, starts) for x in (self.nats, self.tokens, self.bytes)))

    def filled(self, count: int) -> "Sums":
        """Return the same with empty stretches behind, `count` in all."""
        more = count - len(self.nats)
        return Sums(*(np.pad(x, (0, more)) for x in (self.nats, self.tokens, self.bytes)))


@dataclass
class Tally:
    """Adds up what tokens come to, by the stretch that each is in."""

    _parts: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def add(self, stretches: np.ndarray, nats: np.ndarray, sizes: np.ndarray) -> None:
        """Count tokens: the number of the stretch, the nats and the bytes of each, (tokens,)."""
        first = int(stretches.min())
        sums = [np.bincount(stretches - first, x) for x in (nats, np.ones(len(nats)), sizes)]
        self._parts.append((first, np.stack(sums)))

    def sums(self) -> np.ndarray:
        """Return the nats, tokens and bytes of every stretch, (3, stretches)."""
        found = np.zeros((3, max(first + part.shape[1] for first, part in self._parts)))
        for first, part in self._parts:
            found[:, first : first + part.shape[1]] += part
        return found


def standard_error(above: np.ndarray, below: np.ndarray) -> float | None:
    """Return the standard error of sum(above) / sum(below), (stretches,) each; None: fewer than two stretches."""
    return _spread(_residuals(above, below), below > 0)


def difference_error(
    first: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> float | None:
    """Return the standard error of the difference of two ratios, (above, below) each, paired stretch by stretch."""
    used = (first[1] > 0) | (other[1] > 0)
    return _spread(_residuals(*other) - _residuals(*first), used)


def _residuals(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    total = max(1.0, below.sum())
    return (above - above.sum() / total * below) / total


def _spread(residuals: np.ndarray, used: np.ndarray) -> float | None:
    count = int(used.sum())
    return math.sqrt(count / (count - 1) * float(residuals @ residuals)) if count > 1 else None
