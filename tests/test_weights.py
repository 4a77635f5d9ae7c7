import json
import os

import pytest
import safetensors.torch
import torch

from minigpt.errors import UserError
from minigpt.model import weights
from minigpt.model.weights import INDEX, WEIGHTS, read_weights, write_weights

TENSORS = {f"layer.{i}": torch.full((4, 8), float(i)) for i in range(6)}  # 128 bytes each


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "config.json")


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_what_fits_is_one_file(folder):
    write_weights(folder, TENSORS)
    assert files(folder) == [WEIGHTS]
    assert same(read_weights(folder), TENSORS)


@pytest.mark.parametrize(("limit", "shards"), [(300, 3), (128, 6), (1, 6), (700, 2)])
def test_what_does_not_is_several_with_an_index(folder, limit, shards):
    write_weights(folder, TENSORS, limit)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == 6 * 128
    assert list(index["weight_map"]) == list(TENSORS)
    assert len(set(index["weight_map"].values())) == shards
    assert files(folder) == sorted({INDEX, *index["weight_map"].values()})
    assert same(read_weights(folder), TENSORS)


def test_newer_weights_take_the_place_of_older_ones_whatever_their_number(folder):
    for number, limit in enumerate((300, 300, 10**9, 128, 300, 10**9)):
        newer = {name: tensor + number for name, tensor in TENSORS.items()}
        write_weights(folder, newer, limit)
        assert same(read_weights(folder), newer)
        assert len(files(folder)) == {300: 4, 10**9: 1, 128: 7}[limit]


def test_a_kill_between_shards_leaves_the_old_weights(folder, monkeypatch):
    write_weights(folder, TENSORS, 300)
    written = []

    def write(path, tensors, original=weights._write):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        original(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "_write", write)
        with pytest.raises(KeyboardInterrupt):
            write_weights(folder, {name: tensor + 1 for name, tensor in TENSORS.items()}, 300)
    assert same(read_weights(folder), TENSORS)
    write_weights(folder, TENSORS, 300)
    assert len(files(folder)) == 4  # what the kill left is gone


def change(folder, edit):
    index = json.loads((folder / INDEX).read_text())
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda index: index.pop("weight_map"), "has no weight_map"),
        (lambda index: index.update(weight_map={"a": 1}), "has no weight_map"),
        (lambda index: index["weight_map"].update(extra=index["weight_map"]["layer.0"]), "extra is not in the files"),
        (lambda index: index["weight_map"].update(a="../secret.safetensors"), "wanted one in the same folder"),
        (lambda index: index["weight_map"].update(a="/etc/passwd"), "wanted one in the same folder"),
        (lambda index: index["weight_map"].update(a="none.safetensors"), "none.safetensors is missing"),
    ],
)  # fmt: skip
def test_a_broken_index_is_refused(folder, edit, sentence):
    write_weights(folder, TENSORS, 300)
    change(folder, edit)
    with pytest.raises(UserError, match=sentence):
        read_weights(folder)


def test_a_cut_shard_is_refused(folder):
    write_weights(folder, TENSORS, 300)
    path = next(folder.glob("model-00002*"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"model-00002-of-00003-1\.safetensors is cut short"):
        read_weights(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003-1\.safetensors is missing"):
        read_weights(folder)


@pytest.mark.parametrize("ours", [True, False])
def test_of_two_models_in_one_folder_the_newer_counts_or_none(folder, ours):
    newer = {name: tensor + 1 for name, tensor in TENSORS.items()}
    write_weights(folder, TENSORS, 300)
    if not ours:
        change(folder, lambda index: index["metadata"].pop("written_by"))
    safetensors.torch.save_file(newer, folder / WEIGHTS)
    for after, wanted in ((1, newer), (-1, TENSORS)):
        time = (folder / INDEX).stat().st_mtime + after
        os.utime(folder / WEIGHTS, (time, time))
        if ours:
            assert same(read_weights(folder), wanted)
        else:
            with pytest.raises(UserError, match="which may be two models; remove the older one"):
                read_weights(folder)


def test_a_tensor_in_another_file_than_the_index_says_is_refused(folder):
    write_weights(folder, TENSORS, 300)
    first, second = sorted(folder.glob("model-0000[12]*"))
    both = safetensors.torch.load_file(second) | {"layer.0": TENSORS["layer.0"] + 1}
    safetensors.torch.save_file(both, second)
    with pytest.raises(
        UserError, match=r"layer\.0 is in model-00002.* says that it is in another file"
    ):
        read_weights(folder)
    assert first.is_file()


def test_a_file_that_is_no_file_is_missing(folder):
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        read_weights(folder)


def test_a_name_from_a_file_is_shown_without_its_control_characters(folder):
    write_weights(folder, TENSORS, 300)
    change(
        folder,
        lambda index: index["weight_map"].update({"a\x1b[31m\nb": index["weight_map"]["layer.0"]}),
    )
    with pytest.raises(UserError) as refused:
        read_weights(folder)
    assert str(refused.value).isprintable()
