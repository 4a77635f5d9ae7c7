import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.data.shards import (
    MANIFEST,
    TokenSequence,
    damaged,
    open_shards,
    read_manifest,
    token_dtype,
)
from minigpt.errors import UserError
from minigpt.files import replace_json

IDS = st.lists(st.lists(st.integers(0, 65535), max_size=6), max_size=6)


def sequence(lists) -> TokenSequence:
    return TokenSequence([np.array(ids, np.uint16) for ids in lists])


def written(folder, *lists, dtype="<u2"):
    """Write shards and what else makes a folder whole; return the manifest."""
    shards = []
    for number, ids in enumerate(lists):
        content = np.array(ids, dtype).tobytes()
        name = f"train-00000-{number:05d}.bin"
        (folder / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        shards.append({"file": name, "split": "train", "tokens": len(ids), "sha256": sha256})
    (folder / "tokenizer.json").write_text("{}")
    manifest = {"fingerprint": "x", "dtype": dtype, "shards": shards}
    replace_json(folder / MANIFEST, manifest)
    return manifest


@pytest.mark.parametrize(("ids", "dtype"), [(2, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_the_smallest_type_that_holds_every_id(ids, dtype):
    assert token_dtype(ids) == np.dtype(dtype)
    assert int(np.array([ids - 1]).astype(token_dtype(ids))[0]) == ids - 1


# ------------------------------------------------------------------------------------------------------ the sequence


@given(lists=IDS, start=st.none() | st.integers(-9, 40), stop=st.none() | st.integers(-9, 40))
def test_a_slice_over_several_files_is_that_of_all_in_one(lists, start, stop):
    flat = [number for ids in lists for number in ids]
    found = sequence(lists)[start:stop]
    assert isinstance(found, np.ndarray)
    assert found.tolist() == flat[start:stop]
    assert len(sequence(lists)) == len(flat)


@given(lists=IDS)
def test_files_that_are_added_are_as_good_as_given(lists):
    grown = TokenSequence([])
    for ids in lists:
        grown.add(np.array(ids, np.uint16))
    assert len(grown) == len(sequence(lists))
    assert grown[:].tolist() == sequence(lists)[:].tolist()
    assert [a.tolist() for a in grown.arrays] == [ids for ids in lists if ids]


def test_a_sequence_reaches_as_far_as_its_tokens():
    tokens = sequence([[1, 2], [3]])
    assert tokens.reach(0)
    assert tokens.reach(3)
    assert not tokens.reach(4)
    tokens.add(np.array([4], np.uint16))
    assert tokens.reach(4)


def test_the_list_of_files_is_a_copy():
    tokens = sequence([[1, 2], [3]])
    tokens.arrays.clear()
    assert len(tokens.arrays) == 2


def test_a_slice_in_one_file_is_not_copied(tmp_path):
    manifest = written(tmp_path, [1, 2, 3], [4, 5])
    tokens = TokenSequence(open_shards(tmp_path, manifest["shards"], "<u2"))
    assert isinstance(tokens[1:3], np.memmap)
    assert isinstance(tokens[3:5], np.memmap)
    assert tokens[1:4].tolist() == [2, 3, 4]


def test_a_step_is_refused():
    with pytest.raises(ValueError, match="without a step"):
        sequence([[1, 2, 3]])[::2]


# -------------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_shards_come_back_memory_mapped_in_the_order_of_the_manifest(tmp_path, dtype):
    manifest = written(tmp_path, [1, 2], [60000], dtype=dtype)
    manifest["shards"].reverse()
    arrays = open_shards(tmp_path, manifest["shards"], dtype)
    assert [array.tolist() for array in arrays] == [[60000], [1, 2]]
    assert all(isinstance(array, np.memmap) for array in arrays)
    assert open_shards(tmp_path, [], dtype) == []


def test_a_shard_that_is_short_long_or_missing_is_refused(tmp_path):
    manifest = written(tmp_path, [1, 2], [3, 4])
    path = tmp_path / "train-00000-00001.bin"
    for content in (b"", b"\0" * 3, b"\0" * 6):
        path.write_bytes(content)
        sentence = f"00001.bin has {len(content)} bytes, but its manifest says 4; remove the folder"
        with pytest.raises(UserError, match=sentence):
            open_shards(tmp_path, manifest["shards"], "<u2")
    path.unlink()
    with pytest.raises(UserError, match="has no bytes, but its manifest says 4"):
        open_shards(tmp_path, manifest["shards"], "<u2")


def test_a_changed_byte_is_found(tmp_path):
    manifest = written(tmp_path, [1, 2], [3, 4], [5, 6])
    assert damaged(tmp_path, manifest) == []
    names = [shard["file"] for shard in manifest["shards"]]
    (tmp_path / names[0]).write_bytes(b"\1\0\3\0")
    (tmp_path / names[2]).unlink()
    assert damaged(tmp_path, manifest) == [names[0], names[2]]


def test_a_folder_that_is_not_whole_is_as_good_as_none(tmp_path):
    assert read_manifest(tmp_path) is None
    manifest = written(tmp_path, [1, 2], [3])
    assert read_manifest(tmp_path) == manifest
    for name in (MANIFEST, "tokenizer.json", "train-00000-00001.bin"):
        written(tmp_path, [1, 2], [3])
        (tmp_path / name).unlink()
        assert read_manifest(tmp_path) is None
    written(tmp_path, [1, 2], [3])
    whole = (tmp_path / MANIFEST).read_bytes()
    strange = [{}, {"shards": []}, {"fingerprint": "x"}, []]
    for content in (b"", whole[:-9], *(json.dumps(s).encode() for s in strange)):
        (tmp_path / MANIFEST).write_bytes(content)
        assert read_manifest(tmp_path) is None
