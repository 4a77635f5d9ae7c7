"""Words and how often they occur in, merges out; with them text becomes ids and ids become text."""

from collections import Counter
from itertools import pairwise

Pair = tuple[int, int]


def count_pairs(words: dict[tuple[int, ...], int]) -> Counter[Pair]:
    """Return how often each pair of neighbours occurs, where each word occurs so often."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def join(ids: tuple[int, ...], pair: Pair, new_id: int) -> tuple[int, ...]:
    """Return ids in which each occurrence of a pair, from the left, is one new id."""
    joined = []
    i = 0
    while i < len(ids):
        found = ids[i : i + 2] == pair
        joined.append(new_id if found else ids[i])
        i += 2 if found else 1
    return tuple(joined)


def train_merges(words: dict[tuple[int, ...], int], count: int) -> list[Pair]:
    """Return up to `count` merges in the order in which they are learnt; merge i makes id 256 + i."""
    merges: list[Pair] = []
    while len(merges) < count:
        pairs = count_pairs(words)
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        words = {join(word, best, 256 + len(merges)): often for word, often in words.items()}
        merges.append(best)
    return merges


def encode(word: str, merges: list[Pair]) -> list[int]:
    """Return the ids of a word."""
    ids = tuple(word.encode())
    rank = {pair: i for i, pair in enumerate(merges)}
    while pairs := [pair for pair in pairwise(ids) if pair in rank]:
        first = min(pairs, key=lambda pair: rank[pair])
        ids = join(ids, first, 256 + rank[first])
    return list(ids)


def decode(ids: list[int], merges: list[Pair]) -> str:
    """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    return b"".join(pieces[i] for i in ids).decode(errors="replace")
