"""Work that is done while its caller goes on: one piece at a time, and nothing is lost of what it fails with."""

import threading

import pytest

from minigpt.background import Background


def test_its_caller_goes_on_until_it_waits():
    background, go_on, done = Background(at_once=False), threading.Event(), []
    background.do(lambda: (go_on.wait(10), done.append("first")))
    assert done == []
    go_on.set()
    background.do(lambda: done.append("second"))
    assert done[0] == "first"  # before the next one begins
    background.wait()
    assert done == ["first", "second"]
    background.wait()  # for nothing


def test_at_once_it_is_done_by_the_caller():
    background, threads = Background(at_once=True), []
    background.do(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    with pytest.raises(ZeroDivisionError):
        background.do(lambda: 1 / 0)
    background.wait()


def test_what_it_fails_with_is_raised_once_and_before_anything_else_is_begun():
    background, done = Background(at_once=False), []
    background.do(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.do(lambda: done.append("never"))
    background.wait()
    assert done == []
    background.do(lambda: done.append("again"))
    background.wait()
    assert done == ["again"]


def test_even_what_is_no_exception_reaches_the_caller():
    background = Background(at_once=False)

    def leave():
        raise SystemExit(143)

    background.do(leave)
    with pytest.raises(SystemExit):
        background.wait()
