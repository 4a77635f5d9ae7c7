import numpy as np
import pytest

from minigpt.data import duplicates
from minigpt.data.duplicates import TokenFile, find, find_all, remember, without

END = 999


def documents(count, seed=0, shortest=40, longest=400):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, END, rng.integers(shortest, longest)) for _ in range(count)]


def shard(path, parts) -> TokenFile:
    joined = np.concatenate([x for part in parts for x in ([END], part)][1:]).astype("<u2")
    joined.tofile(path)
    return TokenFile(path, len(joined), np.dtype("<u2"))


@pytest.fixture
def two_parts(tmp_path):
    held_out, rest = documents(50), documents(200, seed=1)
    near = np.concatenate([held_out[7][:30], [5], held_out[7][31:]])
    planted = [*rest[:60], held_out[3], *rest[60:90], near, *rest[90:], held_out[9]]
    return shard(tmp_path / "val.bin", held_out), shard(tmp_path / "train.bin", planted), planted


def test_copies_and_near_copies_are_found_with_their_places(two_parts):
    val, train, planted = two_parts
    found = find(train, remember([val], "bpe", 1000, END))
    ids = train.read(0, train.tokens)
    assert [ids[b:e].tolist() for b, e in found.exact] == [
        [END, *planted[60].tolist()],
        [END, *planted[-1].tolist()],
    ]
    assert [ids[b:e].tolist() for b, e in found.near] == [[END, *planted[91].tolist()]]


def test_nothing_in_common_is_nothing_found(tmp_path):
    val, train = shard(tmp_path / "a", documents(50)), shard(tmp_path / "b", documents(50, seed=1))
    found = find(train, remember([val], "bpe", 1000, END))
    assert (len(found.exact), len(found.near), len(found.seen)) == (0, 0, 0)


def test_every_held_out_sequence_is_seen_in_a_copy(tmp_path):
    val = shard(tmp_path / "a", documents(50))
    held_out = remember([val], "bpe", 1000, END)
    assert len(find(val, held_out).seen) == len(held_out.sequences) > 500


@pytest.mark.parametrize(("portion", "stretch"), [(64, 100), (500, 2000), (1 << 16, 1 << 20)])
def test_what_is_found_does_not_depend_on_portions_or_threads(
    two_parts, monkeypatch, portion, stretch
):
    val, train, _ = two_parts
    expected = find(train, remember([val], "bpe", 1000, END))
    duplicates.powers.cache_clear()
    monkeypatch.setattr(duplicates, "PORTION", portion)
    monkeypatch.setattr(duplicates, "STRETCH", stretch)
    longest = max(len(d) for d in documents(200, seed=1))
    done = []
    (found,) = find_all([train], remember([val], "bpe", 1000, END), 2, done.append)
    duplicates.powers.cache_clear()
    if portion > longest:  # a document that is longer than a portion is looked at in parts
        assert found.exact.tolist() == expected.exact.tolist()
        assert found.near.tolist() == expected.near.tolist()
    assert done == sorted(done)
    assert done[-1] == train.tokens


def test_the_first_document_has_no_separator_to_take_away(tmp_path):
    parts = documents(5)
    train = shard(tmp_path / "a", parts)
    found = find(train, remember([shard(tmp_path / "b", parts[:1])], "bpe", 1000, END))
    assert found.exact.tolist() == [[0, len(parts[0])]]
    kept = without(train.read(0, train.tokens), found.exact)
    assert kept.tolist() == train.read(len(parts[0]), train.tokens).tolist()


def test_without_documents_there_are_still_sequences(tmp_path):
    train, val = shard(tmp_path / "a", documents(9)), shard(tmp_path / "b", documents(3))
    held_out = remember([val], "bpe", 1000, None)
    found = find(train, held_out)
    assert len(found.exact) == 0
    assert len(found.seen) > 0.7 * len(held_out.sequences)


def test_of_a_large_held_out_part_fewer_sequences_are_kept_and_both_parts_keep_the_same(
    two_parts, monkeypatch
):
    val, train, _ = two_parts
    monkeypatch.setattr(duplicates, "MOST_KEPT", 100)
    held_out = remember([val], "bpe", 1000, END)
    assert len(held_out.sequences) < 200
    assert len(find(val, held_out).seen) == len(held_out.sequences)
    assert len(find(train, held_out).exact) == 2
