from types import SimpleNamespace

import pytest

from minigpt import progress
from minigpt.progress import bar


@pytest.fixture(params=["terminal", "file"])
def console(request, monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if request.param == "terminal" else "0")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return request.param


@pytest.mark.parametrize("total", [None, 10, 4_000_000.0])
@pytest.mark.parametrize("unit", ["bytes", "merges"])
@pytest.mark.usefixtures("console")
def test_any_work_is_shown_on_standard_error(capsys, monkeypatch, total, unit):
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    with bar("reading [b]the[/b] files", total, unit) as report:
        report(0)
        report(10)
        report(3, "[red]a note")
        report(10, note="more")
    shown, said = capsys.readouterr()
    assert shown == ""
    assert "reading [b]the[/b] files" in said
    assert "more" in said


@pytest.fixture
def clock(monkeypatch):
    """Standard error is a file, and the time is what the test says."""
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_where_a_line_cannot_be_redrawn_there_is_one_every_ten_seconds(clock, capsys):
    with bar("merging", 80, "merges") as report:
        for done in range(40):
            clock.seconds += 1
            report(done, "as is")
    assert capsys.readouterr().err.splitlines() == [
        "merging: 9 of 80 merges, as is (11%)", "merging: 19 of 80 merges, as is (24%)",
        "merging: 29 of 80 merges, as is (36%)", "merging: 39 of 80 merges, as is (49%)",
    ]  # fmt: skip


def test_bytes_have_a_speed(clock, capsys):
    with bar("reading", None) as report:
        clock.seconds += 20
        report(50e6)
    assert capsys.readouterr().err == "reading: 50.0 MB, 2.5 MB/s\n"


def test_an_error_passes_through_and_the_terminal_is_as_it_was(console, capsys):
    def fail():
        with bar("reading", 10) as report:
            report(5)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    said = capsys.readouterr().err
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert said.count(hidden) == said.count(shown) == (console == "terminal")
    assert said.endswith("\x1b[2K") == (console == "terminal")  # the line is cleared
