"""Turns in, the ids that a model goes on from out: as many of the youngest turns as fit.

With a chat template (Jinja, as Hugging Face keeps it beside a model) they become what the model was tuned on; the names
of special tokens in what people and models say stay text. Without one, the conversation is one text that goes on.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.errors import UserError
from minigpt.inference.template import Message, Template
from minigpt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """What a model sees of a conversation.

    Attributes:
        ids: with all that is to stand before and between the turns.
        dropped: how many turns are left out; the oldest.
        cut: whether the last turn alone was too long, so that its beginning is left out.
    """

    ids: list[int]
    dropped: int = 0
    cut: bool = False


class Conversation:
    """What was said, and what a model sees of it.

    Attributes:
        messages: in their order; a turn is one of the user and what follows it.
        ends: the tokens that end an answer, beside the end of text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | Template | None = None,
        system: str | None = None,
    ) -> None:
        """Begin a conversation.

        Args:
            tokenizer: of the model.
            template: Jinja, compiled or not; None: the conversation is one text.
            system: what stands before all turns, and always stays; only with a template.

        Raises:
            UserError: the template is damaged, or the tokenizer does not know a character of `system`.
        """
        self._tokenizer = tokenizer
        self._template = Template(template, tokenizer) if isinstance(template, str) else template
        self.ends = frozenset() if self._template is None else self._template.ends()
        self._line_end = _line_end(tokenizer)
        self.messages: list[Message] = []
        if system is not None:
            if self._template is None:
                raise UserError(
                    "a system message needs a chat template, which this model does not have"
                )
            tokenizer.encode(system)
            self.add("system", system)

    @property
    def turns(self) -> int:
        """How many there are."""
        return len(self._starts())

    def add(self, role: str, content: str) -> None:
        """Append a message."""
        self.messages.append({"role": role, "content": content})

    def undo(self) -> str | None:
        """Take the last turn back, answer and all; return what the user had said, None where there is no turn."""
        starts = self._starts()
        if not starts:
            return None
        said = self.messages[starts[-1]]["content"]
        del self.messages[starts[-1] :]
        return said

    def reset(self) -> None:
        """Forget every turn."""
        del self.messages[(self._starts() or [len(self.messages)])[0] :]

    def text(self) -> str:
        """Return the conversation as one text: each turn begins a line, and an answer goes on from it."""
        return self._joined(self.messages)

    def prompt_ids(self, room: int) -> Prompt:
        """Return what a model sees of at least one turn.

        Args:
            room: how many ids it may have, at most: the context but for what is kept for the answer.

        Raises:
            UserError: a character that the tokenizer does not know, a template that refuses the conversation, or no
                room for what stands around the last turn.
        """
        starts = self._starts()
        before = self.messages[: starts[0]]

        def since(turn: int) -> list[int]:
            return self._ids(before + self.messages[starts[turn] :])

        dropped = bisect.bisect_left(
            range(len(starts) - 1), True, key=lambda turn: len(since(turn)) <= room
        )
        ids = since(dropped)
        if len(ids) <= room:
            return Prompt(ids, dropped)
        last, *others = self.messages[starts[-1] :]
        said = last["content"]

        def without(characters: int) -> list[int]:
            return self._ids([*before, last | {"content": said[characters:]}, *others])

        ids = without(
            bisect.bisect_left(range(len(said)), True, key=lambda n: len(without(n)) <= room)
        )
        if len(ids) > room:
            raise UserError(
                f"what stands around a turn takes {len(ids)} tokens, and the context has room for {room} beside the "
                f"answer; take {'a shorter system message or ' if before else ''}a smaller max_tokens"
            )
        return Prompt(ids, dropped, cut=True)

    def _starts(self) -> list[int]:
        """Return where each turn begins."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "user"]

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        if self._template is not None:
            return self._template.ids(messages)
        return [*self._tokenizer.prefix, *self._tokenizer.encode(self._joined(messages))]

    def _joined(self, messages: Sequence[Message]) -> str:
        text = ""
        for message in messages:
            if message["role"] == "user" and text and not text.endswith("\n"):
                text += self._line_end
            text += message["content"]
        return text


def _line_end(tokenizer: Tokenizer) -> str:
    """Return what ends a line; nothing where the characters of a tokenizer are too few for that."""
    try:
        tokenizer.encode("\n")
    except UserError:
        return ""
    return "\n"
