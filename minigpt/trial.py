"""A job that is tried and thrown away in; how many steps fit into so many minutes out."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable

from minigpt.fit import update
from minigpt.job import TrainingJob
from minigpt.optim.groups import optimizer_tensors
from minigpt.rundir import RunDir

TRIAL_SECONDS = 2.0  # of steps that are timed


@dataclasses.dataclass(frozen=True)
class Costs:
    """The seconds that parts of a run take: an update, an evaluation, a sample, a checkpoint, publishing weights."""

    update: float
    evaluation: float
    sample: float
    checkpoint: float
    publishing: float


def steps_in(ends_at: float, trial: TrainingJob) -> int:
    """Return how many steps, with all that is due between them, fit until `ends_at` on `time.monotonic`.

    Beside what is due every so often there are, at the beginning and at the end, an evaluation and a checkpoint, and
    after the end the pass over all that is held out and a last sample. Weights are published after most evaluations.
    """
    costs = costs_of(trial)
    train, held_out = trial.config.train, len(trial.tokens.val)
    one = costs.evaluation + costs.sample + costs.publishing
    ends = 2 * (one + costs.checkpoint)
    ends += costs.evaluation * held_out / min(train.eval_tokens, held_out) + costs.sample
    samples_every = train.sample_every or train.eval_every
    per_step = (
        costs.update
        + (costs.evaluation + costs.publishing) / train.eval_every
        + costs.sample / samples_every
        + costs.checkpoint / train.checkpoint_every
    )
    return max(1, int((ends_at - time.monotonic() - ends) / per_step))


def costs_of(job: TrainingJob) -> Costs:
    """Return what the parts of a run cost, by trying them. Afterwards the job is spoilt."""
    times = job.within_memory(lambda: _times(job), lambda: None)
    settled = times[len(times) // 4 + 1 :]  # the first steps allocate memory
    job.can_halve = True
    evaluation = job.within_memory(
        lambda: _seconds(lambda: job.likelihood(max_tokens=job.config.train.eval_tokens)),
        lambda: None,
    )
    job.can_halve = False
    sample = _seconds(job.draw)
    above = next(folder for folder in job.run.path.absolute().parents if folder.exists())
    model, tokenizer = job.model, job.tokens.tokenizer
    with tempfile.TemporaryDirectory(prefix=".minigpt-", dir=above) as folder:
        run, tensors = RunDir(folder), optimizer_tensors(job.optimizer, model)
        checkpoint = _seconds(lambda: run.save_checkpoint(0, model, tokenizer, tensors, {}, 1))
        publishing = _seconds(lambda: run.publish_best(model, tokenizer))
    return Costs(statistics.mean(settled), evaluation, sample, checkpoint, publishing)


def _times(job: TrainingJob) -> list[float]:
    """Return the seconds of some updates."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < TRIAL_SECONDS:
        started = time.perf_counter()
        update(job.step, job.optimizer, job.batches(len(times)), job.clip)
        job.runtime.wait()
        times.append(time.perf_counter() - started)
    return times


def _seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
