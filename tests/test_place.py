import os
import signal
import subprocess
import sys

import pytest

from minigpt.errors import UserError
from minigpt.place import Place

HOLDING = "import sys; from pathlib import Path; from minigpt.place import Place; place = Place(Path(sys.argv[1])); "
HOLDING += "place.take(); print('taken', flush=True); sys.stdin.read()"


def test_the_second_is_refused_and_told_who_holds_it(tmp_path):
    first = Place(tmp_path / "run")
    first.take()
    with pytest.raises(UserError, match=rf"run is in use by process {os.getpid()} on .* since 2"):
        Place(tmp_path / "run").take()
    first.leave()
    second = Place(tmp_path / "run")
    second.take()
    second.leave()
    assert not (tmp_path / "run").exists()


def test_one_folder_by_two_names_is_one_place(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    first = Place(tmp_path / "run")
    first.take()
    for name in ("link", "run", "./run/../run"):
        with pytest.raises(UserError, match="is in use by process"):
            Place(tmp_path / name).take()
    other = Place(tmp_path / "other")
    other.take()
    other.leave()
    first.leave()


def test_a_folder_is_held_for_those_who_share_it_and_no_cache(tmp_path, monkeypatch):
    first = Place(tmp_path / "run")
    first.take()
    (tmp_path / "run").mkdir()
    first.take()
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "of another machine"))
    second = Place(tmp_path / "run")
    with pytest.raises(UserError, match="is in use by process"):
        second.take()
    first.leave()
    second.take()  # what it had before it was refused it has given back
    second.leave()
    assert all(name.startswith(".") for name in os.listdir(tmp_path / "run"))


def test_a_holder_without_a_note_is_another_process(tmp_path):
    (tmp_path / "run").mkdir()
    first = Place(tmp_path / "run")
    first.take()
    for _, note in first._held:
        note.write_text("{")
    with pytest.raises(UserError, match="is in use by another process: wait until"):
        Place(tmp_path / "run").take()
    first.leave()


def test_a_killed_process_gives_its_place_up(tmp_path):
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
        Place(tmp_path / "run").take()
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=60)
    place = Place(tmp_path / "run")
    place.take()
    place.leave()
