import csv
import gzip
import io
import json
import sys

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from minigpt.data.decoding import Reading
from minigpt.data.formats import as_pieces, format_of, is_binary, read_file
from minigpt.errors import UserError
from minigpt.tokenizer import cutting
from minigpt.tokenizer.patterns import END_OF_TEXT

DOCUMENTS = ["Grüße 🙂\nund Küsse", " ", "漢字\n\n", 'a "b", c\td\\n e', "x" * 50, "{}"]


def joined(pieces) -> list[str]:
    """Return whole documents."""
    documents = []
    for begins, text in pieces:
        if begins:
            documents.append(text)
        else:
            documents[-1] += text
    return documents


def documents_of(path, **how) -> list[str]:
    return joined(read_file(path, Reading(**how)))


def as_csv(rows) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def as_parquet(table) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), file, row_group_size=2)
    return file.getvalue()


def as_lines(documents) -> bytes:
    lines = [json.dumps({"id": 1, "text": d}, ensure_ascii=n % 2 == 0) for n, d in enumerate(documents)]  # fmt: skip
    return "\n".join(lines).encode()


FORMATS = {
    ".txt": lambda documents: END_OF_TEXT.join(documents).encode(),
    "": lambda documents: "".join(d + END_OF_TEXT for d in documents).encode(),
    ".jsonl": as_lines,
    ".ndjson": lambda documents: as_lines(documents).replace(b"\n", b"\r\n\n") + b"\n",
    ".csv": lambda documents: as_csv([["id", "text"], *([1, d] for d in documents)]),
    ".parquet": lambda documents: as_parquet({"id": [1] * len(documents), "text": documents}),
}
PACKINGS = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:]),
    ".zst": lambda content: b"".join(
        zstandard.compress(part) for part in (content[:9], b"", content[9:99], content[99:])
    ),
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_documents_however_it_is_packed(tmp_path, format, packing):
    path = tmp_path / f"a{format}{packing.upper()}"
    path.write_bytes(PACKINGS[packing](FORMATS[format](DOCUMENTS)))
    assert documents_of(path) == DOCUMENTS


def test_a_token_that_never_ends_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one<|endoftext" + END_OF_TEXT + "<|endof|>" + END_OF_TEXT * 2)
    assert documents_of(path) == ["one<|endoftext", "<|endof|>"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_mark_of_the_byte_order_is_no_part_of_the_first_record(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + FORMATS[path.suffix](["a"]))
    assert documents_of(path) == ["a"]
    path.write_bytes(b"\xef\xbb\xbf")
    assert documents_of(path) == []


def test_the_name_says_the_format_whatever_packs_it(tmp_path):
    formats_of = {
        "a": ".txt", "a.md": ".txt", "a.json": ".txt", "a.txt.gz": ".txt", "a.JSONL": ".jsonl",
        "a.ndjson.zst": ".jsonl", "a.b.csv.gz": ".csv", "a.parquet": ".parquet", "jsonl": ".txt", "a.gz": ".txt",
    }  # fmt: skip
    assert {name: format_of(tmp_path / name) for name in formats_of} == formats_of


def test_only_a_file_that_is_read_as_text_can_be_binary(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\x89PNG\0"))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "a.parquet").write_bytes(as_parquet({"text": ["a"]}))
    binary = {path.name for path in tmp_path.iterdir() if is_binary(path)}
    assert binary == {"a.png", "a.gz"}


# ------------------------------------------------------------------------------------------------------------ pieces


def test_pieces_are_bounded_cut_alike_from_any_blocks_and_only_the_first_begins(monkeypatch):
    monkeypatch.setattr(cutting, "PIECE", 8)
    text = "The cat sat on a mat, under an uncommonly tall tree."
    whole = list(as_pieces([(True, "short"), (True, text), (True, ""), (True, "end")]))
    assert [begins for begins, _ in whole] == [True, True] + [False] * (len(whole) - 3) + [True]
    assert len(whole) > 8
    assert max(len(piece) for _, piece in whole) <= 8
    assert joined(whole) == ["short", text, "end"]
    for size in range(1, 20):
        blocks = [(place == 0, text[place : place + size]) for place in range(0, len(text), size)]
        assert list(as_pieces([(True, "short"), *blocks, (True, "end")])) == whole


@pytest.mark.parametrize("format", FORMATS)
def test_a_long_document_of_any_format_comes_in_pieces(tmp_path, monkeypatch, format):
    monkeypatch.setattr(cutting, "PIECE", 8)
    path = tmp_path / f"a{format}"
    path.write_bytes(FORMATS[format](DOCUMENTS))
    pieces = list(read_file(path, Reading()))
    assert max(len(text) for _, text in pieces) <= 8
    assert joined(pieces) == DOCUMENTS


def test_empty_documents_are_none(tmp_path):
    contents = {
        "a.txt": END_OF_TEXT * 3 + "a" + END_OF_TEXT * 2,
        "b.jsonl": '{"text": ""}\n{"text": null}\n  \n{"text": "b"}\n',
        "c.csv": 'text,id\n"",1\n\nc,2\n',
        "empty.txt": "",
        "empty.csv": "",
        "empty.jsonl": "\n\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "d.parquet").write_bytes(as_parquet({"text": [None, "", "d"]}))
    found = {path.name: documents_of(path) for path in tmp_path.iterdir()}
    assert found == {
        name: [] if "empty" in name else [name[0]] for name in [*contents, "d.parquet"]
    }


# ------------------------------------------------------------------------------------------------------------ damage

CHECKED = zstandard.ZstdCompressor(write_checksum=True)
BROKEN = [
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("a.jsonl", b'["a"]', "line 1 holds a JSON list; wanted an object"),
    ("a.jsonl", b'{"body": "a", "id": 3}', r"line 1 has no field 'text' \(it has body, id\); .*--field"),
    ("a.jsonl", b"{}", r"no field 'text' \(it has none\)"),
    ("a.jsonl", b'{"text": ["a"]}', "line 1: the field 'text' is of type list; wanted text"),
    ("a.csv", b"id,body\n1,a\n", r"no field 'text' \(it has id, body\); .*--field"),
    ("a.csv", b'id,text\n1,"a\nb"\n2\n', "line 4 has 1 columns, but 'text' is column 2"),
    ("a.csv", b'text\n"a', "line 2 is not CSV"),
    ("a.csv", b'text\n"a" b\n', "line 2 is not CSV"),
    ("a.parquet", as_parquet({"body": ["a"]}), r"no field 'text' \(it has body\); .*--field"),
    ("a.parquet", as_parquet({"text": ["a", None], "n": [1, 2]})[:-20], "no whole Parquet file"),
    ("a.parquet", as_parquet({"text": [None, 3]}), "row 2: the field 'text' is of type int"),
    ("a.parquet", b"", "no whole Parquet file"),
    ("a.parquet", b"no such thing", "no whole Parquet file"),
    ("a.parquet", b"PAR1" + bytes(60) + b"PAR1", "a.parquet cannot be read: "),
    ("a.parquet.gz", gzip.compress(b"no such thing", mtime=0), "no whole Parquet file"),
    ("a.txt.gz", b"no such thing", r"is damaged \(Not a gzipped file"),
    ("a.txt.gz", gzip.compress(b"text " * 99, mtime=0)[:-9], "is damaged"),
    ("a.txt.gz", gzip.compress(b"text " * 99, mtime=0)[:-8] + bytes(8), "is damaged"),
    ("a.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 99, "is damaged"),
    ("a.txt.zst", b"no such thing", "is damaged"),
    ("a.txt.zst", zstandard.compress(b"text " * 99)[:-1], r"is damaged \(it breaks off\)"),
    ("a.txt.zst", zstandard.compress(b"text") + b"\x28\xb5", r"is damaged \(it breaks off\)"),
    ("a.jsonl.zst", CHECKED.compress(b"text " * 99)[:-4] + bytes(4), "is damaged"),
    ("a.txt", b"abc\0def", "is a binary file"),
    ("a.txt.gz", gzip.compress(b"abc\0def", mtime=0), "is a binary file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "sentence"), BROKEN)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as refusal:
        documents_of(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_has_gone_or_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="has gone"):
        documents_of(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        documents_of(tmp_path)


@pytest.mark.parametrize(("library", "name"), [("zstandard", "a.zst"), ("pyarrow", "a.parquet")])
def test_a_library_that_is_missing_is_named_by_its_extra(tmp_path, monkeypatch, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(UserError, match=r"pip install 'minigpt\[data\]'"):
        documents_of(tmp_path / name)
