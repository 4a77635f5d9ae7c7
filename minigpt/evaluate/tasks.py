"""A file of multiple-choice questions or the name of a benchmark in, items out: texts to compare and the right one.

The texts are those that lm-evaluation-harness (Gao et al., 2024) makes of the same records, to the character: what
stands before the choices, a space, a choice.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from minigpt.config import did_you_mean
from minigpt.errors import UserError, first_line, plain
from minigpt.extras import importing
from minigpt.files import place_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A question with its choices.

    Attributes:
        pairs: of each choice a context and what is to follow it; the likelier it follows, the better the choice.
        lengths: of each choice, in characters.
        answer: number of the right one.
        where: it comes from, for what is said about it.
    """

    pairs: tuple[tuple[str, str], ...]
    lengths: tuple[int, ...]
    answer: int
    where: str


@dataclass(frozen=True)
class Task:
    """Items under the name that a person gave."""

    name: str
    items: list[Item]


@dataclass(frozen=True)
class Benchmark:
    """Where a named task lies on the Hugging Face Hub."""

    dataset: str
    config: str | None
    split: str


# The splits that lm_eval scores: the test part where its answers are known, else the validation part.
NAMED = {
    "hellaswag": Benchmark("Rowan/hellaswag", None, "validation"),
    "arc-easy": Benchmark("allenai/ai2_arc", "ARC-Easy", "test"),
    "arc-challenge": Benchmark("allenai/ai2_arc", "ARC-Challenge", "test"),
    "openbookqa": Benchmark("allenai/openbookqa", "main", "test"),
    "piqa": Benchmark("baber/piqa", None, "validation"),
    "sciq": Benchmark("allenai/sciq", None, "test"),
    "winogrande": Benchmark("allenai/winogrande", "winogrande_xl", "validation"),
}


def read_task(name: str) -> Task:
    """Return the items of a file of JSON lines, or of one of NAMED, which is fetched from the Hub.

    Raises:
        UserError: there is no such task, it cannot be reached, or a record is damaged; the line is named.
    """
    path = place_of(name)
    if path is None and name in NAMED:
        records = _from_hub(name)
    elif path is None or path.is_dir():
        what = "is a folder" if path else "does not exist"
        raise UserError(
            f"--tasks: {plain(name)} {what}{did_you_mean(name, NAMED)}; pass a .jsonl file of questions, or one of "
            f"{', '.join(NAMED)}"
        )
    else:
        records = _from_lines(name, path.read_bytes())
    items = [item_of(record, where) for where, record in records]
    if not items:
        raise UserError(f"{plain(name)} holds no question; wanted one JSON object a line")
    return Task(name, items)


def item_of(record: Any, where: str) -> Item:
    """Return the item that a record describes, whichever of the layouts it has.

    Args:
        record: with the fields of HellaSwag, ARC, OpenBookQA, PIQA, SciQ or WinoGrande; or `question`, `context` or
            both, `choices`, and `answer`: a number from 0, a letter or the text of the right choice.
        where: it comes from.

    Raises:
        UserError: it has another layout, or a field is not what it should be.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{where} holds a JSON {type(record).__name__}; wanted an object")
    for fields, read in _LAYOUTS:
        if fields <= record.keys():
            return read(record, where)
    names = plain(", ".join(map(str, record))) or "none"
    raise UserError(
        f"{where} has no layout that is known (its fields: {names}); wanted question or context, choices, answer; or "
        "HellaSwag's ctx, endings, label"
    )


def _from_lines(name: str, content: bytes) -> Iterable[tuple[str, Any]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"{plain(name)}, line {number}"
        if not line.strip():
            continue
        try:
            yield where, json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not UTF-8: byte {error.start} of it; mend that line") from None  # fmt: skip
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where} is not JSON ({first_line(error)}); mend or remove that line"
            ) from None


def _from_hub(name: str) -> Iterable[tuple[str, Any]]:
    with importing("data", name):
        import datasets
    found = NAMED[name]
    try:
        records = datasets.load_dataset(found.dataset, found.config, split=found.split)
    except Exception as error:  # those of the network clients it uses have no class in common
        raise UserError(
            f"{name} could not be fetched ({first_line(error)}); without a network, pass its records as a .jsonl file"
        ) from None
    return ((f"{name}, item {number}", record) for number, record in enumerate(records, 1))


# ---------------------------------------------------------------------------------------------------------- layouts


def _hellaswag(record: Record, where: str) -> Item:
    """Zellers et al. (2019)."""
    if "ctx_a" in record:
        second = _text(record, "ctx_b", where) if record.get("ctx_b") else ""
        context = f"{_text(record, 'ctx_a', where)} {second.capitalize()}"
    else:
        context = _text(record, "ctx", where)
    if record.get("activity_label"):
        context = f"{_text(record, 'activity_label', where)}: {context}"
    endings = [_cleaned(ending) for ending in _texts(record["endings"], "endings", where)]
    answer = _number(record.get("label"), "label", len(endings), where)
    return _item(_cleaned(context), endings, answer, where)


def _cleaned(text: str) -> str:
    """Return a text without what WikiHow's pages left in it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _arc(record: Record, where: str) -> Item:
    """Clark et al. (2018); Mihaylov et al. (2018), who have `question_stem`."""
    choices = record["choices"]
    if not isinstance(choices, Mapping):
        raise UserError(f"{where}: choices is no object; wanted one with text and label")
    texts = _texts(choices.get("text"), "choices.text", where)
    labels = _texts(choices.get("label"), "choices.label", where)
    answer = _text(record, "answerKey", where).strip()
    if len(labels) != len(texts) or answer not in labels:
        raise UserError(
            f"{where}: answerKey is {plain(answer)!r}; wanted one of {len(texts)} labels, of which there are "
            f"{plain(', '.join(labels))}"
        )
    if "question_stem" in record:
        context = _text(record, "question_stem", where)
    else:
        context = _asked(_text(record, "question", where))
    return _item(context, texts, labels.index(answer), where)


def _piqa(record: Record, where: str) -> Item:
    """Bisk et al. (2020)."""
    choices = [_text(record, name, where) for name in ("sol1", "sol2")]
    answer = _number(record.get("label"), "label", 2, where)
    return _item(_asked(_text(record, "goal", where)), choices, answer, where)


def _sciq(record: Record, where: str) -> Item:
    """Welbl et al. (2017)."""
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    support = _text(record, "support", where).lstrip() if record.get("support") else ""
    context = f"{support}\n{_asked(_text(record, 'question', where))}"
    return _item(context, [_text(record, name, where) for name in names], 3, where)


def _winogrande(record: Record, where: str) -> Item:
    """Sakaguchi et al. (2020): what stands after the blank is scored, with one option in it and with the other."""
    before, blank, after = _text(record, "sentence", where).partition("_")
    if not blank:
        raise UserError(f"{where}: sentence has no blank; wanted a _ in it")
    answer = _text(record, "answer", where)
    if answer not in ("1", "2"):
        raise UserError(f"{where}: answer is {plain(answer)!r}; wanted '1' or '2'")
    after = f" {after.strip()}"
    pairs = tuple((before + _text(record, name, where), after) for name in ("option1", "option2"))
    return Item(pairs, (len(after),) * 2, int(answer) - 1, where)


def _plain(record: Record, where: str) -> Item:
    """Our own: question, context or both."""
    parts = [_text(record, "context", where)] if "context" in record else []
    if "question" in record:
        parts.append(_asked(_text(record, "question", where)))
    choices = _texts(record["choices"], "choices", where)
    return _item("\n".join(parts), choices, _answer(record.get("answer"), choices, where), where)


_LAYOUTS: list[tuple[set[str], Callable[[Record, str], Item]]] = [
    ({"ctx_a", "endings"}, _hellaswag), ({"ctx", "endings"}, _hellaswag),
    ({"question", "choices", "answerKey"}, _arc), ({"question_stem", "choices", "answerKey"}, _arc),
    ({"goal", "sol1", "sol2"}, _piqa), ({"question", "correct_answer"}, _sciq),
    ({"sentence", "option1", "option2"}, _winogrande),
    ({"question", "choices"}, _plain), ({"context", "choices"}, _plain),
]  # fmt: skip


def _item(context: str, choices: list[str], answer: int, where: str) -> Item:
    pairs = tuple((context, f" {choice}") for choice in choices)
    return Item(pairs, tuple(map(len, choices)), answer, where)


def _asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _answer(answer: Any, choices: list[str], where: str) -> int:
    """Return which choice is meant: by its text, else its letter, else its number from 0."""
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
        if len(answer) == 1 and answer.upper() in letters:
            return letters.index(answer.upper())
    elif type(answer) is int and 0 <= answer < len(choices):
        return answer
    raise UserError(
        f"{where}: answer is {plain(json.dumps(answer, ensure_ascii=False))}; wanted the text of a choice, its letter, "
        f"or a number from 0 to {len(choices) - 1}"
    )


def _number(value: Any, name: str, choices: int, where: str) -> int:
    """Return the number of a choice, which HellaSwag writes as text."""
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,3}", value) else value
    if type(number) is not int or not 0 <= number < choices:
        raise UserError(
            f"{where}: {name} is {plain(json.dumps(value, ensure_ascii=False))}; wanted a number from 0 to "
            f"{choices - 1}"
        )
    return number


def _text(record: Record, name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        what = f"of type {type(value).__name__}" if name in record else "not there"
        raise UserError(f"{where}: {name} is {what}; wanted a text")
    return value


def _texts(value: Any, name: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{where}: {name} is no list of texts; wanted at least two")
    if len(value) < 2 or not all(text.strip() for text in value):
        raise UserError(
            f"{where}: {name} has {len(value)} texts, {sum(not text.strip() for text in value)} of them empty; "
            "wanted at least two, none empty"
        )
    return value
