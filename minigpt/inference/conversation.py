"""Turns in, the ids that a model goes on from out: as many of the youngest turns as fit.

With a chat template (Jinja, as Hugging Face keeps it beside a model) they become what the model was tuned on; the names
of special tokens in what people and models say stay text. Without one, the conversation is one text that goes on.
"""

import bisect
import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minigpt.errors import UserError, first_line
from minigpt.tokenizer import Tokenizer

Message = dict[str, str]  # {"role": system, user or assistant, "content": text}


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
        self, tokenizer: Tokenizer, template: str | None = None, system: str | None = None
    ) -> None:
        """Begin a conversation.

        Args:
            tokenizer: of the model.
            template: Jinja; None: the conversation is one text.
            system: what stands before all turns, and always stays; only with a template.

        Raises:
            UserError: the template is damaged, or the tokenizer does not know a character of `system`.
        """
        self._tokenizer = tokenizer
        self._template = None if template is None else _Template(template, tokenizer)
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


class _Template:
    """A chat template and the tokenizer that its text is for."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._specials = sorted(tokenizer.specials, key=len, reverse=True)  # the longest is found
        self._special = re.compile(f"({'|'.join(map(re.escape, self._specials)) or '(?!)'})")
        added = tokenizer.backend.get_added_tokens_decoder().values()
        self._strip_left = {
            token.content for token in added if token.lstrip
        }  # take the spaces there
        self._strip_right = {token.content for token in added if token.rstrip}
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is no Jinja ({first_line(error)})") from None

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids up to where the answer begins.

        A special token is one where the template writes its name; in a message it is text. So the template is shown
        messages with something else in the place of such names.
        """
        mark = _unused([message["content"] for message in messages])
        shown = [
            message | {"content": self._special.sub(self._hide(mark), message["content"])}
            for message in messages
        ]
        ids: list[int] = []
        hidden = re.compile(f"{mark}(\\d+){mark}")
        parts = ["", *self._special.split(self._render(shown, True)), ""]
        for before, text, after in zip(parts[:-2:2], parts[1::2], parts[2::2], strict=True):
            ids += [self._tokenizer.specials[before]] if before else []
            text = text.lstrip() if before in self._strip_right else text
            text = text.rstrip() if after in self._strip_left else text
            text = hidden.sub(lambda found: self._specials[int(found[1])], text)
            ids += self._tokenizer.encode(text) if text else []
        return ids

    def ends(self) -> frozenset[int]:
        """Return the special token that the template writes after an answer."""
        mark = _unused([])
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
        after = self._render(said, False).partition(mark)[2]
        found = self._special.match(after.lstrip())
        return frozenset([self._tokenizer.specials[found[1]]] if found else [])

    def _hide(self, mark: str) -> Any:
        return lambda found: f"{mark}{self._specials.index(found[1])}{mark}"

    def _render(self, messages: Sequence[Message], expects_answer: bool) -> str:
        tokenizer = self._tokenizer
        begin, end = (
            "" if i is None else tokenizer.pieces[i].decode()
            for i in (tokenizer.bos_id, tokenizer.eos_id)
        )
        try:
            return self._compiled.render(
                messages=messages, add_generation_prompt=expects_answer, bos_token=begin, eos_token=end,
                tools=None, documents=None,
            )  # fmt: skip
        except (
            Exception
        ) as error:  # a template is a program of someone else, and may raise anything
            raise UserError(
                f"the chat template refuses the conversation: {first_line(error)}"
            ) from None


def _unused(texts: Sequence[str]) -> str:
    """Return a character, for private use, that is in none of the texts."""
    used = set().union(*texts)
    return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in used)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what `transformers` gives a template, so that it renders the same here; it can do no harm."""
    made: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return made


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}, which marks for training what the model is to say."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> Any:
        """Return what stands in the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
