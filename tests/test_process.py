import os
import time

import pytest

from minigpt.errors import UserError
from minigpt.learn import process
from minigpt.learn.path import find
from minigpt.learn.process import judge_apart, source_of

MASK = find("mask")
pytestmark = pytest.mark.slow  # each starts Python and torch


def judged(tmp_path, source, **options):
    file = tmp_path / "mine.py"
    file.write_text(source, "utf-8")
    return judge_apart(MASK, file, **options)


def hand(body):
    return MASK.solution + f"\n\ndef by_hand():\n    {body}\n"


def test_what_is_right_passes_and_what_it_prints_is_kept(tmp_path):
    verdict = judged(tmp_path, "print('hello')\n" + MASK.solution)
    assert verdict.passed, verdict
    assert verdict.printed == "hello\n"


def test_a_mistake_is_told_as_it_is_without_a_process(tmp_path):
    verdict = judged(tmp_path, MASK.solution.replace("tril(seen)", "tril(seen + 1)"))
    assert verdict.hints == ("one ahead",)


@pytest.mark.parametrize(
    ("body", "hint", "words"),
    [
        ("import os; os._exit(0)", "ended", "status 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"),
        ("import ctypes; ctypes.string_at(0)", "crash", "SIGSEGV"),
        ("return [0] * 10**12", "raised", "MemoryError"),
        ("return torch.zeros(1 << 40)", "raised", "memory"),
        ("return input()", "raised", "EOFError"),
        ("while True: pass", "endless", "it took more than 2 s"),
    ],
)
def test_what_would_harm_is_told(tmp_path, body, hint, words):
    verdict = judged(tmp_path, hand(body), seconds=2.0)
    assert verdict.hints == (hint,), verdict
    assert words in verdict.received
    assert verdict.open == "four positions, by hand"


def test_a_loop_that_nothing_stops_is_ended_by_force(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 1.0)
    stubborn = "\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass"
    began = time.monotonic()
    verdict = judged(tmp_path, hand(stubborn), seconds=1.0)
    assert verdict.hints == ("endless",)
    assert verdict.open == "four positions, by hand"
    assert time.monotonic() - began < 120


def test_the_code_is_in_an_empty_folder_and_leaves_nothing(tmp_path):
    (tmp_path / "earlier.py").write_text("SIZE = 4")
    source = (
        "import os, earlier\nprint(os.listdir(), earlier.SIZE)\nopen('made.txt', 'w').write('x')\n"
        + MASK.solution
    )
    verdict = judged(tmp_path, source)
    assert verdict.passed, verdict
    assert verdict.printed == "[] 4\n"
    assert sorted(os.listdir(tmp_path)) == ["earlier.py", "mine.py"]


def test_printing_without_end_fills_nothing(tmp_path):
    verdict = judged(tmp_path, hand("\n    while True: print('x' * 10**6)"), seconds=2.0)
    assert verdict.hints == ("endless",)
    assert len(verdict.printed) == process.PRINTED


def test_threads_do_not_keep_it(tmp_path):
    waiting = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    assert judged(tmp_path, waiting + MASK.solution).passed


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; pass the file"):
        source_of(tmp_path / "nothing.py")
    with pytest.raises(UserError, match="is no file"):
        source_of(tmp_path)
    (tmp_path / "marked.py").write_text("x = 1", "utf-8-sig")
    assert source_of(tmp_path / "marked.py") == "x = 1"
    (tmp_path / "bytes.py").write_bytes(b"x = '\xff'")
    with pytest.raises(UserError, match="is not UTF-8: byte 5"):
        source_of(tmp_path / "bytes.py")
    (tmp_path / "large.py").write_bytes(b"#" * (process.LARGEST + 1))
    with pytest.raises(UserError, match="bytes large"):
        source_of(tmp_path / "large.py")
