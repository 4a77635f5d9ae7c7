"""The verbs that train: demo, train, plan."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minigpt.cli.app import FLAG, JSON, app, finish, say, show, started
from minigpt.cli.settings import (
    DATA,
    DEVICE,
    FILES,
    FROM,
    MINUTES,
    NO_OPTIONS,
    PARALLEL,
    PRESET,
    out_of,
    settings_of,
)
from minigpt.config import RunConfig
from minigpt.errors import ProofError


@app.command
def demo(
    *, minutes: str = "1", out: Path = Path("runs/demo"), again: FLAG = False, as_json: JSON = False
) -> None:
    """Train a first GPT on the documentation of this Python: offline, on a CPU, in a minute or two.

    Example: minigpt demo --minutes 2

    Parameters
    ----------
    minutes
        Minutes of training; preparing the text takes some seconds more.
    out
        The run directory. A second demo there shows what the first one made.
    again
        Start over.
    """
    from minigpt.demo import demo

    settings = settings_of("demo", [], None, {"train.minutes": minutes})
    finish(as_json, demo(settings, out, again=again))


@app.command
def train(
    *,
    preset: PRESET = None,
    files: FILES = (),
    data: DATA = None,
    begin: FROM = None,
    out: Path | None = None,
    minutes: MINUTES = None,
    device: DEVICE = None,
    parallel: PARALLEL = None,
    override: FLAG = False,
    again: FLAG = False,
    overfit: FLAG = False,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_OPTIONS,
) -> None:
    """Train a GPT on a text, or go on where the run in --out stopped.

    Example: minigpt train --preset shakespeare-cpu --data shakespeare.txt --out runs/bard

    Parameters
    ----------
    out
        The run directory; default runs/ and the name of the preset or of the text.
    override
        Go on with a run although its settings have changed.
    again
        Start over, even if --out holds a run.
    overfit
        Only see whether the model can learn one small batch by heart; exit status 1 where it cannot. No run is made.
    """
    short = {
        "data.source": data, "train.init_from": begin, "train.minutes": minutes, "train.device": device,
        "train.parallel": parallel,
    }  # fmt: skip
    settings = settings_of(preset, files, options, short)
    if overfit:
        learn_by_heart(settings, as_json)
        return
    from minigpt.pretrain import train

    place = out_of(out, preset, data)
    result = train(settings, place, again=again, override=override, started=started())
    finish(as_json, {"run": str(result)})


def learn_by_heart(settings: RunConfig, as_json: bool) -> None:
    """Show whether a model with these settings learns one batch by heart."""
    from minigpt.overfit import overfit

    found = overfit(settings, say)
    if found["learnt"]:
        show(found["diagnosis"])
    finish(as_json, found)
    if not found["learnt"]:
        raise ProofError(found["diagnosis"])


@app.command
def plan(
    *,
    preset: PRESET = None,
    files: FILES = (),
    data: DATA = None,
    begin: FROM = None,
    minutes: MINUTES = None,
    device: DEVICE = None,
    parallel: PARALLEL = None,
    processes: int = 1,
    gpus_per_host: int = 8,
    trial: bool = True,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_OPTIONS,
) -> None:
    """Say what a run with these settings will be, before anything starts: parameters, FLOPs, tokens, memory, time.

    Example: minigpt plan --preset gpt2-124m

    Parameters
    ----------
    processes
        How many share the sequences of each step: one for each GPU, unless --device says cpu.
    gpus_per_host
        How many of them run on each host of a cluster.
    trial
        Try some steps on random tokens, for about five seconds, to know the time of the run.
    """
    short = {
        "data.source": data, "train.init_from": begin, "train.minutes": minutes, "train.device": device,
        "train.parallel": parallel,
    }  # fmt: skip
    settings = settings_of(preset, files, options, short)
    from minigpt.needs import needs
    from minigpt.plan import plan
    from minigpt.plan_text import as_text

    facts = plan(settings, processes=processes)
    facts = needs(settings, facts, trial=trial, gpus_per_host=gpus_per_host)
    show(as_text(facts))
    finish(as_json, facts)
