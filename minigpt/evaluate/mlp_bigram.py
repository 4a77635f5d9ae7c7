"""Counts of pairs in; how well a network of two layers, trained on them in seconds, foretells the next token out.

The neural language model of Bengio et al. (2003) in its smallest form: the embedding of the last token, a hidden layer,
a logit for each id. As it sees one token it has but V different inputs, so a step takes the whole text at once: the
V x V table of what follows what, weighted by how often.
"""

import contextlib
from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

LARGEST_VOCABULARY = (
    768  # ids; the time of a step grows with their square, here to a second or two in all
)
EMBEDDING, HIDDEN = 32, 64
STEPS = 200
RATE = 0.03  # the best of 0.01, 0.03 and 0.06 on the text of the demo; falls to nothing


def mlp_bigram_loss(train: np.ndarray, val: np.ndarray, vocab_size: int) -> float:
    """Return nats per token of `val` without its first, by a network trained on `train`; always the same.

    Args:
        train: (tokens,).
        val: (tokens,), two or more.
        vocab_size: V; the time grows with its square.
    """
    weights = _first_weights(vocab_size)
    shares, val_shares = _shares(train, vocab_size), _shares(val, vocab_size)
    optimizer = torch.optim.Adam(weights, lr=RATE)
    with torch.enable_grad(), _one_thread():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            optimizer.zero_grad()
            (-(shares * _log_chances(weights)).sum()).backward()
            optimizer.step()
        return -(val_shares * _log_chances(weights)).sum().item()


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Have one thread compute: in seconds, the same on any number of cores, and none waits for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _first_weights(vocab_size: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int, size: float) -> Tensor:
        return (size * torch.randn(shape, generator=random)).requires_grad_()

    return [
        drawn(vocab_size, EMBEDDING, size=1.0),
        drawn(EMBEDDING, HIDDEN, size=EMBEDDING**-0.5),
        drawn(HIDDEN, size=0.0),
        drawn(HIDDEN, vocab_size, size=0.1 * HIDDEN**-0.5),
        drawn(vocab_size, size=0.0),
    ]


def _log_chances(weights: list[Tensor]) -> Tensor:
    """Return the logarithm of the chance of each token after each, (V, V)."""
    embedding, up, up_bias, out, out_bias = weights
    hidden = (embedding @ up + up_bias).tanh()  # (V, HIDDEN)
    return (hidden @ out + out_bias).log_softmax(dim=1)


def _shares(tokens: np.ndarray, vocab_size: int) -> Tensor:
    """Return the share of each pair among all pairs of neighbours, (V, V)."""
    codes = tokens[:-1].astype(np.int64) * vocab_size + tokens[1:]
    counts = np.bincount(codes, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    return torch.from_numpy(counts / max(1, len(codes))).float()
