import json
import os
from itertools import islice

import datasets
import pytest

from minigpt.data import sources
from minigpt.data.decoding import Reading
from minigpt.data.sources import FileSource, HubReader, HubSource, grouped
from minigpt.errors import UserError, first_line
from minigpt.tokenizer import cutting
from minigpt.tokenizer.patterns import END_OF_TEXT

from .test_formats import joined

LONG = "The cat sat on a mat, under a tall tree. " * 3


@pytest.fixture
def files(tmp_path):
    """Two files of three documents, of which one is long."""
    (tmp_path / "a.txt").write_text(f"first{END_OF_TEXT}{LONG}")
    (tmp_path / "b.jsonl").write_text('{"text": "last"}\n')
    return [tmp_path / "a.txt", tmp_path / "b.jsonl"]


def hub(texts, parts=1) -> HubSource:
    dataset = datasets.Dataset.from_list([{"text": text} for text in texts])
    return HubSource("a name", dataset.to_iterable_dataset(parts), "key", Reading(), parts)


def some(reader, count):
    """Return the first pieces of a reader, and its bookmark behind them."""
    pieces = iter(reader)
    found = list(islice(pieces, count))
    bookmark = reader.bookmark()
    pieces.close()
    return found, json.loads(json.dumps(bookmark))


# ------------------------------------------------------------------------------------------------------------- files


def test_from_any_bookmark_on_files_give_exactly_the_rest(files, monkeypatch):
    monkeypatch.setattr(cutting, "PIECE", 8)
    source = FileSource("a name", [files], Reading())
    whole = list(source.read(0))
    assert joined(whole) == ["first", LONG, "last"]
    assert len(whole) > 15
    for count in range(len(whole) + 1):
        begun, bookmark = some(source.read(0), count)
        assert begun + list(source.read(0, bookmark)) == whole
        again, later = some(source.read(0, bookmark), 3)
        assert begun + again + list(source.read(0, later)) == whole


def test_each_part_has_its_own_files(files):
    source = FileSource("a name", [[path] for path in files], Reading())
    assert source.parts == 2
    assert source.files == files
    assert source.size == sum(len(path.read_bytes()) for path in files)
    assert joined(source.read(0)) == ["first", LONG]
    assert joined(source.read(1)) == ["last"]


def test_small_files_are_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 10)
    paths = []
    for number, length in enumerate([4, 6, 1, 12, 3, 0, 7, 10]):
        paths.append(tmp_path / f"{number}.txt")
        paths[-1].write_text("x" * length)
    names = [[int(path.stem) for path in group] for group in grouped(paths)]
    assert names == [[0, 1], [2], [3], [4, 5, 6], [7]]
    assert grouped(paths, together=True) == [paths]


def test_the_same_content_is_the_same_text_whatever_it_is_called(files, tmp_path):
    def identity(*paths, groups=None):
        return FileSource("x", groups or [list(paths)], Reading()).identity()

    a, b = files
    copy, other_format, changed = tmp_path / "c.md", tmp_path / "c.csv", tmp_path / "d.txt"
    copy.write_bytes(a.read_bytes())
    other_format.write_bytes(a.read_bytes())
    changed.write_bytes(a.read_bytes() + b"\n")
    assert identity(a, b) == identity(copy, b) == identity(groups=[[a], [b]])
    others = [(changed, b), (other_format, b), (b, a), (a,), (a, b, a)]
    assert len({identity(a, b), *(identity(*paths) for paths in others)}) == 6


def test_only_copies_of_our_own_are_removed(files):
    FileSource("x", [files], Reading()).discard()
    assert all(path.is_file() for path in files)
    copies = FileSource("x", [files], Reading(), temporary=True)
    copies.discard()
    copies.discard()
    assert not any(path.exists() for path in files)


def test_files_are_described_by_where_they_are(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    relative = [path.relative_to(files[0].parent) for path in files]
    described = FileSource("a name", [relative], Reading()).describe()
    assert described == {"files": [[str(path) for path in files]], "name": "a name"}
    assert all(os.path.isabs(path) for path in described["files"][0])


# --------------------------------------------------------------------------------------------------------------- hub


@pytest.mark.parametrize("parts", [1, 3])
def test_from_any_bookmark_on_a_data_set_gives_exactly_the_rest(parts):
    source = hub([f"document {number}" for number in range(10)], parts)
    read = []
    for part in range(parts):
        whole = list(source.read(part))
        read += joined(whole)
        for count in range(len(whole) + 1):
            begun, bookmark = some(source.read(part), count)
            assert begun + list(source.read(part, bookmark)) == whole
            assert list(source.read(part)) == whole  # the bookmark has stayed with its reader
    assert sorted(read) == sorted(f"document {number}" for number in range(10))


def test_there_is_no_bookmark_in_the_middle_of_a_document(monkeypatch):
    monkeypatch.setattr(cutting, "PIECE", 8)
    source = hub(["first", LONG, None, "", "last"])
    whole = list(source.read(0))
    assert joined(whole) == ["first", LONG, "last"]
    for count in range(len(whole) + 1):
        begun, bookmark = some(source.read(0), count)
        inside = 1 < count < len(whole) - 1
        assert (bookmark is None) == inside
        if not inside:
            assert begun + list(source.read(0, bookmark)) == whole


def test_a_field_that_is_no_text_is_refused():
    with pytest.raises(UserError, match="a name: the field 'text' is of type int; wanted text"):
        list(hub([1, 2]).read(0))


@pytest.mark.parametrize("error", [OSError("gone\nfar"), RuntimeError("gone"), ValueError(" \n")])
def test_a_line_that_is_lost_says_how_to_go_on(error):
    def broken():
        yield {"text": "a"}
        raise error

    pieces = iter(HubReader(broken(), "a name", Reading()))
    assert next(pieces) == (True, "a")
    sentence = r"^a name broke off: (gone|ValueError); run the same command again to go on from here$"  # fmt: skip
    with pytest.raises(UserError, match=sentence):
        next(pieces)


def test_a_data_set_is_known_by_its_key_and_described_by_its_name():
    one, same, other = hub(["a"]), hub(["b"]), hub(["a"])
    other.key = "other"
    assert one.identity() == same.identity() != other.identity()
    assert one.describe() == {"hub": "a name", "together": True}
    assert hub(["a", "b"], 2).describe() == {"hub": "a name", "together": False}
    one.discard()
    assert joined(one.read(0)) == ["a"]


def test_an_error_is_told_in_one_line():
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(TimeoutError()) == "TimeoutError"


def test_the_line_of_an_error_may_be_shown_on_a_terminal_whatever_it_quotes():
    assert first_line(ValueError("a \x1b[31mred ü")) == r"a \x1b[31mred ü"
    assert len(first_line(ValueError("a" * 10_000))) == 401
