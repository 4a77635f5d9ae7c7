import subprocess
import sys

import pytest

from minigpt.errors import UserError
from minigpt.learn.path import EXERCISES, FOLDER, find


def test_an_exercise_is_found_by_number_and_by_name():
    assert find("1") == find("attention") == find(" Attention ") == EXERCISES[0]
    assert find(str(len(EXERCISES))) == EXERCISES[-1]


@pytest.mark.parametrize("which", ["0", "24", "-1", "1.0", "", "nothing"])
def test_what_there_is_not_is_refused(which):
    with pytest.raises(
        UserError, match=r"there is no exercise .* minigpt learn list shows 1 to 23"
    ):
        find(which)


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(UserError, match=r"did you mean attention\?"):
        find("atention")


def test_the_path_has_every_folder_once():
    names = [exercise.name for exercise in EXERCISES]
    assert sorted(names) == sorted(path.parent.name for path in FOLDER.glob("*/page.md"))
    assert [exercise.number for exercise in EXERCISES] == list(range(1, len(names) + 1))


def test_titles_and_pointers_come_from_the_page():
    exercise = find("attention")
    assert exercise.title == "Attention in ten lines"
    assert exercise.pointer.startswith("`minigpt/model/attention.py`")
    assert "\n" not in exercise.pointer


def test_reading_the_path_imports_no_torch():
    code = (
        "import sys; from minigpt.learn.path import EXERCISES; [(e.title, e.page, e.start) for e in EXERCISES];"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
