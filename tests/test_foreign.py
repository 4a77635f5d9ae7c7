import numpy as np
import pytest

from minigpt.data.foreign import foreign_files, open_foreign
from minigpt.errors import UserError


def opened(*files, vocab_size=300, dtype="", val_fraction=0.25):
    return open_foreign(list(files), vocab_size=vocab_size, dtype=dtype, val_fraction=val_fraction)


def llm_c(path, ids, *, magic=20240520, version=1, count=None, dtype="<u2"):
    """Write a file as llm.c has them: 256 int32 of header, then the ids."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())
    return path


def npy(path, ids, dtype="<u2"):
    np.save(path, np.array(ids, dtype))
    return path


def raw(path, ids, dtype="<u2"):
    path.write_bytes(np.array(ids, dtype).tobytes())
    return path


def test_every_kind_of_file_gives_its_ids(tmp_path):
    ids = [5, 0, 299, 7]
    files = [
        npy(tmp_path / "a.npy", ids),
        npy(tmp_path / "b.npy", ids, ">i8"),
        llm_c(tmp_path / "c.bin", ids),
        llm_c(tmp_path / "d.bin", ids, magic=20240801, version=7, dtype="<u4"),
        raw(tmp_path / "e.bin", ids),
    ]
    for file in files:
        found = opened(file, dtype="uint16")
        assert (found.train[:].tolist(), found.val[:].tolist()) == ([5, 0, 299], [7])
    found = opened(raw(tmp_path / "f.bin", ids, "<u4"), dtype="uint32")
    assert found.train[:].tolist() == [5, 0, 299]


def test_files_are_read_where_they_lie(tmp_path):
    for file in (npy(tmp_path / "a.npy", range(8)), llm_c(tmp_path / "a.bin", range(8))):
        assert isinstance(opened(file).train[:6], np.memmap)


def test_what_is_called_val_is_held_out(tmp_path):
    files = [
        npy(tmp_path / "fineweb_train_000001.npy", [1, 2, 3]),
        npy(tmp_path / "fineweb_train_000002.npy", [4]),
        npy(tmp_path / "fineweb_val_000000.npy", [5, 6]),
    ]
    found = opened(*files)
    assert (found.train[:].tolist(), found.val[:].tolist()) == ([1, 2, 3, 4], [5, 6])


def test_held_out_files_alone_leave_nothing_to_train_on(tmp_path):
    with pytest.raises(
        UserError, match=r"corpus_val\.npy is held out by its name, and there is nothing"
    ):
        opened(npy(tmp_path / "corpus_val.npy", range(8)))
    assert len(opened(npy(tmp_path / "interval.npy", range(8))).train) == 6


def test_else_the_last_share_of_all_ids_is_held_out_across_files(tmp_path):
    files = [npy(tmp_path / f"{n}.npy", range(4 * n, 4 * n + 4)) for n in range(3)]
    for fraction, kept in ((0.25, 9), (0.5, 6), (0.1, 10), (1 / 3, 8), (0.75, 3), (5 / 6, 2)):
        found = opened(*files, val_fraction=fraction)
        assert found.train[:].tolist() == list(range(kept))
        assert found.val[:].tolist() == list(range(kept, 12))


BROKEN = [
    ("a.bin", lambda p: raw(p, [1, 2]), "", r"no header .* pass --data\.token-dtype uint16"),
    ("a.bin", lambda p: p.write_bytes(bytes(5)), "uint16", "has 5 bytes, which are no whole uint16"),
    ("a.bin", lambda p: p.write_bytes(bytes(6)), "uint32", "has 6 bytes, which are no whole uint32"),
    ("a.bin", lambda p: p.write_bytes(b""), "uint16", "has 0 bytes"),
    ("a.bin", lambda p: llm_c(p, [1, 2], count=3), "", "wanted version 1 and the 1030 bytes of the 3 ids"),
    ("a.bin", lambda p: llm_c(p, [1, 2], count=1), "uint16", "1028 bytes; wanted .* the 1026 bytes"),
    ("a.bin", lambda p: llm_c(p, [1, 2], count=-1), "", "wanted version 1 and the 1022 bytes"),
    ("a.bin", lambda p: llm_c(p, [1, 2], version=2), "", "has version 2 .* wanted version 1"),
    ("a.bin", lambda p: llm_c(p, [1, 300]), "", "holds the id 300, but the tokenizer has 300 ids"),
    ("a.bin", lambda p: raw(p, [1, 2]), "uint32", "holds the id 131073, .* --data.token-dtype"),
    ("a.npy", lambda p: npy(p, [[1, 2]]), "", r"shape \(1, 2\) and type uint16; wanted one row"),
    ("a.npy", lambda p: npy(p, 3), "", r"shape \(\) and type uint16"),
    ("a.npy", lambda p: npy(p, [1.5], "<f4"), "", "type float32; wanted one row of whole numbers"),
    ("a.npy", lambda p: npy(p, [1, -1], "<i4"), "", "holds the id -1"),
    ("a.npy", lambda p: npy(p, [1, 300]), "", "holds the id 300"),
    ("a.npy", lambda p: np.save(p, np.array([{}], object)), "", "cannot be read as token ids: .*Python objects"),
    ("a.npy", lambda p: p.write_bytes(npy(p, range(9)).read_bytes()[:-2]), "", "cannot be read as token ids"),
    ("a.npy", lambda p: p.write_bytes(b"no such thing"), "", "cannot be read as token ids"),
    ("a.npy", lambda p: p.write_bytes(b"PK\3\4 an archive"), "", "cannot be read as token ids"),
    ("a.npy", lambda p: p.write_bytes(b""), "", "cannot be read as token ids"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "dtype", "sentence"), BROKEN)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, name, write, dtype, sentence):
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError, match=sentence) as refusal:
        opened(path, dtype=dtype)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_fingerprint_changes_with_all_that_decides_the_ids(tmp_path):
    (tmp_path / "other").mkdir()
    same = [
        opened(npy(tmp_path / "a.npy", [1, 2, 3, 4])),
        opened(npy(tmp_path / "other" / "a.npy", [1, 2, 3, 4])),
    ]
    others = [
        opened(npy(tmp_path / "a.npy", [1, 2, 3, 5])),
        opened(npy(tmp_path / "a.npy", [1, 2, 3, 4]), val_fraction=0.5),
        opened(npy(tmp_path / "c.npy", [1, 2, 3, 4])),
        opened(npy(tmp_path / "a.npy", [1, 2]), npy(tmp_path / "b.npy", [3, 4])),
        opened(raw(tmp_path / "a.bin", [1, 2, 3, 4]), dtype="uint16"),
        opened(raw(tmp_path / "a.bin", [1, 0, 2, 0]), dtype="uint16"),
        opened(tmp_path / "a.bin", dtype="uint32"),
    ]
    assert same[0].fingerprint == same[1].fingerprint
    assert len({tokens.fingerprint for tokens in (*same, *others)}) == 1 + len(others)


def test_files_are_one_or_a_folder_of_them_in_the_order_of_their_names(tmp_path):
    b, a = npy(tmp_path / "b_train.npy", [1]), raw(tmp_path / "a_val.bin", [1])
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "icon.bin").write_bytes(b"an icon beside a text is no token file")
    (tmp_path / "c_train.npy").mkdir()
    assert foreign_files(tmp_path) == [a, b]
    assert foreign_files(b) == [b]
    assert foreign_files(tmp_path / "notes.txt") == []
    (tmp_path / "manifest.json").write_text("{}")
    assert foreign_files(tmp_path) == []


def test_an_id_that_is_too_large_is_found_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.data.foreign._BLOCK", 10)
    ids = [1] * 57
    ids[33] = 300
    with pytest.raises(UserError, match="holds the id 300, but the tokenizer has 300 ids"):
        opened(npy(tmp_path / "a.npy", ids))
