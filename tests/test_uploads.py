import asyncio
import dataclasses
import doctest
import io
import stat
import struct
import zipfile

import pytest
import torch

from minigpt.errors import UserError
from minigpt.serve import uploads
from minigpt.serve.uploads import Bounds, check_sizes, receive, unpack

SMALL = Bounds(bytes=4_000_000, beside_bytes=1000, unpacked_bytes=3_000_000, entries=50)


async def _chunks(data: bytes, size: int):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def received(folder, data: bytes, beside=None, chunk=7, bounds=SMALL) -> dict[str, bytes]:
    asyncio.run(receive(_chunks(data, chunk), beside or {}, folder, bounds))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def archive(entries, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of (name or ZipInfo, bytes)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return made.getvalue()


def unpacked(folder, data: bytes, bounds=SMALL) -> str:
    (folder / "weights").write_bytes(data)
    return unpack(folder, bounds)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


MODEL = [("run/config.json", b"{}"), ("run/model.safetensors", b"numbers")]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(uploads).failed == 0


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_a_body_becomes_files_of_fixed_names(tmp_path, chunk):
    beside = {"tokenizer.json": 3, "config.json": 5}
    found = received(tmp_path, b"abcdefghweights", beside, chunk)
    assert found == {"tokenizer.json": b"abc", "config.json": b"defgh", "weights": b"weights"}


def test_what_is_not_sent_beside_the_weights_is_not_there(tmp_path):
    assert received(tmp_path, b"weights", {"tokenizer.json": 0}) == {"weights": b"weights"}


@pytest.mark.parametrize(
    ("data", "beside"), [(b"", {}), (b"ab", {"tokenizer.json": 2}), (b"a", {"tokenizer.json": 9})]
)
def test_an_upload_that_ends_early_is_refused(tmp_path, data, beside):
    with pytest.raises(UserError, match="empty or ended early"):
        received(tmp_path, data, beside)


def test_a_body_is_not_read_beyond_the_bound(tmp_path):
    read = []

    async def endless():
        while True:
            read.append(1)
            yield b"x" * 1_000_000

    with pytest.raises(UserError, match=r"larger than 3\.81 MiB"):
        asyncio.run(receive(endless(), {}, tmp_path, SMALL))
    assert len(read) == 5


@pytest.mark.parametrize(
    ("body", "beside", "words"),
    [
        (5_000_000, {}, "larger than"),
        (100, {"config.json": 101}, "larger than the whole"),
        (None, {"config.json": 1001}, "at most 1000 bytes"),
        (100, {"config.json": -1}, "at most 1000 bytes"),
    ],
)
def test_sizes_are_refused_before_anything_is_read(body, beside, words):
    with pytest.raises(UserError, match=words):
        check_sizes(body, beside, SMALL)


def test_of_a_run_only_the_files_of_its_model_are_unpacked(tmp_path):
    more = [
        ("run/metrics.jsonl", b"x"), ("run/evil.py", b"x"), ("run/tokenizer.json", b"t"),
        ("run/checkpoints/step-00000001/config.json", b"old"), ("other/notes.txt", b"x"), ("run/", b""),
    ]  # fmt: skip
    assert unpacked(tmp_path, archive(MODEL + more)) == "directory"
    assert names(tmp_path) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (tmp_path / "config.json").read_bytes() == b"{}"


def test_a_checkpoint_of_pytorch_stays_as_it_is(tmp_path):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:  # torch.save names the folder after the file
        file.writestr("at 12:30/data.pkl", b"")
    assert unpacked(tmp_path, made.getvalue()) == "file"
    made = io.BytesIO()
    torch.save({"a": torch.ones(2)}, made)
    assert unpacked(tmp_path, made.getvalue()) == "file"
    assert names(tmp_path) == {"weights"}
    assert unpacked(tmp_path, b"anything else") == "file"


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted() -> bytes:
    data = bytearray(archive(MODEL))
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + place] |= 1
    return bytes(data)


def twice() -> bytes:
    data = archive([*MODEL, ("run/bonfig.json", b"{}")])
    return data.replace(b"run/bonfig.json", b"run/config.json")


def huge_contents() -> bytes:
    """Return an archive of which the table of contents alone is large."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for number in range(200):
            info = zipfile.ZipInfo(f"{number}")
            info.comment = b"x" * 60_000
            file.writestr(info, b"")
    return made.getvalue()


HOSTILE = {
    "a parent folder": (archive([*MODEL, ("../evil", b"x")]), "leads out of it"),
    "a parent folder inside": (archive([*MODEL, ("run/../../evil", b"x")]), "leads out of it"),
    "an absolute path": (archive([*MODEL, ("/tmp/evil", b"x")]), "leads out of it"),
    "a path of Windows": (archive([*MODEL, ("C:\\evil", b"x")]), "leads out of it"),
    "a link": (archive([*MODEL, (link("run/tokenizer.json"), b"/etc/passwd")]), "a link or a device"),
    "a bomb": (archive([*MODEL, ("run/x", bytes(3_000_001))]), "unpacks to 2.86 MiB"),
    "a bomb that is a checkpoint": (archive([("a/data.pkl", bytes(3_000_001))]), "unpacks to 2.86"),
    "a large tokenizer": (
        archive([*MODEL, ("run/tokenizer.json", bytes(1001))]), r"a tokenizer\.json of .* at most 1000 bytes"
    ),
    "many entries": (archive([(str(i), b"") for i in range(51)]), "has 51 entries"),
    "a large table of contents": (huge_contents(), "table of contents is too large"),
    "a password": (encrypted(), "encrypted"),
    "another compression": (archive(MODEL, zipfile.ZIP_LZMA), "deflate"),
    "the same name twice": (twice(), r"run/config\.json twice"),
    "no model": (archive([("notes.txt", b"x")]), r"no config\.json"),
    "an adapter": (archive([("a/adapter_config.json", b"{}")]), "an adapter without its base"),
    "an adapter beside a model": (archive([*MODEL, ("run/adapter_config.json", b"{}")]), "an adapter;"),
    "two models": (archive([("a/config.json", b""), ("b/config.json", b"")]), "2 models side by side"),
    "cut short": (archive(MODEL)[:-30], "cut short or damaged"),
    "an end without an archive": (b"PK" + bytes(50), "cut short or damaged"),
    "a damaged entry": (archive(MODEL).replace(b"PK\x03\x04", b"PK\x03\x05"), "cut short or damaged"),
    "another checksum": (
        archive(MODEL, zipfile.ZIP_STORED).replace(b"numbers", b"numberz"), "cut short or damaged"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_or_damaged_archive_is_refused_and_writes_nothing_elsewhere(tmp_path, case):
    data, words = HOSTILE[case]
    folder = tmp_path / "a" / "private"
    folder.mkdir(parents=True)
    entries = 250 if "table" in case else 50
    bounds = dataclasses.replace(SMALL, bytes=20_000_000, entries=entries)
    with pytest.raises(UserError, match=words):
        unpacked(folder, data, bounds)
    assert names(tmp_path) == {"a"}
    assert names(tmp_path / "a") == {"private"}
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_an_entry_that_lies_about_its_size_is_not_unpacked_beyond_it(tmp_path):
    data = archive([("config.json", b"{}"), ("model.safetensors", bytes(1_000_000))])
    said = data.rindex(b"PK\x01\x02") + 24
    lying = data[:said] + struct.pack("<I", 10) + data[said + 4 :]
    with pytest.raises(UserError, match="cut short or damaged"):
        unpacked(tmp_path, lying)
    assert all(path.stat().st_size <= len(lying) for path in tmp_path.iterdir())


def test_an_archive_and_a_file_beside_it_of_one_name_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b"sent beside")
    with pytest.raises(UserError, match="sent beside it as well"):
        unpacked(tmp_path, archive(MODEL))
