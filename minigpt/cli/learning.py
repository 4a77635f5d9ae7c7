"""The verbs of learning by building: learn list, learn show, learn start, learn check."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from minigpt.cli.app import JSON, app, finish, show
from minigpt.errors import ProofError, UserError
from minigpt.files import expanded

learn = App(
    name="learn", help="Build a GPT yourself, exercise by exercise, each checked by what it does."
)
app.command(learn)

WHICH = Annotated[str, Parameter(name="EXERCISE")]


@learn.default
@learn.command(name="list")
def learn_list(*, as_json: JSON = False) -> None:
    """List the exercises and how far you are; progress is the file minigpt-learn.json in the folder you are in.

    Example: minigpt learn list
    """
    from minigpt.learn.path import EXERCISES, PARTS
    from minigpt.learn.record import Record

    record = Record(Path())
    marks = {"open": " ", "started": "…", "passed": "✓"}
    for part in PARTS:
        show(f"{part}\n")
        for exercise in (e for e in EXERCISES if e.part == part):
            mark = marks[record.state(exercise.name)]
            show(f"  {mark} {exercise.number:2}  {exercise.name:<14}{exercise.title}")
        show("")
    passed = sum(record.state(exercise.name) == "passed" for exercise in EXERCISES)
    going = next((e for e in EXERCISES if record.state(e.name) != "passed"), None)
    show(
        f"{passed} of {len(EXERCISES)} passed."
        + (f" Next: minigpt learn show {going.name}" if going else "")
    )
    finish(
        as_json,
        {
            "exercises": [
                {"name": e.name, "title": e.title, "state": record.state(e.name)} for e in EXERCISES
            ]
        },
    )


@learn.command(name="show")
def learn_show(which: WHICH, /) -> None:
    """Show the page of an exercise.

    Example: minigpt learn show attention

    Parameters
    ----------
    which
        Its number or its name.
    """
    from minigpt.learn.path import find

    exercise = find(which)
    end = f"To begin: minigpt learn start {exercise.name}"
    if not sys.stdout.isatty():
        show(f"{exercise.page}\n{end}")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=min(Console().width, 110))
    console.print(Markdown(exercise.page))
    console.print(f"\n{end}", markup=False, highlight=False)


@learn.command(name="start")
def learn_start(which: WHICH, /, *, out: Path | None = None, as_json: JSON = False) -> None:
    """Write the file to fill: what is called, with what and what for. A file that is there stays as it is.

    Example: minigpt learn start attention --out attention.py

    Parameters
    ----------
    which
        The number or the name of the exercise.
    out
        The file; default: NAME.py in the folder you are in.
    """
    from minigpt.learn.path import find
    from minigpt.learn.record import Record

    exercise = find(which)
    record = Record(Path())
    file = expanded(out) if out is not None else Path(f"{exercise.name}.py")
    if not file.parent.is_dir():
        raise UserError(f"--out is {file}, but there is no folder {file.parent}; make it first")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(exercise.start)
    except FileExistsError:
        raise UserError(
            f"{file} is there already and stays as it is; check it with minigpt learn check {exercise.name} {file}, or "
            "pass another --out"
        ) from None
    record.reached(exercise.name, "started")
    show(
        f"{file}: fill in what raises NotImplementedError, then: minigpt learn check {exercise.name} {file}"
    )
    finish(as_json, {"exercise": exercise.name, "out": str(file)})


@learn.command(name="check")
def learn_check(which: WHICH, file: Path, /, *, as_json: JSON = False) -> None:
    """Say of a file whether it is right, and if not, which mistake was made. Exit status: 0 passed, 1 not yet.

    Your code runs in a process of its own, in an empty folder, for a bounded time.

    Example: minigpt learn check attention attention.py

    Parameters
    ----------
    which
        The number or the name of the exercise.
    file
        The file that minigpt learn start wrote, filled in.
    """
    from minigpt.learn.path import find
    from minigpt.learn.process import judge_apart
    from minigpt.learn.record import Record
    from minigpt.learn.words import said

    exercise = find(which)
    record = Record(Path())
    verdict = judge_apart(exercise, expanded(file))
    show(said(exercise, verdict))
    finish(as_json, {"exercise": exercise.name, "passed": verdict.passed} | verdict.fields())
    if not verdict.passed:
        raise ProofError(
            f"{exercise.name} is not right yet: {len(verdict.held)} of {verdict.checks} properties hold"
        )
    record.reached(exercise.name, "passed")
