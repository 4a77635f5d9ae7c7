"""The likelihoods of two models on one text in; the difference out, with its standard error, paired where it can be."""

import math
from typing import Any

import numpy as np

from minigpt.evaluate.clusters import Sums, difference_error
from minigpt.evaluate.likelihood import SLICE_BYTES, Likelihood


def difference(first: Likelihood, other: Likelihood) -> dict[str, Any]:
    """Return how much worse `other` foretells the same text: differences, standard errors, and how they are paired.

    - The same tokens in the same windows: `paired_by` is "windows", and the loss is compared as well.
    - Other tokens or windows: "bytes". Both are cut into the same stretches of the text, of as many bytes as a window
      has of that model whose windows have more; a token falls to where its bytes begin.
    - Tokenizers that do not give the bytes of the text back (SentencePiece's may add spaces): None, and the standard
      error is that of two independent samples, which is too large.

    `pairs` is the number of stretches. A standard error is None where there are fewer than two.
    """
    found = {"bits_per_byte": other.bits_per_byte - first.bits_per_byte}
    if _are_equal(first.windows, other.windows):
        loss = {
            "loss": other.loss - first.loss,
            "loss_stderr": difference_error(
                (first.windows.nats, first.windows.tokens),
                (other.windows.nats, other.windows.tokens),
            ),
        }
        return loss | found | _paired("windows", first.windows, other.windows)
    if first.text_bytes == other.text_bytes:
        size = max(_bytes_of_a_window(one.windows) for one in (first, other))
        count = max(len(one.slices.nats) for one in (first, other))
        cut = [
            one.slices.filled(count).joined(math.ceil(size / SLICE_BYTES)) for one in (first, other)
        ]
        return found | _paired("bytes", *cut)
    errors = (first.bits_per_byte_stderr, other.bits_per_byte_stderr)
    apart = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    return found | {"bits_per_byte_stderr": apart, "paired_by": None, "pairs": 0}


def _are_equal(first: Sums, other: Sums) -> bool:
    """Return whether the stretches of two models are the same tokens."""
    return np.array_equal(first.tokens, other.tokens) and np.array_equal(first.bytes, other.bytes)


def _bytes_of_a_window(windows: Sums) -> float:
    return float(windows.bytes.sum() / max(1, (windows.tokens > 0).sum()))


def _paired(by: str, first: Sums, other: Sums) -> dict[str, Any]:
    bits = [(one.nats / math.log(2), one.bytes) for one in (first, other)]
    return {
        "bits_per_byte_stderr": difference_error(*bits),
        "paired_by": by,
        "pairs": int(((first.tokens > 0) | (other.tokens > 0)).sum()),
    }
