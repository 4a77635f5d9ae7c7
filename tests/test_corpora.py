import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import sys
from itertools import islice
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from minigpt.cli.data import prepare
from minigpt.cli.settings import DATA
from minigpt.config import DataConfig
from minigpt.data import corpora, sources
from minigpt.data.corpora import Download, open_source, read_pieces, reopen
from minigpt.data.decoding import Reading
from minigpt.errors import UserError

from .test_download import deaf, serving
from .test_formats import joined


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    """A cache that is empty, also for the files of `datasets`, and a working folder."""
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def data_set(own_folders):
    """A data set as the Hub has them: three Parquet files to train on, in row groups of two, and one to test."""
    folder = own_folders / "set"
    folder.mkdir()
    for number in range(3):
        texts = [f"document {number}.{row}" for row in range(5)]
        table = pyarrow.table({"id": range(5), "text": texts, "body": [t.upper() for t in texts]})
        pyarrow.parquet.write_table(table, folder / f"train-{number}.parquet", row_group_size=2)
    pyarrow.parquet.write_table(table, folder / "test-0.parquet")
    return folder


def documents_of(name, reading=None, **how) -> list[str]:
    return joined(read_pieces(open_source(str(name), reading, **how)))


# ------------------------------------------------------------------------------------------------- files and folders


def test_a_file_is_a_source_by_its_path(own_folders, monkeypatch):
    for name, text in (("a.txt", "text"), ("shakespeare", "a file goes before the name")):
        (own_folders / "work" / name).write_text(text)
        assert documents_of(name) == [text]
        assert open_source(name).name == name
    monkeypatch.setenv("HOME", str(own_folders / "work"))
    monkeypatch.setenv("USERPROFILE", str(own_folders / "work"))
    assert documents_of(os.path.join("~", "a.txt")) == ["text"]


def test_a_folder_is_read_in_the_order_of_its_paths_and_leaves_out_what_is_not_text(tmp_path):
    for name in (".git", ".hidden", "sub", "sub/.more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.md").write_text(name)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "b"}\n{"text": "bb"}'))
    (tmp_path / "a.py").write_text("a")
    (tmp_path / ".b.txt").write_text("hidden")
    for name in ("image.png", "sub/x.bin"):
        (tmp_path / name).write_bytes(b"\x89PNG\0\0")
    source = open_source(str(tmp_path))
    assert joined(read_pieces(source)) == ["a", "b", "bb", "sub"]
    assert source.notes == ["left out 2 of 5 files that are not text (image.png, x.bin)"]
    (tmp_path / "sub" / "y.gz").write_bytes(gzip.compress(b"\0"))
    (tmp_path / "sub" / "z").write_bytes(b"\0")
    (note,) = open_source(str(tmp_path)).notes
    assert note == "left out 4 of 7 files that are not text (image.png, x.bin, y.gz, …)"


def test_a_folder_has_parts_unless_it_is_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 10)
    for name in "abcde":
        (tmp_path / f"{name}.txt").write_text(name * 5)
    assert open_source(str(tmp_path)).parts == 3
    assert open_source(str(tmp_path), together=True).parts == 1
    assert documents_of(tmp_path) == documents_of(tmp_path, together=True)


def test_how_files_are_read_is_passed_on(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "a\xff"}')
    reading = Reading(field="body", errors="replace")
    assert (
        documents_of(tmp_path, reading)
        == documents_of(tmp_path / "a.jsonl", reading)
        == ["a\ufffd"]
    )


@pytest.mark.parametrize("name", ["a.txt", ".", "-"])
def test_what_was_described_is_opened_again(own_folders, monkeypatch, name):
    (own_folders / "work" / "a.txt").write_text("Grüße")
    (own_folders / "work" / "b.jsonl").write_text('{"body": "b"}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    reading = Reading(field="body")
    source = open_source(name, reading)
    described = json.loads(json.dumps(source.describe()))
    monkeypatch.chdir(own_folders)
    again = reopen(described, reading)
    assert again.name == source.name
    monkeypatch.chdir(own_folders / "work")
    assert joined(read_pieces(again)) == joined(read_pieces(source)) != []
    assert again.identity() == source.identity()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.txt", r"there is no text at 'none\.txt'; pass a text file"),
        ("python-doc", "did you mean 'python-docs'"),
        ("Shakespear", "did you mean 'shakespeare'"),
        ("", "there is no text at ''"),
        (" ", "there is no text at ' '"),
        ("ü" * 200, "there is no text at"),
        ("a/" * 3000, "there is no text at"),
        ("a\0b", "there is no text at"),
        ("~nobody/a.txt", "there is no text at"),
        ("hf:", "hf: names no data set; pass hf:OWNER/NAME"),
    ],
)
@pytest.mark.usefixtures("own_folders")
def test_what_is_not_there_is_refused(name, sentence):
    with pytest.raises(UserError, match=sentence):
        open_source(name)


def test_a_folder_without_a_text_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\0")
    with pytest.raises(UserError, match="holds no text file"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [b"no such thing", gzip.compress(b"text " * 99, mtime=0)[:-20], gzip.compress(b"text", mtime=0)[:10] + b"\xff" * 9],
)  # fmt: skip
def test_a_damaged_file_in_a_folder_is_named(tmp_path, content):
    (tmp_path / "a.txt.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt\.gz"):
        open_source(str(tmp_path))


# --------------------------------------------------------------------------------------------------- standard input


def test_standard_input_is_kept_until_it_is_discarded(own_folders, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Grüße<|endoftext|>b".encode())))
    source = open_source("-")
    for _ in range(2):
        assert joined(read_pieces(source)) == ["Grüße", "b"]
    assert source.name == "standard input"
    (kept,) = (own_folders / "cache" / "standard-input").iterdir()
    assert source.files == [kept]
    source.discard()
    assert not kept.exists()


@pytest.mark.usefixtures("own_folders")
def test_the_same_standard_input_is_the_same_text(monkeypatch):
    identities = []
    for text in (b"one", b"one", b"two"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        identities.append(open_source("-").identity())
    assert identities[0] == identities[1] != identities[2]


# ------------------------------------------------------------------------------------------------------------- names


def test_python_docs_need_no_network_and_no_field():
    source = open_source("python-docs", Reading(field="body"))
    assert len(joined(read_pieces(source))) > 150
    assert source.name.startswith("python-docs (Python ")


def test_a_named_corpus_is_downloaded_once_and_checked(own_folders, monkeypatch):
    content = b"Shall I compare thee<|endoftext|>to a summer's day"
    sha256 = hashlib.sha256(content).hexdigest()
    with serving(content) as (url, asked):
        monkeypatch.setitem(corpora.NAMED, "sonnets", Download(url, sha256))
        for _ in range(2):
            source = open_source("sonnets")
            assert joined(read_pieces(source)) == ["Shall I compare thee", "to a summer's day"]
        assert len(asked) == 1
    assert source.name == "sonnets"
    assert source.files == [own_folders / "cache" / "corpora" / "sonnets.txt"]


def unreachable(monkeypatch, url, sha256="") -> str:
    monkeypatch.setitem(corpora.NAMED, "sonnets", Download(url, sha256))
    with pytest.raises(UserError) as refusal:
        open_source("sonnets")
    message = str(refusal.value)
    assert message.endswith("; pass a local copy of the file instead of the name sonnets")
    return message


@pytest.mark.usefixtures("own_folders")
def test_a_corpus_that_does_not_come_says_how_to_pass_a_copy(monkeypatch):
    with serving(b"another text") as (url, _):
        assert "is not the file that it was" in unreachable(monkeypatch, url, "0" * 64)
    with serving(b"half of", promised=99) as (url, _):
        assert "broke off after 7 of 99 bytes" in unreachable(monkeypatch, url)
    with deaf() as url:
        assert "could not be reached" in unreachable(monkeypatch, url)
    with serving(b"whole") as (url, _):
        monkeypatch.setitem(corpora.NAMED, "sonnets", Download(url))
        assert documents_of("sonnets") == ["whole"]


def test_every_name_is_of_a_known_kind():
    for known in corpora.NAMED.values():
        if isinstance(known, str):
            assert known.startswith(corpora.HUB)
        elif known is not None:
            assert known.url.startswith("https://")
            assert len(known.sha256) in (0, 64)


# --------------------------------------------------------------------------------------------------------------- hub


def test_a_data_set_has_a_part_for_each_shard_of_what_is_to_train_on(data_set):
    source = open_source(f"hf:{data_set}")
    wanted = [f"document {number}.{row}" for number in range(3) for row in range(5)]
    assert source.parts == 3
    assert joined(read_pieces(source)) == wanted
    assert documents_of(f"hf:{data_set}", Reading(field="body")) == [w.upper() for w in wanted]
    together = open_source(f"hf:{data_set}", together=True)
    assert together.parts == 1
    assert joined(read_pieces(together)) == wanted


@pytest.mark.parametrize("together", [False, True])
def test_from_any_bookmark_on_a_data_set_gives_exactly_the_rest(data_set, together):
    source = open_source(f"hf:{data_set}", together=together)
    part = source.parts - 1
    whole = list(source.read(part))
    assert len(whole) == (15 if together else 5)
    for count in range(len(whole) + 1):
        reader = source.read(part)
        with contextlib.closing(iter(reader)) as pieces:
            begun = list(islice(pieces, count))
            bookmark = json.loads(json.dumps(reader.bookmark()))
        assert begun + list(source.read(part, bookmark)) == whole
        described = reopen(json.loads(json.dumps(source.describe())), Reading())
        assert begun + list(described.read(part, bookmark)) == whole


def test_a_data_set_is_another_one_with_another_field_or_other_files(data_set):
    def identity(**how):
        return open_source(f"hf:{data_set}", Reading(**how)).identity()

    before = identity()
    assert identity() == before != identity(field="body")
    (data_set / "train-2.parquet").unlink()
    assert identity() != before


def test_a_data_set_with_nothing_to_train_on_is_read_all_the_same(data_set):
    for path in data_set.glob("train-*"):
        path.unlink()
    assert documents_of(f"hf:{data_set}") == [f"document 2.{row}" for row in range(5)]


def test_lines_of_json_are_a_data_set_too(own_folders):
    (own_folders / "work" / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "b"}\n')
    assert documents_of(f"hf:{own_folders / 'work'}") == ["a", "b"]


def test_a_field_that_a_data_set_has_not_is_refused(data_set):
    with pytest.raises(UserError, match=r"has no field 'x' \(it has id, text, body\); .*--field"):
        open_source(f"hf:{data_set}", Reading(field="x"))


def test_a_broken_shard_is_refused_when_its_turn_comes(data_set):
    (data_set / "train-1.parquet").write_bytes(b"PAR1" + bytes(30) + b"PAR1")
    source = open_source(f"hf:{data_set}")
    assert len(list(source.read(0))) == 5
    with pytest.raises(UserError, match=r"broke off: .*; run the same command again"):
        list(source.read(1))


@pytest.mark.parametrize("name", ["hf:nobody/nothing", "fineweb-edu", "hf:nobody/nothing:some"])  # fmt: skip
@pytest.mark.usefixtures("own_folders")
def test_a_data_set_that_cannot_be_reached_is_refused_in_one_sentence(name):
    sentence = r"^hf:.* could not be opened .*pass a local copy"
    with pytest.raises(UserError, match=sentence) as refusal:
        open_source(name)
    assert "\n" not in str(refusal.value)


def test_the_library_that_streams_is_named_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'minigpt\[data\]'"):
        open_source("hf:nobody/nothing")


def test_every_corpus_is_named_where_a_source_is_asked_for():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    source = next(item for item in dataclasses.fields(DataConfig) if item.name == "source")
    for name in corpora.NAMED:
        for said in (DATA.__metadata__[0].help, prepare.__doc__, source.metadata["doc"]):
            assert name in said
        assert f"`{name}`" in readme
