import io

import pytest

from minigpt.data.corpora import read_corpus
from minigpt.errors import UserError


def test_a_file_is_one_document_unless_it_is_cut(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert read_corpus(str(path)).documents == ["one\ntwo\n"]
    path.write_text("one<|endoftext|>two<|endoftext|>")
    assert read_corpus(str(path)).documents == ["one", "two"]


def test_a_folder_is_read_in_the_order_of_its_paths_and_leaves_out_what_is_not_text(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.md").write_text("c")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.py").write_text("a")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".hidden").write_text("x")
    corpus = read_corpus(str(tmp_path))
    assert corpus.documents == ["a", "b", "c"]
    assert corpus.notes == ["left out 1 of 4 files that are not UTF-8 text (image.png)"]


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Grüße".encode())))
    assert read_corpus("-").documents == ["Grüße"]


def test_line_ends_and_byte_order_mark_are_made_one(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_corpus(str(tmp_path / "a.txt")).documents == ["a\nb"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no text"),
        (b" \n ", "holds no text"),
        (b"abc\0def", "is a binary file"),
        (b"abc\xff", "is not UTF-8: byte 3 is 0xff"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, sentence):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_corpus(str(path))


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no text at"):
        read_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="did you mean 'python-docs'"):
        read_corpus("python-doc")
    with pytest.raises(UserError, match="holds no text file"):
        read_corpus(str(tmp_path))


def test_python_docs_need_no_network_and_are_kept():
    corpus = read_corpus("python-docs")
    assert len(corpus.documents) > 150
    assert any("JSON" in document and "dumps(" in document for document in corpus.documents)
    assert read_corpus("python-docs") == corpus
