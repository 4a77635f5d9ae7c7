"""A number or a name in, the exercise out: what there is to read, to fill in and to be checked.

A folder of `exercises/` holds all of it: `page.md`, `solution.py` and `check.py`. Only reading is done here; nothing of
an exercise is imported.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from minigpt.errors import UserError, plain
from minigpt.learn.skeleton import skeleton

FOLDER = Path(__file__).parent / "exercises"
PARTS = {
    "Warm-ups": ["attention", "mask", "bigram", "sampler", "characters"],
    "Milestones": ["bpe", "batches", "heads", "model", "training", "sampling", "evaluation"],
    "Beyond": [
        "rope", "rmsnorm", "mlp", "grouped", "cache", "muon", "lora", "sft", "accumulation", "norms", "processes",
    ],
}  # fmt: skip
# The last paragraph of a page says where minigpt does it: a file, and names in it.
POINTER = re.compile(r"^In minigpt: (.+)\Z", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Exercise:
    """One step of the path.

    Attributes:
        number: its place, from 1.
        name: of its folder.
        part: of the path.
    """

    number: int
    name: str
    part: str

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return FOLDER / self.name

    @property
    def page(self) -> str:
        """What there is to read, Markdown."""
        return (self.folder / "page.md").read_text("utf-8")

    @property
    def title(self) -> str:
        """The heading of the page."""
        return self.page.partition("\n")[0].removeprefix("# ")

    @property
    def pointer(self) -> str:
        """Where minigpt does it."""
        found = POINTER.search(self.page)
        assert found is not None, f"the page of {self.name} does not end with 'In minigpt: …'"
        return " ".join(found[1].split())

    @property
    def solution(self) -> str:
        """The source of the solution."""
        return (self.folder / "solution.py").read_text("utf-8")

    @property
    def start(self) -> str:
        """The file to fill: the solution without what it does."""
        read, check = (f"minigpt learn {verb} {self.name}" for verb in ("show", "check"))
        opening = f"{self.title}.\n\nRead: {read}\nCheck: {check} FILE\n"
        return skeleton(self.solution, opening)


EXERCISES = tuple(
    Exercise(number, name, part)
    for number, (part, name) in enumerate(
        ((part, name) for part, names in PARTS.items() for name in names), 1
    )
)


def find(which: str) -> Exercise:
    """Return the exercise of a number or a name.

    Raises:
        UserError: there is none.
    """
    for exercise in EXERCISES:
        if which.strip().lower() in (exercise.name, str(exercise.number)):
            return exercise
    near = difflib.get_close_matches(which, [exercise.name for exercise in EXERCISES], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"there is no exercise {plain(which)!r}; {meant}minigpt learn list shows 1 to {len(EXERCISES)} with their names"
    )
