"""A text of any length in, pieces of bounded length out whose ids, one after the other, are those of the whole text.

A cut is made before a space that follows something else, or between a letter or number and a line end, a full stop and
their like: there every pattern begins a new word, whatever follows. Only where 262,144 characters hold no such place is
a word cut through.
"""

from itertools import pairwise

import regex

PIECE = 1 << 18  # characters; tiktoken takes runs of white space up to here, not without end
# (?r): from the end.
_SAFE = regex.compile(r"(?r)(?<=\S) |(?<=[\p{L}\p{N}])[\n.,;:!?。、，！？；：]")


def cut_points(text: str) -> list[int]:
    """Return where to cut pieces off the beginning of `text`; what follows the last cut is shorter than a piece.

    The places depend on the characters before them alone, so a text that arrives in blocks is cut as if it came whole.
    """
    points, start = [], 0
    while len(text) - start > PIECE:
        found = _SAFE.search(text, start + 1, start + PIECE)
        start = found.start() if found else start + PIECE
        points.append(start)
    return points


def pieces_of(text: str) -> list[str]:
    """Return the pieces of a text.

    >>> pieces_of("short")
    ['short']
    """
    if len(text) <= PIECE:
        return [text]
    return [text[a:b] for a, b in pairwise([0, *cut_points(text), len(text)])]
