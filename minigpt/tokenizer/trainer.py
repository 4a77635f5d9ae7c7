"""Words with their counts in, BPE merges out: the merges of `bpe.train_merges`, without recounting.

An index says which words hold a pair, so that a merge touches only those; a heap offers the commonest pair. Entries of
the heap are never corrected, only outdated: one that no longer says the pair's count is dropped when it comes up.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from minigpt.tokenizer.bpe import Pair, join


def train_merges(words: Mapping[bytes, int], count: int) -> list[Pair]:
    """Return up to `count` merges of words with their counts; the same ones as `bpe.train_merges`."""
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
