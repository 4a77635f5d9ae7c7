"""Characters in, ids out: each distinct character of a text is a token, in the order of their code points."""

from collections.abc import Iterable, Mapping

import numpy as np

from minigpt.errors import UserError

UNKNOWN = -1


def alphabet(texts: Iterable[str]) -> list[str]:
    """Return the distinct characters of the texts in the order of their code points.

    >>> alphabet(["to be", "or not"])
    [' ', 'b', 'e', 'n', 'o', 'r', 't']
    """
    return sorted(set().union(*texts))


class CharTable:
    """The id of every character, as one array over code points."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        points = [ord(character) for character in vocabulary]
        self.ids = np.full(max(points, default=0) + 2, UNKNOWN, dtype=np.int64)
        self.ids[points] = list(vocabulary.values())

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, (characters,) int64.

        Raises:
            UserError: a character that the table does not know, by name.
        """
        points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
        ids = self.ids[np.minimum(points, len(self.ids) - 1)]
        if (ids == UNKNOWN).any():
            unknown = sorted({text[i] for i in np.flatnonzero(ids == UNKNOWN)})
            named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UserError(
                f"the character tokenizer does not know {named}{more}; leave such characters out, "
                "or train with data.tokenizer = bpe, which knows every character"
            )
        return ids
