"""What a learner has started and passed: a file `minigpt-learn.json` in the folder they work in, and nowhere else.

It holds {"exercises": {name: "started" or "passed"}}. What is not known here stays in it as it is.
"""

from pathlib import Path
from typing import Any

from minigpt.errors import UserError
from minigpt.files import read_json, replace_json

FILE = "minigpt-learn.json"
STATES = ("open", "started", "passed")  # each takes the place of those before it


class Record:
    """The progress in a folder.

    Attributes:
        path: of its file, which is written when there is something to remember.
    """

    def __init__(self, folder: Path) -> None:
        """Read the file, if there is one.

        Raises:
            UserError: it is damaged; it stays as it is.
        """
        self.path = folder / FILE
        self._content: dict[str, Any] = read_json(self.path) if self.path.exists() else {}
        self._states = self._content.setdefault("exercises", {})
        if not isinstance(self._states, dict):
            raise UserError(
                f'{self.path}: "exercises" is a JSON {type(self._states).__name__}, an object of names and states was '
                "wanted; restore or remove the file"
            )
        for name, state in self._states.items():
            if state not in STATES:
                raise UserError(
                    f"{self.path}: the state of {name!r} is {state!r}, wanted {', '.join(STATES)}; "
                    "mend that line, or restore or remove the file"
                )

    def state(self, name: str) -> str:
        """Return open, started or passed."""
        return self._states.get(name, STATES[0])

    def reached(self, name: str, state: str) -> None:
        """Remember that an exercise has come so far; one that was passed stays so."""
        if STATES.index(state) > STATES.index(self.state(name)):
            self._states[name] = state
            replace_json(self.path, self._content)
