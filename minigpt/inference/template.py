"""Messages in, ids out, as the chat template beside a model writes them; for training also which of them are answers.

    messages -> names of special tokens hidden -> Jinja -> text -> cut at special tokens -> ids

A special token is one where the template writes its name; in what people and models say such a name stays text.
"""

import bisect
import datetime
import functools
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minigpt.errors import UserError, first_line
from minigpt.tokenizer import Tokenizer

Message = dict[str, str]  # {"role": system, user or assistant, "content": text}
Span = tuple[int, int]  # of a text, from a character up to another
_BEGIN, _END = "generation_begin", "generation_end"  # what a block for training is put between


@dataclass(frozen=True)
class Labelled:
    """A whole conversation as a model is trained on it.

    Attributes:
        ids: as `transformers` gives them.
        said: for each, whether it is the assistant's: its answers, each with the token that ends it. A token that an
            answer shares with what stands before it counts.
    """

    ids: list[int]
    said: list[bool]


class Template:
    """A chat template and the tokenizer that its text is for."""

    def __init__(
        self, source: str, tokenizer: Tokenizer, *, now: datetime.datetime | None = None
    ) -> None:
        """Compile a template.

        Args:
            source: Jinja.
            tokenizer: of the model.
            now: what it is told where it asks for the time; None: what the clock says.

        Raises:
            UserError: it is no Jinja.
        """
        self.source, self.tokenizer = source, tokenizer
        self._specials = sorted(tokenizer.specials, key=len, reverse=True)  # the longest is found
        self._special = re.compile(f"({'|'.join(map(re.escape, self._specials)) or '(?!)'})")
        added = tokenizer.backend.get_added_tokens_decoder().values()
        self._strip_left = {
            token.content for token in added if token.lstrip
        }  # take the spaces there
        self._strip_right = {token.content for token in added if token.rstrip}
        self._has_blocks = re.search(r"\{%[-+]?\s*generation\b", source) is not None
        try:
            self._compiled = _environment(now).from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise UserError(f"the chat template is no Jinja ({first_line(error)})") from None

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids up to where the answer begins.

        Raises:
            UserError: the template refuses the messages, or the tokenizer does not know a character.
        """
        shown, hidden, _ = self._hide(messages)
        return self._labelled(self._render(shown, True), hidden, []).ids

    def labelled(self, messages: Sequence[Message]) -> Labelled:
        """Return the ids of a whole conversation, and which of them the assistant says.

        A template marks its answers with {% generation %} blocks. Of one without them an answer is what it adds to
        what it writes up to there: between the text that asks for the answer and the text that ends with it.

        Raises:
            UserError: as `ids`; or there are no blocks, and the text of a turn depends on what follows it.
        """
        shown, hidden, (begin, end) = self._hide(messages)
        if self._has_blocks:
            text, spans = _unmarked(self._render(shown, False, begin, end), begin, end)
        else:
            text = self._render(shown, False)
            spans = self._spans_by_prefixes(shown, text)
        return self._labelled(text, hidden, [self._up_to_its_end(text, span) for span in spans])

    def ends(self) -> frozenset[int]:
        """Return the special token that the template writes after an answer."""
        mark = _unused([self.source], 1)
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
        after = self._render(said, False).partition(mark)[2]
        found = self._special.match(after.lstrip())
        return frozenset([self.tokenizer.specials[found[1]]] if found else [])

    def _hide(self, messages: Sequence[Message]) -> tuple[list[Message], "re.Pattern[str]", str]:
        """Return messages with something else for the names of special tokens, its pattern, and two marks."""
        mark, *marks = _unused([self.source, *(message["content"] for message in messages)], 3)

        def instead(found: "re.Match[str]") -> str:
            return f"{mark}{self._specials.index(found[1])}{mark}"

        shown = [m | {"content": self._special.sub(instead, m["content"])} for m in messages]
        return shown, re.compile(f"{mark}(\\d+){mark}"), "".join(marks)

    def _spans_by_prefixes(self, shown: Sequence[Message], text: str) -> list[Span]:
        """Return where the answers stand in the text of a template without blocks for training."""
        spans = []
        for place, message in enumerate(shown):
            if message["role"] != "assistant":
                continue
            before = self._render(shown[:place], True)
            through = self._render(shown[: place + 1], False)
            if not (text.startswith(through) and through.startswith(before)):
                raise UserError(
                    f"the chat template writes message {place + 1} in another way when more follows it or when it is "
                    "asked for, so that it does not show which tokens are the answer; take a template with "
                    "{% generation %} blocks"
                )
            span = (len(before), len(through))
            ends = [found for found in self._special.finditer(text, *span) if self._is_end(found)]
            spans.append((span[0], ends[-1].end() if ends else span[1]))
        return spans

    def _up_to_its_end(self, text: str, span: Span) -> Span:
        """Return a span with the token that ends the answer, where it stands right behind."""
        begin, end = span
        if any(self._is_end(found) for found in self._special.finditer(text, begin, end)):
            return span
        after = self._special.match(text, len(text) - len(text[end:].lstrip()))
        return (begin, after.end()) if after and self._is_end(after) else span

    def _is_end(self, found: "re.Match[str]") -> bool:
        return self.tokenizer.specials[found[1]] in self._ends

    @cached_property
    def _ends(self) -> frozenset[int]:
        return self.ends()

    def _labelled(self, text: str, hidden: "re.Pattern[str]", spans: Sequence[Span]) -> Labelled:
        """Return the ids of a template's text, and which of them touch one of the spans."""
        ids: list[int] = []
        said: list[bool] = []
        before, position = "", 0
        for found in [*self._special.finditer(text), None]:
            start, end, after = position, *((found.start(), found[1]) if found else (len(text), ""))
            if before in self._strip_right:
                start = end - len(text[start:end].lstrip())
            if after in self._strip_left:
                end = start + len(text[start:end].rstrip())
            if start < end:
                part = self._of_text(text[start:end], hidden, _inside(spans, start, end))
                ids += part.ids
                said += part.said
            if found:
                ids.append(self.tokenizer.specials[after])
                said.append(bool(_inside(spans, *found.span())))
                before, position = after, found.end()
        return Labelled(ids, said)

    def _of_text(self, text: str, hidden: "re.Pattern[str]", spans: Sequence[Span]) -> Labelled:
        """Return the ids of a text without special tokens, in which hidden names are put back."""

        def back(shown: str) -> str:
            return hidden.sub(lambda found: self._specials[int(found[1])], shown)

        whole = back(text)
        ids = self.tokenizer.encode(whole)
        if spans in ([], [(0, len(text))]):
            return Labelled(ids, [bool(spans)] * len(ids))
        spans = [(len(back(text[:begin])), len(back(text[:end]))) for begin, end in spans]
        starts, ends = _places(self.tokenizer, whole, ids).T
        said = np.any([(starts < b) & (ends > a) for a, b in spans], axis=0)
        return Labelled(ids, said.tolist())

    def _render(
        self, messages: Sequence[Message], expects_answer: bool, begin: str = "", end: str = ""
    ) -> str:
        """Return the text of a template; what it has in a block for training stands between `begin` and `end`."""
        tokenizer = self.tokenizer
        bos, eos = (
            "" if i is None else tokenizer.pieces[i].decode()
            for i in (tokenizer.bos_id, tokenizer.eos_id)
        )
        try:
            return self._compiled.render(
                messages=messages, add_generation_prompt=expects_answer, bos_token=bos, eos_token=eos,
                tools=None, documents=None, **{_BEGIN: begin, _END: end},
            )  # fmt: skip
        except (
            Exception
        ) as error:  # a template is a program of someone else, and may raise anything
            raise UserError(
                f"the chat template refuses the conversation: {first_line(error)}"
            ) from None


def _unused(texts: Sequence[str], count: int) -> str:
    """Return so many characters, for private use, that are in none of the texts."""
    used = set().union(*texts)
    private = map(chr, itertools.chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)))
    return "".join(itertools.islice((c for c in private if c not in used), count))


def _unmarked(text: str, begin: str, end: str) -> tuple[str, list[Span]]:
    """Return a text without marks, and where those stood.

    >>> _unmarked("a<bc>d<>", "<", ">")
    ('abcd', [(1, 3), (4, 4)])
    """
    parts = re.split(f"[{begin}{end}]", text)
    places = list(itertools.accumulate(map(len, parts)))
    return "".join(parts), list(zip(places[:-1:2], places[1:-1:2], strict=True))


def _inside(spans: Sequence[Span], start: int, end: int) -> list[Span]:
    """Return what of the spans lies between two places, counted from the first; they come in their order.

    >>> _inside([(0, 2), (3, 9), (9, 12)], 4, 9)
    [(0, 5)]
    """
    first = bisect.bisect_right(spans, start, key=lambda span: span[1])
    found = itertools.takewhile(lambda span: span[0] < end, itertools.islice(spans, first, None))
    return [(max(a, start) - start, min(b, end) - start) for a, b in found if a < b]


def _places(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> np.ndarray:
    """Return from which character of `text` up to which each id stands for, in whole or in part, (tokens, 2)."""
    encoded = text.encode()
    pieces = [tokenizer.pieces[i] for i in ids]
    if b"".join(pieces) != encoded:  # the tokenizer writes a text in another way before it cuts it
        return np.array(tokenizer.backend.encode(text, add_special_tokens=False).offsets)
    # Of each byte, counted from 1: a character begins with one that is not 10xxxxxx.
    character = np.cumsum((np.frombuffer(encoded, np.uint8) & 0xC0) != 0x80)
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    return np.stack([character[starts] - 1, character[ends - 1]], axis=1)


def _environment(now: datetime.datetime | None) -> ImmutableSandboxedEnvironment:
    """Return what `transformers` gives a template, so that it renders the same here.

    A template reaches no file and no code outside of it, but nothing bounds the time and the memory that it takes.
    """
    made: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _refuse, "strftime_now": functools.partial(_now, now)}
    return made


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}, which marks for training what the model is to say."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> Any:
        """Return a call with what stands in the block: as in `transformers`, names set in it end with it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("between_marks", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def between_marks(self, context: Any, caller: Any) -> str:
        """Return what the block writes, between the marks."""
        return f"{context[_BEGIN]}{caller()}{context[_END]}"


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(now: datetime.datetime | None, pattern: str) -> str:
    return (now or datetime.datetime.now()).strftime(pattern)
