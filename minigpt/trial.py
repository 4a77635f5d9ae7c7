"""A job that is tried and thrown away in; how many steps fit into so many minutes out."""

import dataclasses
import itertools
import shutil
import statistics
import tempfile
import time

from minigpt.config import TrainConfig
from minigpt.fit import update
from minigpt.job import TrainingJob
from minigpt.rundir import RunDir
from minigpt.timing import repeat, seconds_of

TRIAL_SECONDS = 2.0  # of steps that are timed


@dataclasses.dataclass(frozen=True)
class Costs:
    """The seconds that parts of a run take: an update, an evaluation, a sample, a checkpoint, publishing weights."""

    update: float
    evaluation: float
    sample: float
    checkpoint: float
    publishing: float

    def at_the_ends(self, train: TrainConfig, held_out: int) -> float:
        """Return the seconds that a run takes beside its steps and what is due between them.

        At the beginning and at the end there are an evaluation and a checkpoint, and after the end a pass over all that
        is held out and a last sample.

        Args:
            train: the settings.
            held_out: tokens; 0 leaves that pass out.
        """
        ends = 2 * (self.evaluation + self.sample + self.publishing + self.checkpoint)
        passes = held_out / min(train.eval_tokens, held_out) if held_out else 0
        return ends + self.evaluation * passes + self.sample

    def of_a_step(self, train: TrainConfig) -> float:
        """Return the seconds of an update and its share of what is due every so often.

        Weights are published after most evaluations.
        """
        samples_every = train.sample_every or train.eval_every
        return (
            self.update
            + (self.evaluation + self.publishing) / train.eval_every
            + self.sample / samples_every
            + self.checkpoint / train.checkpoint_every
        )

    def steps_in(self, seconds: float, train: TrainConfig, held_out: int) -> int:
        """Return how many steps, with all that belongs to a run, fit into so many seconds; at least one."""
        return max(1, int((seconds - self.at_the_ends(train, held_out)) / self.of_a_step(train)))


def steps_in(ends_at: float, trial: TrainingJob) -> int:
    """Return how many steps, with all that is due between them, fit until `ends_at` on `time.monotonic`."""
    costs = costs_of(trial)
    ends_at -= seconds_of(trial.task.baselines)  # they are counted once more at step 0
    steps = costs.steps_in(ends_at - time.monotonic(), trial.config.train, trial.task.held_out)
    return trial.ranks.agreed(steps)


def costs_of(job: TrainingJob) -> Costs:
    """Return what the parts of a run cost, by trying them. Afterwards the job is spoilt."""
    times = job.within_memory(lambda: _times(job), lambda: None)
    settled = times[len(times) // 4 + 1 :]  # the first steps allocate memory
    job.can_halve = True
    evaluation = job.within_memory(
        lambda: seconds_of(lambda: job.likelihood(max_tokens=job.config.train.eval_tokens)),
        lambda: None,
    )
    job.can_halve = False
    sample = seconds_of(job.draw)
    saver, ranks = job.saver, job.ranks
    above = next(folder for folder in job.run.path.absolute().parents if folder.exists())
    folder = ranks.first(lambda: tempfile.mkdtemp(prefix=".minigpt-", dir=above))
    try:
        saver.run = RunDir(folder)
        checkpoint = seconds_of(lambda: (saver.checkpoint(0, {}, 1), saver.wait()))
        publishing = seconds_of(lambda: (saver.publish(), saver.wait()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Costs(statistics.mean(settled), evaluation, sample, checkpoint, publishing)


def _times(job: TrainingJob) -> list[float]:
    """Return the seconds of some updates."""
    numbers = itertools.count()

    def one() -> None:
        update(job.step, job.optimizer, job.batches(next(numbers)), job.clip, job.ranks)

    return repeat(one, job.runtime.wait, seconds=TRIAL_SECONDS, at_least=3, go_on=job.ranks.agreed)
