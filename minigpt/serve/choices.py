"""What the steps add to the texts of a request in, choices in OpenAI's shapes out: whole, or chunk by chunk."""

import codecs
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.inference.picking import Picked
from minigpt.serve.worker import Update
from minigpt.tokenizer import Tokenizer

REASONS = {"stop": "stop", "length": "length", "full": "length"}


@dataclass(frozen=True)
class Scored:
    """A token, and where in the text it begins (in characters)."""

    picked: Picked
    begin: int


class Choice:
    """One text as it comes in.

    Attributes:
        index: its place in the answer.
        text: so far.
        tokens: that were drawn.
        finish: why it ended, in OpenAI's words; None while it goes on.
        prompt: the tokens of the prompt, where they are given back with their log-probabilities.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, ends: frozenset[int], before: str) -> None:
        """Begin a text.

        Args:
            index: its place in the answer.
            tokenizer: of the model.
            ends: tokens that are no part of it.
            before: the prompt, where it is given back.
        """
        self.index, self.text, self.tokens = index, before, 0
        self.finish: str | None = None
        self.prompt: list[Scored] = []
        self._tokenizer, self._ends = tokenizer, ends
        self._place = len(before)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held: deque[Scored] = deque()

    def take(self, updates: Iterable[Update]) -> tuple[str, list[Scored]]:
        """Take what is new; return the text that it adds, and the tokens that begin in the text up to there.

        A token whose text is held back, since a stop string may begin with it, is held back as well.
        """
        piece = ""
        for update in updates:
            piece += update.piece
            self.tokens += len(update.picked)
            self.finish = REASONS.get(update.finish or "")
            for picked in update.picked:
                if picked.token not in self._ends:
                    self._held.append(Scored(picked, self._place))
                    self._place += len(
                        self._characters.decode(self._tokenizer.pieces[picked.token])
                    )
        self.text += piece
        sure = []
        while self._held and self._held[0].begin < len(self.text):
            sure.append(self._held.popleft())
        return piece, sure


def named(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of a token; of one that is no whole characters, its bytes.

    >>> from minigpt.tokenizer import bpe_tokenizer
    >>> named(bpe_tokenizer([]), 65), named(bpe_tokenizer([]), 0xE2)
    ('A', 'bytes:\\\\xe2')
    """
    piece = tokenizer.pieces[token]
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def chat_logprobs(tokenizer: Tokenizer, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return log-probabilities as a chat has them."""

    def one(token: int, nats: float) -> dict[str, Any]:
        return {
            "token": named(tokenizer, token),
            "logprob": nats,
            "bytes": list(tokenizer.pieces[token]),
        }

    found = [
        one(at.picked.token, at.picked.log_probability)
        | {"top_logprobs": [one(*pair) for pair in at.picked.top]}
        for at in scored
    ]
    return {"content": found, "refusal": None}


def echoed(tokenizer: Tokenizer, prompt: Sequence[Picked], text: str) -> list[Scored]:
    """Return the tokens of a prompt with their places in its text; what stands before that begins where it does."""
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sizes = [len(characters.decode(tokenizer.pieces[picked.token])) for picked in prompt]
    place, found = len(text) - sum(sizes), []
    for picked, size in zip(prompt, sizes, strict=True):
        found.append(Scored(picked, max(0, place)))
        place += size
    return found


def completion_logprobs(tokenizer: Tokenizer, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return log-probabilities as a completion has them; the drawn token is always among the alternatives.

    What begins a text has none: null.
    """
    drawn = [at.picked for at in scored]
    return {
        "tokens": [named(tokenizer, one.token) for one in drawn],
        "token_logprobs": [_number(one.log_probability) for one in drawn],
        "top_logprobs": [
            {
                named(tokenizer, token): nats
                for token, nats in (*one.top, (one.token, one.log_probability))
            }
            if _number(one.log_probability) is not None
            else None
            for one in drawn
        ],
        "text_offset": [at.begin for at in scored],
    }


def _number(nats: float) -> float | None:
    return None if math.isnan(nats) else nats
