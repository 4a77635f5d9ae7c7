"""The verbs that look at runs and at the machine: report, doctor."""

from pathlib import Path

from minigpt.cli.app import JSON, app, finish, show
from minigpt.files import expanded


@app.command
def report(run: Path, /, *, out: Path | None = None, as_json: JSON = False) -> None:
    """Draw what a run did, or is doing, in one HTML file: loss, learning rate, gradients, speed, samples, settings.

    Example: minigpt report runs/demo

    Parameters
    ----------
    run
        A run directory; the run may be under way, or have been broken off.
    out
        The file; default: report.html in the run directory.
    """
    from minigpt.report import write_report

    path = write_report(expanded(run), out and expanded(out))
    show(str(path))
    finish(as_json, {"report": str(path)})


@app.command
def doctor(*, as_json: JSON = False) -> None:
    """Say what this machine has, what is missing, and what installs it. Takes some seconds.

    Example: minigpt doctor
    """
    from minigpt.doctor import as_text, examine

    facts = examine()
    show(as_text(facts))
    finish(as_json, facts)
