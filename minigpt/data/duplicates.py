"""Token shards in; which documents to train on are also held out, word for word or nearly, out.

A document's fingerprint is a polynomial of its tokens modulo 2^64 (Karp and Rabin, 1987); each token id stands in it as
a fixed random number. Every sequence of `LENGTH` tokens has one too. Of these only one in eight is kept, chosen by the
fingerprint itself, so that both parts keep the same ones (Schleimer et al., 2003, section 2). A document of more than a
million tokens, and one that runs over two shards, is looked at in parts.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

LENGTH = {"bpe": 32, "char": 128}  # tokens: a sentence or two that nobody writes twice by chance
KEPT_BITS = 3  # of the sequences, one in 2^3 is looked at
# Sequences of the held-out part: 4 MB, which the processor keeps at hand; of a larger part a smaller share is kept.
MOST_KEPT = 1 << 19
NEAR = 0.5  # share of its sequences that makes a document nearly the same
FEWEST = 3  # sequences found before that is said
PORTION = 1 << 16  # tokens looked at together: half a megabyte for each array
STRETCH = 1 << 20  # tokens that a thread looks at
LONGEST = 1 << 20  # tokens of a document that is looked at as one
BASE = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(int(BASE), -1, 1 << 64))


@dataclass(frozen=True)
class TokenFile:
    """A shard that is read as it is needed: what is only mapped counts as memory, too."""

    path: Path
    tokens: int
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens, (stop - start,)."""
        offset = start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, stop - start, offset=offset)


@dataclass(frozen=True)
class HeldOut:
    """What is remembered of the held-out part, sorted.

    Attributes:
        documents: fingerprints of the whole documents.
        sequences: fingerprints of sequences of `length` tokens.
        bits: one in 2^bits of them is here.
        numbers: the random number of each id.
    """

    documents: np.ndarray
    sequences: np.ndarray
    length: int
    bits: int
    separator: int | None
    numbers: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a shard to train on shares with the held-out part.

    Attributes:
        exact, near: begin and end of the documents, (n, 2); the separator before each is part of it.
        seen: which held-out sequences occur, as places in `HeldOut.sequences`.
    """

    exact: np.ndarray
    near: np.ndarray
    seen: np.ndarray


def remember(
    files: Sequence[TokenFile], kind: str, vocab_size: int, separator: int | None
) -> HeldOut:
    """Return what to look for: the documents and sequences of the held-out shards.

    Args:
        files: the shards.
        kind: of tokenizer, "bpe" or "char".
        vocab_size: of the tokenizer.
        separator: the id between documents; None: there are no documents to tell apart.
    """
    length, bits = LENGTH[kind], KEPT_BITS
    while sum(file.tokens for file in files) >> bits > MOST_KEPT:
        bits += 1
    numbers = mixed(np.arange(vocab_size, dtype=np.uint64))
    documents, sequences = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for file in files:
        for _, tokens in _portions(file, 0, file.tokens, separator):
            part = _Portion(tokens, numbers, separator)
            documents.append(part.fingerprints()[part.ends > part.begins])
            sequences.append(part.kept_sequences(length, bits)[1])
    return HeldOut(
        np.unique(np.concatenate(documents)),
        np.unique(np.concatenate(sequences)),
        length,
        bits,
        separator,
        numbers,
    )


def find(file: TokenFile, held_out: HeldOut, start: int = 0, stop: int | None = None) -> Found:
    """Return what a shard to train on shares with the held-out part; `start`, `stop`: a stretch of it, in tokens."""
    exact, near = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    seen = [np.empty(0, np.int64)]
    stop = file.tokens if stop is None else stop
    for begin, tokens in _portions(file, start, stop, held_out.separator):
        part = _Portion(tokens, held_out.numbers, held_out.separator)
        is_exact = _in(part.fingerprints(), held_out.documents) & (part.ends > part.begins)
        places, kept = part.kept_sequences(held_out.length, held_out.bits)
        common = _in(kept, held_out.sequences)
        # The sequences of each document, counted by where they begin; one that reaches into the next document holds
        # a separator and is found in the held-out part only where the same two stand together.
        looked_at = _count_between(places, part.begins, part.ends)
        shared = _count_between(places[common], part.begins, part.ends)
        is_near = ~is_exact & (shared >= FEWEST) & (shared >= NEAR * looked_at)
        spans = np.stack([part.begins - (part.begins > 0), part.ends], axis=1) + begin
        exact.append(spans[is_exact])
        near.append(spans[is_near])
        seen.append(np.searchsorted(held_out.sequences, kept[common]))
    return Found(np.concatenate(exact), np.concatenate(near), np.unique(np.concatenate(seen)))


def find_all(
    files: Sequence[TokenFile], held_out: HeldOut, workers: int, report: Callable[[float], None]
) -> list[Found]:
    """Return what each shard shares with the held-out part, on several cores."""
    found = [
        Found(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), np.empty(0, np.int64))
        for _ in files
    ]
    stretches = [
        (i, a, b) for i, file in enumerate(files) for a, b in _stretches(file, held_out.separator)
    ]
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(lambda s: find(files[s[0]], held_out, *s[1:]), stretches)
        for (i, start, stop), part in zip(stretches, parts, strict=True):
            found[i] = Found(
                np.concatenate([found[i].exact, part.exact]),
                np.concatenate([found[i].near, part.near]),
                np.union1d(found[i].seen, part.seen),
            )
            done += stop - start
            report(done)
    return found


def without(tokens: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return the tokens without these spans, (n, 2)."""
    keep = np.ones(len(tokens), bool)
    for begin, end in spans:
        keep[begin:end] = False
    return tokens[keep]


def _stretches(file: TokenFile, separator: int | None) -> list[tuple[int, int]]:
    """Return begin and end of what is looked at by one thread after another; where a document ends, they end."""
    places = [0]
    while places[-1] < file.tokens:
        stop = min(places[-1] + STRETCH, file.tokens)
        places.append(_end_of_document(file, places[-1], stop, separator))
    return list(pairwise(places))


def _portions(
    file: TokenFile, start: int, stop: int, separator: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield portions that fit into the processor's cache, each with its place; where a document ends, they end."""
    while start < stop:
        end = min(start + PORTION, stop)
        if end < stop:
            end = _end_of_document(file, start, end, separator)
        yield start, file.read(start, end)
        start = end


def _end_of_document(file: TokenFile, start: int, stop: int, separator: int | None) -> int:
    """Return the last end of a document before `stop`, or else the first after it; of a very long one, some place."""
    if separator is None or stop == file.tokens:
        return stop
    for begin in range(max(start, stop - PORTION), start - 1, -PORTION):
        marks = np.flatnonzero(file.read(begin, min(begin + PORTION, stop)) == separator)
        if len(marks) and begin + marks[-1] > start:
            return begin + int(marks[-1])
    last = min(start + LONGEST, file.tokens)
    for begin in range(stop, last, PORTION):
        marks = np.flatnonzero(file.read(begin, min(begin + PORTION, last)) == separator)
        if len(marks):
            return begin + int(marks[0])
    return max(stop, last)


class _Portion:
    """Some documents as numbers whose sums give the fingerprint of any span."""

    def __init__(self, tokens: np.ndarray, numbers: np.ndarray, separator: int | None) -> None:
        self.sums = np.zeros(len(tokens) + 1, np.uint64)
        np.cumsum(numbers[tokens] * powers(BASE)[: len(tokens)], out=self.sums[1:])
        marks = np.empty(0, np.int64)
        if separator is not None:
            marks = np.flatnonzero(tokens == separator)
        self.begins = np.concatenate([[0], marks + 1])
        self.ends = np.concatenate([marks, [len(tokens)]])

    def fingerprints(self) -> np.ndarray:
        """Return the fingerprint of each document: the same wherever it stands."""
        spans = self.sums[self.ends] - self.sums[self.begins]
        return spans * powers(INVERSE)[self.begins] + mixed(
            (self.ends - self.begins).astype(np.uint64)
        )

    def kept_sequences(self, length: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where the sequences that are looked at begin, and their fingerprints."""
        count = max(0, len(self.sums) - length)
        prints = (self.sums[length:] - self.sums[:count]) * powers(INVERSE)[:count]
        places = np.flatnonzero(prints >> np.uint64(64 - bits) == 0)
        return places, prints[places]


def _in(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which values are among the sorted known ones."""
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.searchsorted(known, values).clip(max=len(known) - 1)] == values


def _count_between(places: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return how many of the sorted places lie in each span."""
    return np.searchsorted(places, ends) - np.searchsorted(places, begins)


@lru_cache(maxsize=2)
def powers(base: np.uint64) -> np.ndarray:
    """Return base^0, base^1, … modulo 2^64, as many as a portion needs."""
    powers = np.full(max(PORTION, STRETCH, LONGEST) + 1, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, out=powers)


def mixed(values: np.ndarray) -> np.ndarray:
    """Return well-mixed numbers for numbers (the finaliser of SplitMix64; Steele et al., 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
