"""What there is to say of an attempt, and how it is said."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any, Self

from minigpt.errors import plain
from minigpt.learn.forms import all_shown
from minigpt.learn.path import EXERCISES, Exercise

WIDTH = 100
LEFT = 13  # where text begins that stands behind a word
PRINTED = 2000  # characters of what the code prints that are kept
PRINTED_LINES = 20  # of them that are shown
# What is to be said where a failure says nothing of what to do.
GENERAL = {
    "syntax": "Python cannot read the file; mend that line or the one before it.",
    "missing": "minigpt learn start writes the file to fill, with all the names that are called.",
    "unwritten": "Fill in its body; what goes in and what comes out is in its docstring.",
    "signature": "Take the arguments as they stand in the file to fill; learn start --out OTHER writes it anew.",
    "changed": "Whoever calls it still needs that as it was. Work on a copy, or make something new.",
    "unusable": "Something else comes back than the docstring says. Print it, and compare.",
    "form": "Return just what the docstring says: of that shape and type, and nothing beside it.",
    "endless": "A loop does not end, or the code is very slow. Print what changes in the loop, and look at when it "
    "should stop; loops over positions and channels become products of matrices.",
    "waiting": "Look for a call of torch.distributed inside of an if that depends on the rank.",
    "crash": "The last thing it did is in the line above; call it by itself.",
    "ended": "A check wants something back from each function; none should end Python.",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What there is to say of an attempt.

    Attributes:
        held: the properties that hold, up to the first that does not.
        open: the first that does not, or nothing: passed.
        checks: how many there are in all.
        hints: names of the mistakes made, or the kind of failure.
        advice: what a teacher would say to each.
        call: how the attempt was called.
        expected, received: what should have come back and what did.
        remark: what can be said of it as a whole.
        lines: of the learner's file.
        printed: what the attempt has printed, its beginning.
    """

    held: tuple[str, ...] = ()
    open: str = ""
    checks: int = 0
    hints: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    call: str = ""
    expected: str = ""
    received: str = ""
    remark: str = ""
    lines: tuple[str, ...] = ()
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether all properties hold."""
        return not self.open

    def fields(self) -> dict[str, Any]:
        """Return all of it by name."""
        return asdict(self)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Return the verdict that `fields`, through JSON, was."""
        made: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**made)


def said(exercise: Exercise, verdict: Verdict) -> str:
    """Return a verdict as a learner reads it."""
    blocks = [[f"  ✓ {title}" for title in verdict.held]]
    if verdict.printed:
        blocks.insert(0, _printed(verdict.printed))
    if verdict.passed:
        blocks.insert(0, [f"Passed: {exercise.title}"])
        ours = f"minigpt/learn/exercises/{exercise.name}/solution.py"
        blocks.append(_behind("Ours", f"{ours}, and in minigpt: {exercise.pointer}"))
        if exercise.number < len(EXERCISES):
            blocks.append(_behind("Next", f"minigpt learn show {EXERCISES[exercise.number].name}"))
        return _together(blocks)
    blocks.insert(0, [f"Not yet: {exercise.title}"])
    blocks[-1].append(f"  ✗ {verdict.open}")
    facts = [
        ("called", verdict.call),
        ("expected", verdict.expected),
        ("received", verdict.received),
        ("", verdict.remark),
    ]
    facts += [("your file" if i == 0 else "", line) for i, line in enumerate(verdict.lines)]
    blocks.append([line for word, text in facts if text for line in _behind(word, text)])
    advice = verdict.advice or tuple(GENERAL[hint] for hint in verdict.hints if hint in GENERAL)
    names = verdict.hints if verdict.advice else ("",) * len(advice)
    for name, text in zip(names, advice, strict=True):
        named = f"{name[0].upper()}{name[1:]}. {text}" if name else text
        blocks.append(textwrap.wrap(named, WIDTH, initial_indent="  ", subsequent_indent="  "))
    if not advice and verdict.expected:
        if all_shown(verdict.call):
            what = "Work the case above out by hand, step by step, and print yours."
        else:
            what = "Print yours, step by step, and compare it with what the page says."
        blocks.append([f"  No known mistake gives this. {what}"])
    blocks.append(_behind("Read", f"minigpt learn show {exercise.name}; {exercise.pointer}"))
    return _together(blocks)


def _printed(text: str) -> list[str]:
    """Return what the code printed, its beginning."""
    lines = text.splitlines()
    cut = len(lines) > PRINTED_LINES or len(text) >= PRINTED
    first = [f"  │ {plain(line)}" for line in lines[:PRINTED_LINES]]
    return ["Your file printed:", *first, *["  │ … and more"] * cut]


def _behind(word: str, text: str) -> list[str]:
    """Return a text with a word before it, wrapped to the right of that."""
    left = f"  {word}".ljust(LEFT)
    return textwrap.wrap(text, WIDTH, initial_indent=left, subsequent_indent=" " * LEFT) or [left]


def _together(blocks: list[list[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks if block)
