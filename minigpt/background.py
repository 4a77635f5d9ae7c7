"""Work in, done while its caller goes on; one piece at a time, in order."""

import threading
from collections.abc import Callable


class Background:
    """Does one thing at a time in a thread of its own; or at once, where going on would not help."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Do `work` when what was begun before is done.

        Raises:
            Exception: what was begun before has failed; `work` is not done.
        """
        self.wait()
        if self.at_once:
            work()
            return
        # A daemon: a process that has lost the others need not wait for what will never come.
        self._thread = threading.Thread(target=self._keep_error, args=(work,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is left to do; raises what it failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _keep_error(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
