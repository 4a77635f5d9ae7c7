"""Settings in, a trained run directory out: decides what is open, resumes where a run stopped, and trains."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from minigpt import config as settings
from minigpt.beginning import as_begun, check_elsewhere
from minigpt.config import DEFAULT_STEPS, RunConfig
from minigpt.data.corpora import STANDARD_INPUT
from minigpt.decisions import decide
from minigpt.errors import UserError
from minigpt.job import TrainingJob
from minigpt.log import Log, results
from minigpt.meeting import join, launch, restarts
from minigpt.model.families import FAMILIES, family_of
from minigpt.model.size import parameter_count
from minigpt.place import Place
from minigpt.ranks import ALONE, Ranks
from minigpt.resuming import (
    are_safely_more_steps,
    other_circumstances,
    serious_changes,
    settings_to_resume,
)
from minigpt.rundir import Checkpoint, RunDir
from minigpt.runtime import pick_device, pick_newton_schulz_dtype, pick_precision, start_runtime
from minigpt.task import Opening, Say, Task, open_text
from minigpt.trackers import check_trackers
from minigpt.trial import steps_in
from minigpt.verdict import verdict

FEW_STEPS = 50  # that fit into the minutes of a run


def train(
    config: RunConfig,
    out: Path | str = "runs/latest",
    *,
    again: bool = False,
    override: bool = False,
    started: float | None = None,
    open_task: Opening = open_text,
) -> Path:
    """Train a model, or go on where the run in `out` stopped; return the run directory.

    Args:
        config: the settings.
        out: the run directory.
        again: start over, even if `out` holds a run.
        override: go on with changed settings.
        started: when the process began, on `time.monotonic`; `train.minutes` counts from here.
        open_task: returns what is to be learnt.

    Raises:
        UserError: settings, text or run directory cannot be used.
    """
    settings.check(config)
    ranks = join(pick_device(config.train.device))
    with ranks.noticing_loss(), ranks.noting_signals():
        job = prepare_run(
            config,
            out,
            again=again,
            override=override,
            started=started,
            ranks=ranks,
            open_task=open_task,
        )
        introduce(job)
        if job.is_finished:
            job.log.say(f"this run is finished ({job.steps} steps); --again starts over")
        job.fit(lambda: conclude(job))
        ranks.together(lambda: None)
        ranks.leave()
    return job.run.path


def conclude(job: TrainingJob) -> None:
    """Judge the best weights by all that is held out, say how the run went, and print samples."""
    job.load_best()
    found = job.likelihood()
    job.log.say(
        f"held-out loss {found.loss:.4f} nats per token, {found.bits_per_byte:.4f} bits per byte, over all "
        f"{found.tokens:,} tokens (weights of step {job.progress.best_step})"
    )
    rows = job.run.metrics
    if job.config.train.began_as and rows and "val_loss" in rows[0]:
        job.log.say(f"before the first update it was {rows[0]['val_loss']:.4f} nats per token")
    job.log.say(verdict(rows).sentence)
    job.log.say(f"{job.progress.seconds:.1f} s in updates; the run is {job.run.path}")
    if report := job.write_report():
        job.log.say(f"how it went, to look at: {report}")
    for text in job.draw():
        results(text)


def prepare_run(
    config: RunConfig,
    out: Path | str,
    *,
    again: bool = False,
    override: bool = False,
    started: float | None = None,
    ranks: Ranks = ALONE,
    open_task: Opening = open_text,
) -> TrainingJob:
    """Return the job of the run in `out`, new or resumed, ready to `fit`; arguments as `train`.

    Until `fit` has ended, or the job is given up (`job.place.leave`), no other job of this run can be had.
    """
    started = time.monotonic() if started is None else started
    settings.check(config)
    check_elsewhere(config.train.began_as, out)
    config = as_begun(config)
    check_trackers(config)
    config.train.sequences_at_once(ranks.size)
    if ranks.size > 1 and config.data.source == STANDARD_INPUT:
        raise UserError(
            "several processes cannot all read standard input; write the text to a file first"
        )
    run, place = RunDir(out), Place(Path(out))

    def take() -> None:
        run.check_free()
        place.take()
        if again and not restarts():
            run.sign("")

    ranks.first(take)
    try:
        # torchrun starts again what has failed with the same command: what that has begun goes on.
        if again and restarts():
            again = ranks.first(lambda: not run.is_signed(launch()))
        begun = _Begun(config, run, place, ranks, open_task)
        return _job_in(begun, again, override, started)
    except BaseException:
        place.leave()
        raise


@dataclass(frozen=True)
class _Begun:
    """A run that is about to have its job.

    Attributes:
        config: the settings as asked for.
        run: the run directory.
        place: held in it.
        ranks: who shares the work.
        open_task: returns what is to be learnt.
    """

    config: RunConfig
    run: RunDir
    place: Place
    ranks: Ranks
    open_task: Opening

    def task(self, say: Say, fingerprint: str | None = None) -> Task:
        """Return what is to be learnt, which every host opens for itself and all must have alike.

        Raises:
            UserError: they have not.
        """
        ranks = self.ranks
        task = ranks.host_first(lambda: self.open_task(self.config, say, fingerprint))
        wanted = ranks.agreed(task.fingerprint)

        def compare() -> None:
            if task.fingerprint != wanted:
                raise UserError(
                    f"{task.materials} on the host of process {ranks.rank} is another than that of the first one; "
                    "give all hosts the same, best a prepared folder on storage that they share"
                )

        ranks.together(compare)
        return task


def _job_in(begun: _Begun, again: bool, override: bool, started: float) -> TrainingJob:
    config, run, ranks = begun.config, begun.run, begun.ranks
    log = Log(run.path) if ranks.is_first else Log(silent=True)
    checkpoint, skipped = (None, []) if again else ranks.first(lambda: _found_in(run))
    if checkpoint is not None:
        return _resumed(begun, log, checkpoint, skipped, override)
    device = pick_device(config.train.device)
    pick_precision(config.train.dtype, device)  # refused before a text is read
    task = begun.task(log.say)
    resolved = resolve(config, task, device, run, log, started, ranks)
    runtime = start_runtime(resolved.train)
    job = TrainingJob(resolved, config, task, runtime, run, log, begun.place, ranks)

    def begin() -> None:
        run.make()
        begun.place.take()
        run.clear()
        run.create(resolved, task.facts)
        if again:
            run.sign(launch())

    ranks.first(begin)
    _check_shared(run, ranks)
    return job


def _found_in(run: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """Return what `newest_whole` finds.

    Raises:
        UserError: there was a run here, and nothing whole is left of it.
    """
    run.recover()
    checkpoint, skipped = run.newest_whole()
    # The first row is written after the first checkpoint, so a run with rows once had one.
    if checkpoint is None and (skipped or run.metrics):
        raise UserError(
            f"{run.path} has no whole checkpoint to go on from ({'; '.join(skipped) or 'they are gone'}); its best "
            "weights may still load; --again starts over"
        )
    return checkpoint, skipped


def _check_shared(run: RunDir, ranks: Ranks) -> None:
    """Refuse a run directory that not all hosts see, for each process writes a part of a checkpoint into it."""

    if ranks.size == ranks.local_size:
        return
    mark = ranks.first(run.mark)

    def look() -> None:
        if not mark.is_file():
            raise UserError(
                f"the run directory {run.path} is not seen on the host of process {ranks.rank}; put --out on storage "
                "that all hosts share"
            )

    ranks.together(look)
    ranks.first(mark.unlink)


def _resumed(
    begun: _Begun, log: Log, checkpoint: Checkpoint, skipped: list[str], override: bool
) -> TrainingJob:
    config, run, ranks = begun.config, begun.run, begun.ranks
    _check_shared(run, ranks)
    state = ranks.together(checkpoint.state)
    resolved = settings_to_resume(config, state, override)
    # Only what --override has opened again is decided anew.
    resolved = _decided(resolved, pick_device(resolved.train.device), log, ranks)
    runtime = start_runtime(resolved.train)
    task = begun.task(log.say, state["data"])
    if state["data"] != task.fingerprint:
        raise UserError(
            f"{task.materials} has changed since {run.path} was begun; "
            "restore it, or pass --again to start over"
        )
    resolved = task.settle(resolved)
    before = settings.from_dict(state["config"], "the checkpoint")
    serious = serious_changes(settings.changes(before, resolved), config)
    if serious:  # it may have ended before its last step; with these settings it may not
        state["progress"].get("guard", {}).pop("ended_at", None)
    job = TrainingJob(resolved, config, task, runtime, run, log, begun.place, ranks)
    job.resume(checkpoint, state)
    ranks.first(lambda: run.create(resolved, task.facts))
    for line in skipped:
        log.say(line)
    if are_safely_more_steps(before, serious, job.progress.step):
        serious = {}
    differing = other_circumstances(state["runtime"], job.circumstances())
    if differing:
        log.say(
            f"this is not the machine that the run was begun on ({'; '.join(differing)}): it goes on, but no "
            "longer bit for bit"
        )
    if (differing or serious) and not job.is_finished:
        # The best weights in the root may be of a future that will not come: the next ones take their place.
        job.progress.best_loss = None
    return job


def resolve(
    config: RunConfig,
    task: Task,
    device: torch.device,
    run: RunDir,
    log: Log,
    started: float,
    ranks: Ranks = ALONE,
) -> RunConfig:
    """Return the settings with everything decided that depends on what is learnt, machine or clock."""
    config = task.settle(config)
    warmup = config.optim.warmup_steps
    steps = steps_asked_for(config, task.sequences)
    if steps is not None:
        config = _of_length(config, steps)
    config = _decided(config, device, log, ranks)
    if steps is None:
        runtime = start_runtime(config.train)
        trial = TrainingJob(_of_length(config, 1), config, task, runtime, run, log, ranks=ranks)
        steps = steps_in(started + config.train.minutes * 60, trial)
        # Where memory ran out, it has been halved.
        micro_batch_size = trial.config.train.micro_batch_size
        train = dataclasses.replace(config.train, micro_batch_size=micro_batch_size)
        config = dataclasses.replace(config, train=train)
        del trial
        runtime.forget()
        if steps < FEW_STEPS:
            log.say(
                f"only {steps} step{'s' * (steps > 1)} fit into {config.train.minutes:g} minutes, too few to learn "
                "much: give it more --minutes, or end what else uses this machine (threads that wait for a core slow "
                "each other down many times: fewer processes, or OMP_NUM_THREADS=1, may help)"
            )
    resolved = _of_length(config, steps)
    if resolved.optim.warmup_steps != warmup:
        log.say(
            f"optim.warmup_steps = {warmup} would take up the whole run of {steps} steps; "
            f"it is shortened to {resolved.optim.warmup_steps}"
        )
    return resolved


def _decided(config: RunConfig, device: torch.device, log: Log, ranks: Ranks) -> RunConfig:
    """Return the settings with every precision, and whether to compile, decided by the first rank for all."""
    inner = pick_newton_schulz_dtype(config.optim.newton_schulz_dtype, device)
    optim = dataclasses.replace(config.optim, newton_schulz_dtype=inner)
    open_still = dataclasses.replace(config, optim=optim)
    return ranks.first(lambda: decide(open_still, device, log.say))


def steps_asked_for(config: RunConfig, sequences: Callable[[RunConfig], int] | None) -> int | None:
    """Return the steps of a run; None where minutes were asked for, or epochs of what is not there yet.

    Args:
        config: the settings.
        sequences: returns how many an epoch has, where that can be known.

    Raises:
        UserError: epochs of a stream were asked for, or there are too few tokens for a window.
    """
    train = config.train
    if train.epochs and config.data.stream:
        raise UserError(
            "train.epochs cannot be told of a stream, whose length nobody knows; pass --train.steps or --minutes"
        )
    if train.minutes or (train.epochs and sequences is None):
        return None
    if sequences is None or not train.epochs:
        return train.steps or DEFAULT_STEPS
    return math.ceil(train.epochs * sequences(config) / train.batch_size)


def introduce(job: TrainingJob) -> None:
    """Say what is about to happen: text, model, length, place."""
    config, say = job.config, job.log.say
    begins = job.progress.step == 0
    for sentence in job.task.introduction(job.loss if begins else None, job.ranks):
        say(f"data   {sentence}")
    shape = config.model
    say(
        f"model  {parameter_count(shape):,} parameters: {shape.n_layer} layers, {shape.n_head} heads, "
        f"{shape.n_embd} channels, context {shape.block_size} ({FAMILIES[family_of(shape)].architecture})"
    )
    per_step = config.train.batch_size * job.order.width
    epochs = "in order" if config.data.stream else f"{job.order.epoch_at(job.steps):.1f} epochs"
    if job.ranks.size > 1:
        say(f"shared {_how_shared(job)}")
    say(
        f"train  {job.steps:,} steps of {config.train.batch_size} x {job.order.width} = {per_step:,} tokens "
        f"({epochs}) on {job.runtime.device} in {config.train.dtype}, "
        f"{torch.get_num_threads()} threads"
    )
    if job.progress.step:
        say(f"going on from step {job.progress.step}")
    elif not config.train.began_as:
        say(
            f"the loss of a model that knows nothing is ln {shape.vocab_size} = {math.log(shape.vocab_size):.2f}"
        )


def _how_shared(job: TrainingJob) -> str:
    """Return in words who does what in a step."""
    ranks, at_once = job.ranks, job.order.micro_batch_size
    share = len(job.order.share)
    words = (
        f"by {ranks.size} processes ({job.parallel}), each {share} sequences of a step: "
        f"{share // at_once} micro-batch{'es' * (share > at_once)} of {at_once}"
    )
    if ranks.size > ranks.local_size:
        words += f"; {ranks.size // ranks.local_size} hosts"
    return words


def _of_length(config: RunConfig, steps: int) -> RunConfig:
    """Return the settings for so many steps; a warm-up that would take up the run is shortened to a tenth of it."""
    train = dataclasses.replace(config.train, steps=steps, epochs=0.0, minutes=0.0)
    warmup = config.optim.warmup_steps
    optim = dataclasses.replace(
        config.optim, warmup_steps=warmup if warmup < steps else steps // 10
    )
    return dataclasses.replace(config, train=train, optim=optim)
