"""What any model must beat: guessing from counts, or from the last token. From the tokens that it was trained on.

Add-one smoothing (Laplace): with V ids, a token seen c times among n has probability (c + 1) / (n + V). The trigram
backs off (`trigram.py`), the MLP is trained (`mlp_bigram.py`).
"""

import numpy as np

from minigpt.data.shards import TokenSequence
from minigpt.evaluate import mlp_bigram, trigram
from minigpt.evaluate.likelihood import Scale
from minigpt.tokenizer import Tokenizer

MOST_COUNTED = (
    1 << 24
)  # tokens at the beginning of each part: seconds, and up to a gigabyte of memory


def baselines(
    train: TokenSequence, val: TokenSequence, tokenizer: Tokenizer
) -> dict[str, dict[str, float]]:
    """Return {name: {"loss", "bits_per_byte", "bits_per_char"}} on held-out tokens.

    uniform knows nothing, unigram how common each token is, bigram which token follows the last one, trigram which
    the last two; mlp is a network that sees the last one: with more than 768 ids it would take more than seconds, and
    is left out. Of a large text the first 17 million tokens of each part are taken, whoever asks: a run for its
    report, `eval`, the demo.

    Args:
        train: to count.
        val: to foretell; all but the first are.
        tokenizer: of both.
    """
    counted, foretold = train[:MOST_COUNTED], val[:MOST_COUNTED]
    size = tokenizer.vocab_size
    losses = {
        "uniform": np.log(size),
        "unigram": unigram_loss(counted, foretold, size),
        "bigram": bigram_loss(counted, foretold, size),
    }
    if size <= mlp_bigram.LARGEST_VOCABULARY:
        losses["mlp"] = mlp_bigram.mlp_bigram_loss(counted, foretold, size)
    if size <= trigram.LARGEST_VOCABULARY:
        losses["trigram"] = trigram.Trigrams(counted, size).loss(foretold)
    scale, targets = Scale(tokenizer, foretold[1:]), len(foretold) - 1
    return {
        name: {
            "loss": float(loss),
            "bits_per_byte": scale.bits_per_byte(float(loss) * targets),
            "bits_per_char": scale.bits_per_char(float(loss) * targets),
        }
        for name, loss in losses.items()
    }


def unigram_loss(train: np.ndarray, val: np.ndarray, vocab_size: int) -> float:
    """Return nats per token of `val` without its first, from the counts of single tokens."""
    counts = np.bincount(train, minlength=vocab_size)
    return float(-np.log((counts[val[1:]] + 1) / (len(train) + vocab_size)).mean())


def bigram_loss(train: np.ndarray, val: np.ndarray, vocab_size: int) -> float:
    """Return nats per token of `val` without its first, from the counts of pairs of neighbours."""
    known, times_known = np.unique(_pair_codes(train, vocab_size), return_counts=True)
    # Each pair is looked up once, in order: eight times faster than one by one.
    pairs, times = np.unique(_pair_codes(val, vocab_size), return_counts=True)
    found = np.searchsorted(known, pairs).clip(max=len(known) - 1)
    counts = np.where(known[found] == pairs, times_known[found], 0)
    before = np.bincount(train[:-1], minlength=vocab_size)[pairs // vocab_size]
    losses = -np.log((counts + 1) / (before + vocab_size))
    return float(losses @ times / times.sum())


def _pair_codes(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return one number for each pair of neighbours, (tokens - 1,) int64."""
    tokens = tokens.astype(np.int64)
    return tokens[:-1] * vocab_size + tokens[1:]
