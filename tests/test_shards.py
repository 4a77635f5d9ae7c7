import numpy as np
import pytest

from minigpt.data import shards
from minigpt.errors import UserError


def written(folder, vocab_size=300):
    shards.write_tokens(folder, "train", [np.array([1, 2]), np.array([299])], vocab_size)
    shards.write_tokens(folder, "val", [], vocab_size)
    (folder / "tokenizer.json").write_text("{}")
    return shards.write_manifest(folder, vocab_size, {"fingerprint": "x"})


def test_tokens_come_back_memory_mapped(tmp_path):
    manifest = written(tmp_path)
    train, val = shards.open_tokens(tmp_path, manifest)
    assert isinstance(train, np.memmap)
    assert (train.tolist(), val.tolist()) == ([1, 2, 299], [])
    assert shards.read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(("ids", "dtype"), [(300, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_the_smallest_type_that_holds_every_id(tmp_path, ids, dtype):
    assert shards.token_dtype(ids) == np.dtype(dtype)
    shards.write_tokens(tmp_path, "train", [np.array([0, ids - 1])], ids)
    assert np.fromfile(tmp_path / "train.bin", dtype).tolist() == [0, ids - 1]


def test_a_cut_file_is_refused(tmp_path):
    manifest = written(tmp_path)
    (tmp_path / "train.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="has 2 bytes, but its manifest says 6"):
        shards.open_tokens(tmp_path, manifest)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "val.bin"])
def test_a_folder_that_is_not_whole_is_as_good_as_none(tmp_path, name):
    assert shards.read_manifest(tmp_path) is None
    written(tmp_path)
    (tmp_path / name).unlink()
    assert shards.read_manifest(tmp_path) is None
    written(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert shards.read_manifest(tmp_path) is None
