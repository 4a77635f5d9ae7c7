"""Words with their counts in, BPE merges out: the merges of `bpe.train_merges`, without recounting.

An index says which words hold a pair, so that a merge touches only those; a heap offers the commonest pair. Entries of
the heap are never corrected, only outdated: one that no longer says the pair's count is dropped when it comes up.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import regex
from tokenizers import Tokenizer, models, trainers

from minigpt.tokenizer.bpe import Pair, join
from minigpt.tokenizer.content import BYTES_BY_NAME, pre_tokenizer
from minigpt.tokenizer.patterns import PATTERNS

LONGEST_WORD = 256  # characters; what is longer (a line of base64, say) is counted in parts
MOST_COUNTED = 2_000_000  # distinct words while counting, about 250 MB
MOST_WORDS = 500_000  # of which the commonest are learnt from, about 500 MB with the index


def count_pieces(pieces: Iterable[str], pattern: str = "gpt2") -> dict[bytes, int]:
    """Return how often each word occurs, as `bpe.count_words` does, in bounded memory.

    Of more than 500,000 distinct words the rarest are left out; they hardly move a count of pairs.
    """
    split = regex.compile(PATTERNS[pattern])
    counts: Counter[str] = Counter()
    for piece in pieces:
        words = split.findall(piece)
        if max(map(len, words), default=0) > LONGEST_WORD:
            words = [w[i : i + LONGEST_WORD] for w in words for i in range(0, len(w), LONGEST_WORD)]
        counts.update(words)
        if len(counts) > MOST_COUNTED:
            counts = Counter(dict(counts.most_common(MOST_COUNTED // 2)))
    kept = counts.items()
    if len(counts) > MOST_WORDS:
        kept = sorted(kept, key=lambda item: (-item[1], item[0]))[:MOST_WORDS]
    return {word.encode(): n for word, n in kept}


def library_merges(pieces: Iterable[str], count: int, pattern: str = "gpt2") -> list[Pair]:
    """Return up to `count` merges as the `tokenizers` library learns them; it breaks ties in another order."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count,
        min_frequency=2,
        initial_alphabet=sorted(BYTES_BY_NAME),
        show_progress=False,
    )
    backend.train_from_iterator(pieces, trainer)
    model = json.loads(backend.to_str())["model"]
    ids = dict(BYTES_BY_NAME)
    merges = []
    for left, right in model["merges"]:
        merges.append((ids[left], ids[right]))
        ids[left + right] = 255 + len(merges)
    return merges


def train_merges(
    words: Mapping[bytes, int], count: int, report: Callable[[float], None] = lambda done: None
) -> list[Pair]:
    """Return up to `count` merges of words with their counts; the same ones as `bpe.train_merges`.

    Args:
        words: {word as UTF-8: how often it occurs}.
        count: merges wanted.
        report: called with the number of merges, now and then.
    """
    sequences = [list(word) for word in words]
    weights = list(words.values())
    counts: defaultdict[Pair, int] = defaultdict(int)
    holders: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, ids in enumerate(sequences):
        for pair in pairwise(ids):
            counts[pair] += weights[index]
            holders[pair].add(index)
    heap = [(-times, pair) for pair, times in counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < count:
        times, best = heapq.heappop(heap)
        if -times != counts[best]:
            continue
        if -times < 2:
            break
        if len(merges) % 64 == 0:
            report(len(merges))
        new_id = 256 + len(merges)
        merges.append(best)
        changed: set[Pair] = set()
        for index in holders.pop(best):
            before = sequences[index]
            after = join(before, best, new_id)
            if len(after) == len(before):
                continue  # an earlier merge took the pair out of this word
            for pair in pairwise(before):
                counts[pair] -= weights[index]
                changed.add(pair)
            for pair in pairwise(after):
                counts[pair] += weights[index]
                changed.add(pair)
                holders[pair].add(index)
            sequences[index] = after
        for pair in changed:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
    return merges
