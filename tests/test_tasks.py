import json

import pytest

from minigpt.errors import UserError
from minigpt.evaluate import tasks
from minigpt.evaluate.tasks import Benchmark, item_of, read_task

HELLASWAG = {
    "activity_label": "Washing", "ctx_a": "A man [header] sits [title] down.", "ctx_b": "he",
    "endings": ["sings [step] loud.", " runs  away.", "eats.", "sleeps."], "label": "2",
}  # fmt: skip
RECORDS = {
    "plain, number": {"question": "Two?", "choices": ["1", "two"], "answer": 1},
    "plain, letter": {"question": "Two?", "choices": ["1", "two"], "answer": "b"},
    "plain, text": {"question": "Two?", "choices": ["1", "two"], "answer": "two"},
    "arc": {"question": "Two?", "choices": {"text": ["1", "two"], "label": ["1", "2"]}, "answerKey": "2"},
    "piqa": {"goal": "Two?", "sol1": "1", "sol2": "two", "label": 1},
}  # fmt: skip


def test_hellaswag_is_read_as_lm_eval_reads_it():
    item = item_of(HELLASWAG, "here")
    context = "Washing: A man sits. down. He"
    assert {pair[0] for pair in item.pairs} == {context}
    assert [pair[1] for pair in item.pairs] == [" sings loud.", " runs away.", " eats.", " sleeps."]
    assert item.lengths == (11, 10, 5, 7)
    assert item.answer == 2


def test_hellaswag_needs_only_its_context_its_endings_and_its_label():
    item = item_of({"ctx": "A man", "endings": ["sits", "runs"], "label": 1}, "here")
    assert item.pairs == (("A man", " sits"), ("A man", " runs"))
    assert item.answer == 1


@pytest.mark.parametrize("layout", RECORDS)
def test_a_question_is_put_in_one_way_whatever_its_layout(layout):
    item = item_of(RECORDS[layout], "here")
    before = "Question: Two?\nAnswer:"
    assert item.pairs == ((before, " 1"), (before, " two"))
    assert (item.answer, item.lengths) == (1, (1, 3))


def test_a_context_stands_before_its_question_or_alone():
    record = {"context": "It rained.", "choices": ["a", "b"], "answer": "A"}
    assert item_of(record, "here").pairs[0] == ("It rained.", " a")
    both = item_of(record | {"question": "Why?"}, "here")
    assert both.pairs[0] == ("It rained.\nQuestion: Why?\nAnswer:", " a")


def test_the_others_are_read_as_lm_eval_reads_them():
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    record = {"support": " So.", "question": "Who?"} | dict(zip(names, "abcd", strict=True))
    item = item_of(record, "here")
    assert item.pairs[3] == ("So.\nQuestion: Who?\nAnswer:", " d")
    assert item.answer == 3
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    item = item_of({"question_stem": "It is", "choices": choices, "answerKey": "A "}, "here")
    assert item.pairs[0] == ("It is", " a")
    sentence = {"sentence": "The _ fell on it.", "option1": "cup", "option2": "mat", "answer": "1"}
    item = item_of(sentence, "here")
    assert item.pairs == (("The cup", " fell on it."), ("The mat", " fell on it."))
    assert item.answer == 0
    assert item.lengths[0] == item.lengths[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no question"),
        ('\n{"question": "a"', "line 2 is not JSON"),
        ("[1]", "line 1 holds a JSON list; wanted an object"),
        ('{"text": "a"}', r"line 1 has no layout that is known \(its fields: text\)"),
        ('{"question": 1, "choices": ["a", "b"], "answer": 0}', "line 1: question is of type int"),
        ('{"question": "q", "choices": "ab", "answer": 0}', "choices is no list of texts"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "choices has 1 texts"),
        ('{"question": "q", "choices": ["a", " "], "answer": 0}', "1 of them empty"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "answer is 2; wanted the text"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "answer is true"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "c"}', 'answer is "c"'),
        ('{"question": "q", "choices": ["a", "b"]}', "answer is null"),
        ('{"question": "q", "choices": ["a", "b"], "answerKey": "A"}', "choices is no object"),
        ('{"ctx": "q", "endings": ["a", "b"], "label": ""}', 'label is "";.* from 0 to 1'),
        ('{"ctx": "q", "endings": ["a", "b"], "label": "2"}', 'label is "2"'),
        ('{"ctx_a": "q", "ctx_b": 3, "endings": ["a", "b"], "label": 0}', "ctx_b is of type int"),
        ('{"sentence": "q", "option1": "a", "option2": "b", "answer": "1"}', "has no blank"),
        ('{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}', "answerKey is"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_its_line(content, message, tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_task(str(path))


def test_bytes_that_are_no_text_are_refused_by_their_line(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b'{"question": "q", "choices": ["a", "b"], "answer": 0}\n{"question": "\xff"}')
    with pytest.raises(UserError, match="line 2 is not UTF-8: byte 14"):
        read_task(str(path))


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"helaswag does not exist.*hellaswag"):
        read_task("helaswag")
    with pytest.raises(UserError, match="is a folder"):
        read_task(str(tmp_path))


def test_a_benchmark_is_fetched_by_name(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    lines = [HELLASWAG | {"label": str(i)} for i in range(3)]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setitem(tasks.NAMED, "hellaswag", Benchmark(str(tmp_path), None, "validation"))
    task = read_task("hellaswag")
    assert [item.answer for item in task.items] == [0, 1, 2]
    assert task.items[1].where == "hellaswag, item 2"


def test_without_a_network_a_benchmark_is_refused_in_one_sentence():
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r"piqa could not be fetched.*pass its records as a .jsonl"):
        read_task("piqa")
