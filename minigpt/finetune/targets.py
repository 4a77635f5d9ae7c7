"""Conversations in, examples out: ids, and which of them are targets, none longer than the model's context.

Targets are the assistant's tokens alone, each answer with the token that ends it. A conversation that is too long is
cut after the last answer with which it still fits: every answer that stays has before it all that it was an answer to,
as when the model is talked with. One whose first answer does not fit is left out.
"""

import bisect
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from minigpt.errors import UserError
from minigpt.finetune.conversations import Broken, Conversations, Recorded, counted, listed
from minigpt.inference.template import Message, Template


@dataclass(frozen=True)
class Example:
    """A conversation as a model learns from it.

    Attributes:
        number: of its record in the file.
        ids: (n + 1,) int32, up to the last target: what follows that teaches nothing.
        said: (n + 1,) bool, whether each is a target.
    """

    number: int
    ids: np.ndarray
    said: np.ndarray

    @property
    def length(self) -> int:
        """Positions that it takes in a row, n: the last id is a target alone."""
        return len(self.ids) - 1


@dataclass
class Examples:
    """What is made of the conversations of a file.

    Attributes:
        unit: what its records are counted in.
        room: the longest that an example may be, in positions.
        good: the examples.
        cut: how many of them lost turns at their end.
        turns_cut: how many turns those lost.
        too_long: the numbers of conversations whose first answer does not fit.
        broken: conversations that the template or the tokenizer refuses.
    """

    unit: str
    room: int
    good: list[Example] = field(default_factory=list)
    cut: int = 0
    turns_cut: int = 0
    too_long: list[int] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """Return what a person should know: how much there is to learn, and what is cut or left out."""
        tokens = sum(example.length for example in self.good)
        targets = sum(int(example.said[1:].sum()) for example in self.good)
        said = [
            f"{counted(len(self.good), 'conversation')} of {tokens:,} tokens to learn from; {targets:,} of them "
            "are the assistant's, and count"
        ]
        if self.cut:
            said.append(
                f"{counted(self.cut, 'conversation')} longer than {self.room:,} tokens, cut after the last answer that "
                f"fits: {counted(self.turns_cut, 'turn')} left out"
            )
        if self.too_long:
            numbers = ", ".join(f"{number:,}" for number in self.too_long[:3])
            more = ", …" if len(self.too_long) > 3 else ""
            said.append(
                f"{counted(len(self.too_long), 'conversation')} left out, whose first answer does not end within "
                f"{self.room:,} tokens: {self.unit} {numbers}{more}"
            )
        return said + listed(self.broken, self.unit)


def make_examples(
    conversations: Conversations, template: Template, room: int, *, strict: bool = False
) -> Examples:
    """Return what a model learns from conversations.

    Args:
        conversations: of a file.
        template: of the model.
        room: its context, in tokens.
        strict: a conversation that the template or the tokenizer refuses is refused instead of counted.

    Raises:
        UserError: the template ends no answer with a special token, nothing is left to learn from, or a conversation is
            refused and `strict` is given.
    """
    if not template.ends():
        raise UserError(
            "the chat template writes no special token after an answer, so that a tuned model would never end one; "
            "take a template that does"
        )
    made = Examples(conversations.unit, room)
    for recorded in conversations.good:
        try:
            found = _fitting(recorded, template, room)
        except UserError as error:
            broken = Broken(recorded.number, "refused by template or tokenizer", str(error))
            if strict:
                raise UserError(
                    f"{conversations.name}, {made.unit} {recorded.number}: {error}; mend or remove that record, or "
                    "leave --strict out to go on without it"
                ) from None
            made.broken.append(broken)
            continue
        if found is None:
            made.too_long.append(recorded.number)
            continue
        example, lost = found
        made.good.append(example)
        made.cut += lost > 0
        made.turns_cut += lost
    if not made.good:
        reasons = Counter(["too long"] * len(made.too_long) + [b.detail for b in made.broken])
        raise UserError(
            f"{conversations.name} has nothing to learn from: of {counted(len(conversations.good), 'conversation')} "
            f"none fits into {room:,} tokens with its first answer and goes through the chat template "
            f"({reasons.most_common(1)[0][0]}); use other conversations or a larger model.block_size"
        )
    return made


def _fitting(recorded: Recorded, template: Template, room: int) -> tuple[Example, int] | None:
    """Return the example of as many turns as fit and how many are left out; None where not even one does."""
    messages = recorded.messages
    # How many messages there are up to each answer. Each takes a token at least, so that no more than `room` fit.
    answers = [n for n, message in enumerate(messages, 1) if message["role"] == "assistant"]
    likely = [n for n in answers if n <= room]
    if not likely:
        return None

    def up_to(answer: int) -> Example:
        return _example(recorded.number, messages[: likely[answer]], template)

    last = len(likely) - 1
    example = up_to(last)
    if example.length > room:
        last = bisect.bisect_left(range(last), True, key=lambda n: up_to(n).length > room) - 1
        if last < 0:
            return None
        example = up_to(last)
    return example, len(answers) - 1 - last


def _example(number: int, messages: list[Message], template: Template) -> Example:
    found = template.labelled(messages)
    said = np.array(found.said, dtype=bool)
    if not said[1:].any():
        raise UserError("the chat template leaves out every answer")
    end = int(np.flatnonzero(said)[-1]) + 1
    return Example(number, np.array(found.ids[:end], dtype=np.int32), said[:end])
