"""Tuned runs in, how well they foretell the answers that they have held out, out; beside what they were tuned from."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from minigpt.errors import UserError
from minigpt.evaluate.likelihood import Likelihood
from minigpt.evaluate.measure import Measured, run_of
from minigpt.files import read_json
from minigpt.finetune.replies import open_replies
from minigpt.interop.loading import load_both
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.ranks import ALONE
from minigpt.rundir import RunDir
from minigpt.runtime import prepare_step, start_runtime


def measured_replies(run: Path | str, *, device: str = "auto") -> Measured:
    """Return how well a tuned run foretells the answers that it has held out; as baseline, what it was tuned from does.

    Raises:
        UserError: `run` is no tuned run, or what it was tuned on has changed.
    """
    folder = run_of(run)
    config, facts = RunDir.open(folder).config, read_json(folder / "data.json")
    task = open_replies(config, lambda line: None)
    if task.fingerprint != facts.get("fingerprint"):
        raise UserError(
            f"{task.materials}, has changed since {folder} was tuned; restore it, or pass a text with --data"
        )
    settings = dataclasses.replace(config.train, device=device, compile="off", recompute=False)
    runtime = start_runtime(settings)

    def likelihood(model: GPT) -> Likelihood:
        step = prepare_step(TrainStep(model), runtime, settings)
        at_once = config.train.sequences_at_once()
        return task.likelihood(step.eval(), at_once, None, ALONE)

    found, before = likelihood(load_both(run)[0]), likelihood(task.base.model())
    known = {"before tuning": before.facts()}
    more = {"context": task.base.shape.block_size, "stride": None, "baselines": known}
    return Measured(found.facts() | more, found)


def measure_replies(runs: Sequence[str], device: str) -> Iterator[Measured]:
    """Return what `measured_replies` returns of each run, one after the other.

    Raises:
        UserError: as that, or they have held out different answers.
    """
    held_out = [read_json(run_of(run) / "data.json").get("held_out") for run in runs]
    for run, known in zip(runs, held_out, strict=True):
        if known != held_out[0]:
            raise UserError(
                f"{runs[0]} and {run} have held out different conversations, so their figures cannot be compared; tune "
                "both on one file with the same data.val_fraction"
            )
    return (measured_replies(run, device=device) for run in runs)
