"""Tokens in one at a time, text out as soon as it is sure that no stop string begins in it."""

from collections.abc import Sequence

from minigpt.tokenizer import TextStream


class StoppingText:
    """A stream of text that ends before the first of some strings, wherever the tokens are cut.

    Attributes:
        stopped: whether one of them was found.
    """

    def __init__(self, text: TextStream, stops: Sequence[str] = ()) -> None:
        self._text, self._stops = text, tuple(stops)
        self._held, self.stopped = "", False

    def push(self, token: int) -> str:
        """Return the text that a token completes, but for what may be the beginning of a stop string."""
        return self._sure(self._text.push(token), last=False)

    def finish(self) -> str:
        """Return what was held back."""
        return self._sure(self._text.finish(), last=True)

    def _sure(self, more: str, last: bool) -> str:
        text = self._held + more
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            cut = min(found)
        else:
            cut = (
                len(text)
                if last
                else len(text) - max((open_at_end(text, stop) for stop in self._stops), default=0)
            )
        self._held = "" if self.stopped else text[cut:]
        return text[:cut]


def open_at_end(text: str, stop: str) -> int:
    """Return how many of the last characters may be the beginning of `stop`, which is not in the text.

    >>> open_at_end("The cat", "attic")
    2
    """
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
