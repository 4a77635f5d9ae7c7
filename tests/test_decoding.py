import gzip

import pytest

from minigpt.data import decoding
from minigpt.errors import UserError
from minigpt.tokenizer.patterns import END_OF_TEXT

from .test_formats import PACKINGS, as_csv, documents_of

NOT_UTF8 = {  # {content: where it breaks}
    b"abc\xff": 3,
    b"\xef\xbb\xbfab\xff": 5,
    b"0123456789\xe6\xbcx": 10,
    b"0123456789\xf0\x9f\x99": 10,
    "漢字🙂".encode() + b"\x80\xff": 10,
    b"one<|endoftext|>two\r\n\xed\xa0\x80": 21,
}


@pytest.mark.parametrize("content", NOT_UTF8)
def test_what_is_not_utf8_is_refused_with_its_place_in_whichever_block(tmp_path, monkeypatch, content):  # fmt: skip
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    place = NOT_UTF8[content]
    for size in (1 << 20, *range(3, 15)):
        monkeypatch.setattr(decoding, "BLOCK", size)
        with pytest.raises(UserError, match=rf"a.txt is not UTF-8: byte {place} is 0x.*replace"):
            documents_of(tmp_path / "a.txt")
        with pytest.raises(UserError, match=f"byte {place} of its unpacked content is"):
            documents_of(tmp_path / "a.txt.gz")
        replaced = content.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
        wanted = [d.replace("\r\n", "\n") for d in replaced.split(END_OF_TEXT)]
        assert documents_of(tmp_path / "a.txt", errors="replace") == wanted


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", [".txt", ".csv"])
def test_where_a_block_ends_changes_nothing(tmp_path, monkeypatch, format, packing):
    rows = [["text"], ["one\r\ntwo\rthree"], ["漢字🙂é\r\n"], ["\r"]]
    text = END_OF_TEXT.join(row[0] for row in rows[1:])
    content = text.encode() if format == ".txt" else as_csv(rows)
    path = tmp_path / f"a{format}{packing}"
    path.write_bytes(PACKINGS[packing](b"\xef\xbb\xbf" + content))
    for size in (1 << 20, *range(3, 30)):
        monkeypatch.setattr(decoding, "BLOCK", size)
        assert documents_of(path) == ["one\ntwo\rthree", "漢字🙂é\n", "\r"], size
