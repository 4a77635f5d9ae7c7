"""Byte-pair encoding: counting, joining, learning, and the way of a word there and back."""

from minigpt.learn.rules import Mistake, check


def _words(**counts):
    return {tuple(word.encode()): count for word, count in counts.items()}


HUGS = _words(hug=10, pug=5, hugs=5)
SAMPLE = _words(lower=7, lowest=4, newer=6, newest=9, wide=3, wider=3, aaaa=2, banana=5, bandana=3)


@check()
def pairs(module):
    """each pair counts as often as its word occurs"""
    return dict(module.count_pairs({(1, 2, 3): 10, (2, 3): 5, (7,): 3, (1, 1, 1): 2}))


@check()
def joined(module):
    """pairs are joined from the left"""
    cases = [
        ((1, 2, 3, 1, 2), (1, 2)),
        ((1, 1, 1), (1, 1)),
        ((1, 1, 1, 1), (1, 1)),
        ((2, 1), (1, 2)),
        ((1,), (1, 2)),
    ]
    return [list(module.join(ids, pair, 9)) for ids, pair in cases]


@check()
def two_merges(module):
    """hug, pug and hugs give u+g, then h+ug"""
    return module.train_merges(HUGS, 2)


@check()
def equally_common(module):
    """of equally common pairs the one with the smaller ids is learnt first"""
    return module.train_merges({(9, 8): 4, (3, 4): 4, (3, 2): 4, (5, 6): 6}, 4)


@check()
def many_merges(module):
    """merges of merges, until no pair occurs twice"""
    return [module.train_merges(SAMPLE, 12), module.train_merges({(1, 2): 1, (3, 4): 2}, 5)]


@check()
def encoded(module):
    """a word is joined by the merges in the order in which they were learnt"""
    # b+c comes first, so that a+b finds no b and c+x no c any more.
    merges = [(98, 99), (97, 98), (256, 100), (257, 256), (99, 120)]
    return [module.encode(word, merges) for word in ("ab", "abc", "bcx", "bcd", "ababcd", "x", "")]


@check()
def encoded_as_trained(module):
    """words are encoded with merges of merges"""
    merges = [
        (101, 114),
        (119, 256),
        (101, 115),
        (258, 116),
        (108, 111),
        (260, 257),
        (97, 97),
        (262, 262),
    ]
    return [module.encode(word, merges) for word in ("lower", "lowest", "newer", "aaaaa", "wé")]


@check()
def decoded(module):
    """ids become text, with the letters that are in several tokens"""
    merges = [(101, 114), (0xC3, 0xA9), (119, 256)]
    texts = (
        [258],
        [99, 97, 102, 257],
        [99, 97, 102, 0xC3, 0xA9],
        [0xF0, 0x9F, 0xA6, 0x8A],
        [97, 0xC3],
        [],
    )
    return [module.decode(ids, merges) for ids in texts]


MISTAKES = [
    Mistake(
        "words counted once",
        """Each word counts once, however often it occurs. A pair in a word that occurs ten times occurs ten times.""",
        {"pairs[pair] += count": "pairs[pair] += 1"},
    ),
    Mistake(
        "same pair once a word",
        """A pair that stands several times in one word is counted once there.""",
        {"for pair in pairwise(word)": "for pair in set(pairwise(word))"},
        {"pairs[pair] += count": "pairs[pair] = pairs[pair] or count"},
    ),
    Mistake(
        "overlapping",
        """Joined pairs overlap: after a pair is joined, go on behind both of its halves. In 1 1 1 the first two ones are
        joined, and the third has no partner left.""",
        {"i += 2 if found else 1": "i += 1"},
    ),
    Mistake(
        "from the right",
        """Pairs are joined from the right. From the left it is: 1 1 1 becomes (1 1) 1.""",
        {
            "ids[i : i + 2] == pair": "ids[::-1][i : i + 2] == pair[::-1]",
            "new_id if found else ids[i]": "new_id if found else ids[::-1][i]",
            "return tuple(joined)": "return tuple(joined[::-1])",
        },
    ),
    Mistake(
        "a list",
        """What join returns is a list, which cannot be the key of a dictionary. Return tuple(…).""",
        {
            "return tuple(joined)": "return joined",
            "ids[i : i + 2] == pair": "tuple(ids[i : i + 2]) == pair",
        },
    ),
    Mistake(
        "only the first",
        """Only the first occurrence of the pair is joined. All are.""",
        {
            "found = ids[i : i + 2] == pair": "found = ids[i : i + 2] == pair and new_id not in joined"
        },
    ),
    Mistake(
        "order of a pair",
        """A pair is joined whichever way round it stands. 2 1 is another pair than 1 2.""",
        {"ids[i : i + 2] == pair": "sorted(ids[i : i + 2]) == sorted(pair)"},
    ),
    Mistake(
        "ties by chance",
        """Of equally common pairs the one is learnt that was seen first, so the result depends on the order of the words. Take
        the one with the smaller ids.""",
        {"(-pairs[pair], pair)": "-pairs[pair]"},
    ),
    Mistake(
        "ties the other way",
        """Of equally common pairs the one with the larger ids is learnt first; max over (count, pair) does that. Take the
        one with the smaller ids.""",
        {
            "min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)": "max(pairs, key=lambda pair: (pairs[pair], pair), default=None)"
        },
    ),
    Mistake(
        "pairs that occur once",
        """A pair that occurs once is given a token, too. It would never be used again: stop when no pair occurs twice.""",
        {"or pairs[best] < 2": ""},
    ),
    Mistake(
        "ids of merges",
        """The new ids do not begin at 256. Ids 0 to 255 are the bytes; merge i, counted from 0, makes id 256 + i.""",
        {"join(word, best, 256 + len(merges))": "join(word, best, 257 + len(merges))"},
        {"join(word, best, 256 + len(merges))": "join(word, best, 255 + len(merges))"},
        {"join(ids, first, 256 + rank[first])": "join(ids, first, 257 + rank[first])"},
    ),
    Mistake(
        "words not joined",
        """The words stay as they were, so every round finds the same pair. Join the pair in all words before counting
        again.""",
        {"words = {join(": "_ = {join("},
    ),
    Mistake(
        "left to right",
        """The first pair from the left that is a merge is joined. Of all pairs in the word the one that was learnt first is
        joined; else the ids are others than those the model was trained on.""",
        {"min(pairs, key=lambda pair: rank[pair])": "pairs[0]"},
    ),
    Mistake(
        "longest first",
        """The pair that was learnt last, mostly the longest piece, is joined first. It is the one that was learnt first.""",
        {"min(pairs, key=lambda pair: rank[pair])": "max(pairs, key=lambda pair: rank[pair])"},
    ),
    Mistake(
        "one round",
        """Encoding stops after one merge. What a merge has made may be half of another: go on until no pair is a merge.""",
        {
            "        ids = join(ids, first, 256 + rank[first])": "        ids = join(ids, first, 256 + rank[first])\n        break"
        },
    ),
    Mistake(
        "code points for bytes",
        """A character outside of ASCII is taken as its code point. Encode the word as UTF-8 first; its ids are bytes.""",
        {"tuple(word.encode())": "tuple(map(ord, word))"},
    ),
    Mistake(
        "decoded piece by piece",
        """Each token is turned into text on its own, and a letter that lies in two tokens breaks into U+FFFD. Put all bytes
        together first, and decode once.""",
        {
            'b"".join(pieces[i] for i in ids).decode(errors="replace")': '"".join(pieces[i].decode(errors="replace") for i in ids)'
        },
    ),
    Mistake(
        "strict decoding",
        """Half a letter at the end raises UnicodeDecodeError. A model writes such ids now and then: decode with
        errors="replace".""",
        {'errors="replace"': ""},
    ),
    Mistake(
        "bytes left out",
        """Bytes that are not UTF-8 disappear, so that nobody sees that there was something. Each is to become U+FFFD, the
        sign for it: errors="replace".""",
        {'"replace"': '"ignore"'},
    ),
    Mistake(
        "one level",
        """The pieces of a merge are taken to be bytes. They may be merges themselves: build the pieces in the order of the
        merges.""",
        {
            "pieces.append(pieces[left] + pieces[right])": "pieces.append(bytes([left % 256, right % 256]))"
        },
    ),
]
