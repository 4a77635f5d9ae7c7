"""The verbs that look at runs, into models and at the machine: report, look, doctor."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minigpt.cli.app import JSON, TEXT, app, finish, say, show, standard_input
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
def look(
    run: str,
    /,
    *,
    prompt: Annotated[str, TEXT],
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    device: str = "auto",
    as_json: JSON = False,
) -> None:
    """Show what goes on inside a model for a text, in one HTML file: loss, attention, logit lens, norms, vectors.

    Example: minigpt look runs/demo --prompt "Return the number of"

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, or a file of weights.
    prompt
        The text to look at; - reads it from standard input.
    out
        The file [default: look.html; with --json none].
    device
        auto, cpu, cuda or mps.
    """
    from minigpt.inside.views import check_place
    from minigpt.inside.views import look as look_inside
    from minigpt.interop.loading import load_both
    from minigpt.runtime import pick_device

    if out is None and not as_json:
        out = Path("look.html")
    if out is not None:
        out = check_place(expanded(out))
    place = pick_device(device, "--device")
    text = standard_input() if prompt == "-" else prompt
    model, tokenizer = load_both(run)
    seen = look_inside(model.to(place), tokenizer, text)
    if seen.text["note"]:
        say(seen.text["note"])
    if out is not None:
        show(str(seen.save(out)))
    if as_json:
        finish(True, seen.data)


@app.command
def doctor(*, as_json: JSON = False) -> None:
    """Say what this machine has, what is missing, and what installs it. Takes some seconds.

    Example: minigpt doctor
    """
    from minigpt.doctor import as_text, examine

    facts = examine()
    show(as_text(facts))
    finish(as_json, facts)
