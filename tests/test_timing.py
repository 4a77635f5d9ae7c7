from minigpt import timing
from minigpt.timing import repeat, seconds_of


class Clock:
    """A clock that only work moves on."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def takes(self, seconds: float):
        def work() -> None:
            self.now += seconds

        return work


def test_work_takes_as_long_as_the_clock_says(monkeypatch):
    assert seconds_of(Clock(monkeypatch).takes(2.5)) == 2.5


def test_work_is_repeated_until_the_time_is_up_and_waiting_counts(monkeypatch):
    clock = Clock(monkeypatch)
    assert repeat(clock.takes(1.0), clock.takes(0.5), seconds=4.0) == [1.5, 1.5, 1.5]


def test_long_work_is_done_as_often_as_it_has_to_be(monkeypatch):
    clock = Clock(monkeypatch)
    assert repeat(clock.takes(9.0), clock.takes(0.0), seconds=0) == [9.0]
    assert repeat(clock.takes(9.0), clock.takes(0.0), seconds=1, at_least=3) == [9.0] * 3
