import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minigpt.errors import UserError
from minigpt.files import (
    alone,
    cache_folder,
    place_of,
    read_json,
    replace_json,
    replace_text,
    replacing,
    sha256_of,
)


def test_a_replaced_file_is_the_new_one_and_nothing_is_left_beside_it(tmp_path):
    replace_text(tmp_path / "a.txt", "old")
    replace_text(tmp_path / "a.txt", "new ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new ä"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    replace_text(tmp_path / "a.txt", "old")

    def fail_halfway():
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail_halfway()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_comes_back_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json"
    replace_json(path, {"a": [1, "ü"]})
    assert read_json(path) == {"a": [1, "ü"]}
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_json(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="an object was wanted"):
        read_json(path)
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for text in ("[" * 200_000, '{"a":' * 200_000 + "1" + "}" * 200_000):
        path.write_text(text)
        with pytest.raises(UserError, match="nested too deeply"):
            read_json(path)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = tmp_path / "a.json"
    replace_json(path, {})
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)") as refused:
        read_json(path)
    assert "remove" not in str(refused.value)


def test_json_is_read_from_regular_files_only(tmp_path):
    with pytest.raises(UserError, match="is no regular file"):
        read_json(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_json_is_not_waited_for_at_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UserError, match="is no regular file"):
        read_json(tmp_path / "a.json")


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        sha256_of(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("MINIGPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "minigpt"


def test_a_place_is_found_by_any_name_and_no_name_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "text.txt").write_text("text")
    assert place_of("text.txt") == Path("text.txt")
    assert place_of(str(tmp_path)) == tmp_path
    assert place_of(os.path.join("~", "text.txt")) == tmp_path / "text.txt"
    for name in ("", " ", "none", "ü" * 200, "a/" * 3000, "a\0b", "~nobody/a"):
        assert place_of(name) is None


def test_one_at_a_time_works_in_a_folder(tmp_path):
    order, waited = [], []

    def work(number):
        with alone(tmp_path, lambda: waited.append(number)):
            order.append(number)
            if number == 0:
                others.append(pool.submit(work, 1))
                while not waited:  # until the other has been told to wait
                    time.sleep(0.001)
            order.append(number)

    others = []
    with ThreadPoolExecutor(2) as pool:
        pool.submit(work, 0).result()
        others[0].result()
    assert order == [0, 0, 1, 1]
    assert waited == [1]
