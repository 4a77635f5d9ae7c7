"""Work in, the seconds that it takes out."""

import time
from collections.abc import Callable

Work = Callable[[], object]


def seconds_of(work: Work) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def repeat(
    work: Work,
    wait: Work,
    *,
    seconds: float,
    at_least: int = 1,
    go_on: Callable[[bool], bool] = bool,
) -> list[float]:
    """Do the same again and again; return how long it takes each time.

    Args:
        work: what is timed.
        wait: returns when the device has done all of it.
        seconds: after which it is not begun again.
        at_least: how many times it is done, however long it takes.
        go_on: told whether it is to be done again, decides: where several do it together, for all of them.
    """

    def whole() -> None:
        work()
        wait()

    times: list[float] = []
    began = time.perf_counter()
    while go_on(len(times) < at_least or time.perf_counter() - began < seconds):
        times.append(seconds_of(whole))
    return times
