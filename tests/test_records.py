import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.data import decoding, records
from minigpt.errors import UserError

from .test_formats import as_csv, as_parquet, documents_of


def test_the_field_is_the_one_that_was_named(tmp_path):
    record = {"text": "no", "body": "yes"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    (tmp_path / "a.csv").write_bytes(as_csv([record.keys(), record.values()]))
    (tmp_path / "a.parquet").write_bytes(as_parquet({k: [v] for k, v in record.items()}))
    for path in tmp_path.iterdir():
        assert documents_of(path, field="body") == ["yes"]


@pytest.mark.parametrize("limit", [0, 1 << 24])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_that_is_not_utf8_is_refused_with_its_place(tmp_path, monkeypatch, mark, limit):
    monkeypatch.setattr(records, "HUGE_RECORD", limit)
    path = tmp_path / "a.jsonl"
    for first in (b"", b'{"text": "one"}\n'):
        content = mark + first + b'{"text": "a\xc3\\n\xa4"}\n{"text": "two"}'
        path.write_bytes(content)
        place = content.index(b"\xc3")
        with pytest.raises(UserError, match=rf"not UTF-8: byte {place}\b.* is 0xc3"):
            documents_of(path)
        assert documents_of(path, errors="replace")[-2:] == ["a\ufffd\n\ufffd", "two"]


def test_csv_that_is_not_utf8_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\na\xff\n")
    with pytest.raises(UserError, match="byte 6 is 0xff"):
        documents_of(path)
    assert documents_of(path, errors="replace") == ["a\ufffd"]


def test_parquet_that_is_not_utf8_is_refused_with_its_row(tmp_path):
    ends = pyarrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 5)))
    strings = pyarrow.StringArray.from_buffers(2, ends, pyarrow.py_buffer(b"abc\xffd"))
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet({"text": strings}))
    with pytest.raises(UserError, match="byte 1 of row 2 is 0xff"):
        documents_of(path)
    assert documents_of(path, errors="replace") == ["ab", "c\ufffdd"]


@pytest.mark.parametrize("limit", [0, 1 << 24])
def test_half_a_surrogate_pair_is_refused_or_replaced(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(records, "HUGE_RECORD", limit)
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"text": "a\uD83D\ude42 \\ud83d"}')
    assert documents_of(path) == ["a🙂 \\ud83d"]
    path.write_text('{"text": "whole"}\n' + r'{"text": "a\ud83d\uD83D\uDE42\ude42b"}')
    with pytest.raises(UserError, match=r"line 2 holds U\+D83D, half of a surrogate pair"):
        documents_of(path)
    assert documents_of(path, errors="replace") == ["whole", "a\ufffd🙂\ufffdb"]


TEXTS = st.text() | st.text(st.sampled_from('ab"\\/{}[]:,\n\tä漢🙂'))
KEYS = st.sampled_from(["text", "id", "a:b", 'te"xt']) | st.text()
FLOATS = st.floats(allow_nan=False, allow_subnormal=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.just("text") | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
OTHERS = st.dictionaries(KEYS.filter(lambda key: key != "text"), VALUES, max_size=3)


def test_of_a_huge_record_comes_what_json_says(tmp_path_factory):
    path = tmp_path_factory.mktemp("huge") / "a.jsonl"

    @given(before=OTHERS, text=st.none() | TEXTS, behind=OTHERS, ascii=st.booleans(), space=st.booleans())  # fmt: skip
    def check(before, text, behind, ascii, space):
        record = before | {"text": text} | behind
        separators = (" ,\t", " : ") if space else (",", ":")
        line = json.dumps(record, ensure_ascii=ascii, separators=separators)
        path.write_bytes(line.encode() + b"\n" + b'{"text": "next"}')
        assert documents_of(path) == [*([text] if text else []), "next"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "HUGE_RECORD", 0)
        check()


@pytest.mark.parametrize("ascii", [True, False])
def test_no_character_of_a_huge_record_is_cut_through(tmp_path, monkeypatch, ascii):
    monkeypatch.setattr(records, "HUGE_RECORD", 1000)
    path = tmp_path / "a.jsonl"
    for shift in range(13):
        text = "x" * shift + 'ä漢🙂\n"é' * 20_000
        path.write_text(json.dumps({"text": text}, ensure_ascii=ascii))
        assert documents_of(path) == [text]


def test_a_huge_record_that_breaks_off_anywhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "HUGE_RECORD", 0)
    path = tmp_path / "a.jsonl"
    line = r'{"id": {"text": [1, "no"]}, "text": "a\ud83d\ude42\n\\", "n": null}'
    path.write_text(line)
    assert documents_of(path) == ["a🙂\n\\"]
    for length in range(1, len(line)):
        path.write_text(line[:length])
        with pytest.raises(UserError, match="line 1"):
            documents_of(path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "a"} {', "is not JSON"),
        (r'{"text": "a\x"}', "is not JSON"),
        (r'{"text": "a\u12"}', "is not JSON"),
        ('{"text": "a\tb"}', "is not JSON"),
        (r'{"\x": 1, "text": "a"}', "is not JSON"),
        ('["text", "a"]', "holds no JSON object"),
        ('{"body": "text", "id": {"text": "a"}}', r"no field 'text' \(it has body, id\); .*--field"),
        ('{"text": 3}', "the field 'text' is no text"),
        ('{"text": ["a"]}', "the field 'text' is no text"),
    ],
)  # fmt: skip
def test_a_broken_huge_record_is_refused_in_one_sentence(tmp_path, monkeypatch, line, sentence):
    monkeypatch.setattr(records, "HUGE_RECORD", 0)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "first"}\n' + line)
    with pytest.raises(UserError, match=rf"line 2.*{sentence}"):
        documents_of(path)


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_a_huge_value_of_parquet_is_decoded_in_parts(tmp_path, monkeypatch, errors):
    monkeypatch.setattr(records, "HUGE_RECORD", 50)
    monkeypatch.setattr(records, "BLOCK", 7)
    texts = ["short", "ä漢🙂 " * 20, "", "plain " * 30]
    (tmp_path / "a.parquet").write_bytes(as_parquet({"text": texts}))
    found = documents_of(tmp_path / "a.parquet", errors=errors)
    assert found == [text for text in texts if text]


def test_a_long_line_of_csv_that_comes_in_many_blocks_is_one_record(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK", 5)
    text = "a long, long\ntext " * 9
    (tmp_path / "a.csv").write_text(f'id,text\n1,"{text}"\n2,end')
    assert documents_of(tmp_path / "a.csv") == [text, "end"]
