import doctest
import gzip
import json

import pytest

from minigpt.errors import UserError
from minigpt.finetune import conversations
from minigpt.finetune.conversations import LARGEST_RECORD, read_conversations

from .conftest import shared

ASKED = {"role": "user", "content": "Hi"}
ANSWERED = {"role": "assistant", "content": " Yes?\n"}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"messages": [ASKED, ANSWERED]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": " Yes?\n"}]}  # fmt: skip
INSTRUCTION = {"instruction": "Add.", "input": "1, 2", "output": "3"}


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read_one(tmp_path, record):
    (found,) = read_conversations(written(tmp_path / "one.jsonl", [record])).good
    return found.messages


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (GOOD, "chat messages"),
        (SHAREGPT, "ShareGPT"),
        ({"messages": SHAREGPT["conversations"]}, "ShareGPT"),
        ({"conversations": GOOD["messages"]}, "chat messages"),
        ({"instruction": "Hi", "output": " Yes?\n"}, "instruction records"),
        ({"instruction": "Hi", "input": "", "output": " Yes?\n"}, "instruction records"),
        ({"instruction": "Hi", "input": None, "output": " Yes?\n"}, "instruction records"),
        ({"messages": None, "instruction": "Hi", "output": " Yes?\n"}, "instruction records"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWERED]},
            "chat messages",
        ),
    ],
)
def test_each_format_is_recognised_and_said(record, name, tmp_path):
    found = read_conversations(written(tmp_path / "a.jsonl", [record] * 2))
    assert [one.messages for one in found.good] == [[ASKED, ANSWERED]] * 2
    assert found.formats == {name: 2}
    assert found.sentences() == [f"{tmp_path / 'a.jsonl'}: 2 conversations ({name})"]


def test_several_formats_in_a_file_are_counted(tmp_path):
    found = read_conversations(written(tmp_path / "a.jsonl", [GOOD, SHAREGPT, GOOD, INSTRUCTION]))
    listed = "chat messages: 2, ShareGPT: 1, instruction records: 1"
    assert found.sentences()[0].endswith(f"4 conversations ({listed})")


def test_instruction_and_input_have_a_blank_line_between_them(tmp_path):
    assert read_one(tmp_path, INSTRUCTION) == [
        {"role": "user", "content": "Add.\n\n1, 2"},
        {"role": "assistant", "content": "3"},
    ]


def test_system_messages_come_first_and_empty_ones_are_none(tmp_path):
    assert read_one(tmp_path, {"messages": [SYSTEM, ASKED, ANSWERED]}) == [SYSTEM, ASKED, ANSWERED]
    assert read_one(tmp_path, SHAREGPT | {"system": "Be brief."}) == [SYSTEM, ASKED, ANSWERED]
    empty = {"role": "system", "content": " "}
    assert read_one(tmp_path, {"messages": [empty, ASKED, ANSWERED]}) == [ASKED, ANSWERED]


def test_a_last_question_without_an_answer_stays(tmp_path):
    messages = [ASKED, ANSWERED, ASKED]
    assert read_one(tmp_path, {"messages": messages}) == messages


BROKEN = [
    (b"{", "not JSON"),
    (b"[" * 100_000, "not JSON (nested too deeply)"),
    (b'{"messages": ' + b"9" * 5000 + b"}", "not JSON"),
    (b'{"a": "\xff"}', "not UTF-8 (0xff at byte 7)"),
    ("{}".encode("utf-16"), "not UTF-8 (0xff at byte 0)"),
    (b"\0\0", "not JSON"),
    (b"null", "no object (a JSON NoneType)"),
    (b"[]", "no object (a JSON list)"),
    ({}, "empty (no keys)"),
    ({"messages": []}, "empty (no messages)"),
    ({"text": "a", "id": 1}, "unknown format (its keys are text, id)"),
    ({"messages": "a"}, "no list of messages (a JSON str)"),
    ({"messages": ["a"]}, "a message is no object (message 1 is a JSON str)"),
    ({"messages": [ASKED]}, "no answer (nothing of the assistant)"),
    ({"messages": [SYSTEM]}, "no answer"),
    ({"messages": [ANSWERED, ASKED]}, "roles out of order (message 1, of the assistant, stands where the user was"),
    ({"messages": [ASKED, ASKED, ANSWERED]}, "roles out of order (message 2, of the user, stands where the assis"),
    ({"messages": [ASKED, ANSWERED, ANSWERED]}, "roles out of order (message 3"),
    ({"messages": [ASKED, SYSTEM, ANSWERED]}, "roles out of order (message 2, of the system"),
    ({"messages": [SYSTEM, SYSTEM, ASKED, ANSWERED]}, "roles out of order (message 2"),
    ({"messages": [{"role": "User", "content": "a"}, ANSWERED]}, "wrong role (message 1 has the role 'User'; wanted"),
    ({"messages": [{"content": "a"}, ANSWERED]}, "wrong role (message 1 has no role"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, "wrong role"),
    ({"messages": [ASKED, {"role": "tool", "content": "a"}]}, "a call of a tool (message 2 is of the role tool)"),
    ({"messages": [ASKED, ANSWERED | {"tool_calls": [{}]}]}, "a call of a tool (message 2)"),
    ({"messages": [ASKED, {"role": "assistant", "content": ""}]}, "an empty message (message 2, of the assistant"),
    ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "an empty message (message 2 has no text)"),
    ({"messages": [ASKED, {"role": "assistant"}]}, "an empty message (message 2 has no text)"),
    ({"messages": [{"role": "user", "content": " \n"}, ANSWERED]}, "an empty message (message 1"),
    ({"messages": [ASKED, {"role": "assistant", "content": 5}]}, "a content that is no text (message 2 has"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWERED]}, "a content that is no text"),
    ({"messages": [ASKED, {"role": "assistant", "content": "\ud83d"}]}, "no Unicode text (message 2, of the assistant"),
    ({"conversations": [{"from": "bing", "value": "a"}]}, "wrong role (message 1 has the role 'bing'"),
    ({"instruction": "a", "output": ""}, "an empty message (message 2"),
    ({"instruction": "a"}, "an empty message (message 2"),
    ({"instruction": "", "input": " ", "output": "b"}, "an empty message (message 1"),
    ({"instruction": 5, "output": "b"}, "a content that is no text (instruction has a JSON int)"),
    (b'{"messages": [], "messages": []}', "a key is given twice (among messages)"),
    (b'{"messages": [{"role": "user", "role": "system", "content": "a"}]}', "a key is given twice (among role,"),
    (b'{"messages": "' + b"a" * LARGEST_RECORD + b'"}', "huge (more than 16,777,216 bytes)"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "why"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_is_counted_with_its_line_and_stops_a_strict_reading(record, why, tmp_path):
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    good, path = json.dumps(GOOD).encode(), tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, b"", line, good]) + b"\n\n")
    found = read_conversations(path)
    assert [one.number for one in found.good] == [1, 4]
    (broken,) = found.broken
    assert broken.number == 3
    assert str(broken).startswith(why)
    assert found.sentences()[1:] == [f"1 broken record left out: {broken.kind}: 1", f"  line 3: {broken}"]  # fmt: skip
    with pytest.raises(
        UserError, match=r"a\.jsonl, line 3: .*; mend or remove that record, or"
    ) as e:
        read_conversations(path, strict=True)
    assert f"line 3: {why}" in str(e.value)
    assert str(e.value).isprintable()
    path.write_bytes(line)
    with pytest.raises(UserError, match="has no conversation in 1 record; line 1: ") as e:
        read_conversations(path)
    assert f"line 1: {why}" in str(e.value)


def test_many_broken_records_are_counted_by_kind_and_three_are_shown(tmp_path):
    records = [{}, GOOD, *[{"messages": [ASKED]}] * 5]
    said = read_conversations(written(tmp_path / "a.jsonl", records)).sentences()
    assert said[1] == "6 broken records left out: no answer: 5; empty: 1"
    assert [line.split(":")[0] for line in said[2:]] == ["  line 1", "  line 3", "  line 4"]


@pytest.mark.parametrize(
    ("name", "as_list"),
    [(f"a.{name}", False) for name in ("jsonl", "ndjson", "json", "jsonl.gz", "jsonl.zst")]
    + [("a.json", True), ("a.json.gz", True), ("a.txt", True)],
)
def test_containers_are_told_by_name_and_content(name, as_list, tmp_path):
    records = [GOOD, {}, INSTRUCTION]
    text = json.dumps(records, indent=2) if as_list else "\r\n".join(map(json.dumps, records))
    content = b"\xef\xbb\xbf" + text.encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    if name.endswith(".zst"):
        content = pytest.importorskip("zstandard").compress(content)
    (tmp_path / name).write_bytes(content)
    found = read_conversations(tmp_path / name)
    assert [one.number for one in found.good] == [1, 3]
    assert [one.number for one in found.broken] == [2]
    assert found.unit == ("record" if as_list else "line")


def test_parquet_is_read_by_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [GOOD, {"messages": [ASKED]}, {"instruction": "a", "output": "b"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema([
        ("messages", pyarrow.list_(pyarrow.struct({"role": "string", "content": "string"}))),
        ("instruction", "string"), ("output", "string"),
    ])), tmp_path / "a.parquet")  # fmt: skip
    found = read_conversations(tmp_path / "a.parquet")
    assert found.formats == {"chat messages": 1, "instruction records": 1}
    assert found.good[0].messages == [ASKED, ANSWERED]
    assert (found.unit, found.broken[0].number) == ("row", 2)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b"", "has no conversation in 0 records; wanted"),
        ("a.json", b"[]", "has no conversation in 0 records; wanted"),
        ("a.json", b"[1, 2", "is no list in JSON"),
        ("a.json", b"[" * 100_000, "is nested too deeply"),
        ("a.json", b'["\xff"]', "is not UTF-8: byte 2 is 0xff"),
        ("a.json", json.dumps(GOOD, indent=1).encode(), "has no conversation in .* records; line 1: not JSON"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "is damaged"),
        ("a.jsonl.gz", b"{}", "is damaged"),
        ("a.parquet", b"PAR1", "is no whole Parquet file"),
        ("a.parquet.gz", b"", "Parquet is packed in itself"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(name, content, why, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=why):
        read_conversations(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder; pass one file"):
        read_conversations(tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        read_conversations(tmp_path / "absent.jsonl")


def test_a_published_set_of_instructions_is_read_whole():
    found = read_conversations(shared("instruction-data.json"), strict=True)
    assert found.formats == {"instruction records": 1100}
    assert found.sentences()[0].endswith(": 1,100 conversations (instruction records)")
    assert found.good[0].messages[0]["content"].endswith(" given.\n\nfreind --> friend")


def test_the_example_in_a_docstring_holds():
    assert doctest.testmod(conversations) == (0, 1)
