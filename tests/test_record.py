import json

import pytest

from minigpt.errors import UserError
from minigpt.learn.record import FILE, Record


def test_nothing_is_written_until_there_is_something_to_remember(tmp_path):
    record = Record(tmp_path)
    assert record.state("attention") == "open"
    assert not list(tmp_path.iterdir())


def test_what_was_reached_is_remembered_in_the_folder(tmp_path):
    Record(tmp_path).reached("attention", "started")
    Record(tmp_path).reached("mask", "passed")
    assert [Record(tmp_path).state(name) for name in ("attention", "mask", "rope")] == [
        "started", "passed", "open",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_was_passed_stays_so(tmp_path):
    Record(tmp_path).reached("mask", "passed")
    Record(tmp_path).reached("mask", "started")
    assert Record(tmp_path).state("mask") == "passed"


def test_what_is_not_known_stays_in_the_file(tmp_path):
    content = {"notes": [1], "exercises": {"of the next version": "passed"}}
    (tmp_path / FILE).write_text(json.dumps(content))
    Record(tmp_path).reached("mask", "started")
    content["exercises"]["mask"] = "started"
    assert json.loads((tmp_path / FILE).read_text()) == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"exercises": {"mask": "pas', "cannot be read as JSON"),
        ("[1]", "holds a JSON list"),
        ('{"exercises": 3}', '"exercises" is a JSON int'),
        ('{"exercises": {"mask": "done"}}', "the state of 'mask' is 'done'"),
        ('{"exercises": {"mask": null}}', "the state of 'mask' is None"),
        ('{"exercises": {"mask": []}}', "the state of 'mask' is"),
    ],
)
def test_a_damaged_file_is_a_sentence_and_stays_as_it_is(tmp_path, text, words):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=words):
        Record(tmp_path)
    assert (tmp_path / FILE).read_text() == text
