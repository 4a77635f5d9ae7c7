"""Text in, token ids out, and back: byte-level BPE by the plain scan.

Training counts every pair of neighbours, joins the commonest everywhere, and counts again. Encoding joins the pair that
was learnt first, until none is left. Slow and clear; `trainer.py` learns the same merges fast and `fast.py` encodes the
same ids fast, and tests hold them to this file.

Sennrich et al. (2016), section 3.2, on bytes as in Radford et al. (2019), section 2.2.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import regex

from minigpt.tokenizer.patterns import PATTERNS

Pair = tuple[int, int]


def count_words(texts: Iterable[str], pattern: str = "gpt2") -> Counter[bytes]:
    """Return how often each word of the texts occurs, as UTF-8."""
    split = regex.compile(PATTERNS[pattern])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split.findall(text))
    return Counter({word.encode(): count for word, count in counts.items()})


def train_merges(words: Mapping[bytes, int], count: int) -> list[Pair]:
    """Return up to `count` merges in the order in which they are learnt; merge i makes token 256 + i.

    The commonest pair wins; of equals, the one with the smaller ids. A pair seen once is not merged.

    >>> train_merges({b"hug": 10, b"pug": 5, b"hugs": 5}, 2)  # u+g: 20 times, then h+ug: 15 times
    [(117, 103), (104, 256)]
    """
    sequences = {word: list(word) for word in words}
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, ids in sequences.items():
            for pair in pairwise(ids):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        sequences = {word: join(ids, best, 256 + len(merges)) for word, ids in sequences.items()}
        merges.append(best)
    return merges


def join(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Return `ids` with each occurrence of `pair`, from the left, replaced by `new_id`.

    >>> join([1, 1, 1, 2], (1, 1), 9)
    [9, 1, 2]
    """
    joined: list[int] = []
    i = 0
    while i < len(ids):
        found = i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair
        joined.append(new_id if found else ids[i])
        i += 2 if found else 1
    return joined


class BPE:
    """Merges and special tokens as an encoder and decoder.

    Ids 0 to 255 are the bytes, then come the merges in their order, then the special tokens.
    """

    def __init__(
        self, merges: Sequence[Pair], specials: Sequence[str] = (), pattern: str = "gpt2"
    ) -> None:
        self.split = regex.compile(PATTERNS[pattern])
        self.merged = {pair: 256 + rank for rank, pair in enumerate(merges)}
        self.pieces = [bytes([byte]) for byte in range(256)]
        for left, right in merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.specials = {name: len(self.pieces) + i for i, name in enumerate(specials)}
        self.pieces += [name.encode() for name in specials]
        self.encode_word = lru_cache(maxsize=1 << 16)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; the name of a special token in it is text like any other."""
        return [i for word in self.split.findall(text) for i in self.encode_word(word.encode())]

    def encode_with_specials(self, text: str) -> list[int]:
        """Return the ids of `text`, with the names of special tokens read as those tokens."""
        names = "|".join(regex.escape(name) for name in self.specials)
        parts = regex.split(f"({names})", text) if names else [text]
        ids = ([self.specials[p]] if p in self.specials else self.encode(p) for p in parts)
        return [i for part in ids for i in part]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def _encode_word(self, word: bytes) -> tuple[int, ...]:
        ids = list(word)
        while len(ids) > 1:
            first = min(pairwise(ids), key=lambda pair: self.merged.get(pair, len(self.pieces)))
            if first not in self.merged:
                break
            ids = join(ids, first, self.merged[first])
        return tuple(ids)
