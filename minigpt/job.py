"""The parts of a training run put together: what `fit` works on, and what is done with it every so often."""

import contextlib
import dataclasses
import math
import statistics
import threading
import time
from collections.abc import Generator
from pathlib import Path

import torch

from minigpt import config as settings
from minigpt.config import RunConfig
from minigpt.data.batches import Batch, Batches
from minigpt.data.tokens import Tokens
from minigpt.errors import UserError
from minigpt.evaluate.baselines import baselines
from minigpt.evaluate.likelihood import Likelihood, evaluate
from minigpt.fit import Progress, fit, update
from minigpt.log import Log
from minigpt.loss import TrainStep
from minigpt.model.families import fill, read_model
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer, optimizer_tensors, restore_optimizer
from minigpt.optim.ratio import UpdateRatio
from minigpt.optim.schedule import learning_rate
from minigpt.report import write_report
from minigpt.rundir import Checkpoint, RunDir
from minigpt.runtime import Runtime, StopSignals, prepare_step
from minigpt.sampling import generate
from minigpt.trackers import open_trackers

TRIAL_SECONDS = 2.0  # of steps that are timed and thrown away before a run of so many minutes
BASELINE_TOKENS = 1 << 22  # counted for the baselines, at the beginning of each part: a second
REPORT_SECONDS = 0.2  # a report that takes longer is written at the end alone


class TrainingJob:
    """The job of one run: the parts that `fit` works on, and what it does with them every so often."""

    def __init__(
        self,
        config: RunConfig,
        requested: RunConfig,
        tokens: Tokens,
        runtime: Runtime,
        run: RunDir,
        log: Log,
    ) -> None:
        """Build the model and what trains it, as at step 0.

        Args:
            config: every setting as resolved.
            requested: the settings as they were asked for, to compare with on resume.
            tokens: what to train on.
            runtime: where.
            run: the directory that everything is written to.
            log: the voice of the run.
        """
        train = config.train
        self.config, self.requested, self.tokens = config, requested, tokens
        self.runtime, self.run, self.log = runtime, run, log
        self.steps, self.clip, self.seed = train.steps, config.optim.clip, train.seed
        separate = config.data.documents == "separate"
        self.separator = tokens.tokenizer.eos_id if separate else None
        self.order = Batches(
            tokens.train,
            block_size=config.model.block_size,
            batch_size=train.batch_size,
            micro_batch_size=train.micro_batch_size,
            seed=config.data.seed,
            separator=self.separator,
            streamed=config.data.stream,
        )
        torch.manual_seed(train.seed)
        self.model = GPT(config.model)
        self.step = prepare_step(TrainStep(self.model), runtime, train)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.progress = Progress()
        self.spent = {
            "evaluation": 0.0,
            "sampling": 0.0,
            "saving": 0.0,
        }  # seconds beside the updates
        self._ratio = UpdateRatio(self.model.blocks)
        self._report_seconds = 0.0  # that the last one took
        self._drawn: list[str] = []  # at this evaluation, until they are shown
        self._resumed_at: int | None = None
        self._stop = threading.Event()
        log.total_steps = self.steps

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.progress.step >= self.steps

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up weights, optimiser and progress, and cut the logs to what the checkpoint knew."""
        state = checkpoint.state()
        fill(self.model, read_model(checkpoint.path)[1], str(checkpoint.path))
        restore_optimizer(self.optimizer, self.model, checkpoint.optimizer())
        self.progress = Progress(**state["progress"])
        self.progress.losses = [
            torch.tensor(loss, device=self.runtime.device) for loss in self.progress.losses
        ]
        self.spent |= state.get("spent", {})
        self._resumed_at = self.log.done = self.progress.step
        self.log.cut(state["logs"])

    def fit(self) -> None:
        """Train to the end, or until SIGINT or SIGTERM; the step under way is finished and saved.

        Raises:
            KeyboardInterrupt, SystemExit(143): somebody stopped the run; it is saved.
        """
        self.log.trackers = open_trackers(self.config, self.run.path, self.progress.step)
        with StopSignals(self._stop) as signals, self.log:
            fit(self, self.progress)
        if not self.is_finished:
            self.log.say(
                f"stopped and saved at step {self.progress.step}; the same command goes on from here"
            )
            signals.raise_received()

    # What `fit` asks for:

    def batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step, on the device; the update that follows is measured where it is logged."""
        if self.is_due("log", step + 1) or step + 1 == self.steps:
            self._ratio.remember()
        return [batch.to(self.runtime.device) for batch in self.order.at(step)]

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 1."""
        return learning_rate(update, self.config.optim, self.steps)

    def is_due(self, what: str, step: int) -> bool:
        """Return whether to "save", "evaluate" or "log" after `step` updates."""
        train = self.config.train
        every = {
            "save": train.checkpoint_every,
            "evaluate": train.eval_every,
            "log": train.log_every,
        }
        return step % every[what] == 0

    def should_stop(self) -> bool:
        """Return whether a signal came."""
        return self._stop.is_set()

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; not again the one that the run was resumed from."""
        if progress.step == self._resumed_at:
            return
        with self._timed("saving"):
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        self._add_update_ratio(progress)
        self._check_finite(progress)
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise self._diverged(progress.step, "largest weight", math.nan)
        state = dataclasses.asdict(progress) | {"losses": [float(x) for x in progress.losses]}
        self.run.save_checkpoint(
            progress.step,
            self.model,
            self.tokens.tokenizer,
            optimizer_tensors(self.optimizer, self.model),
            {
                "progress": state,
                "spent": self.spent,
                "config": settings.to_dict(self.config),
                "requested": settings.to_dict(self.requested),
                "data": self.tokens.fingerprint,
                "runtime": self.runtime.describe(),
                "logs": self.log.sizes(),
            },
            self.config.train.keep,
        )

    def evaluate(self, progress: Progress) -> None:
        """Add the held-out loss to the row, publish the best weights, and draw a sample where one is due."""
        self._check_finite(progress)
        with self._timed("evaluation"):
            found = self.likelihood(max_tokens=self.config.train.eval_tokens)
            if progress.step == 0 and not self.config.data.stream:
                progress.row["baselines"] = self._baselines()
        if not math.isfinite(found.loss):
            raise self._diverged(progress.step, "held-out loss", found.loss)
        progress.row |= {"val_loss": found.loss, "val_bits_per_byte": found.bits_per_byte}
        if self.tokens.tokenizer.kind == "char":
            progress.row["val_bits_per_char"] = found.bits_per_char
        if progress.best_loss is None or found.loss < progress.best_loss:
            progress.best_loss, progress.best_step = found.loss, progress.step
            with self._timed("saving"):
                self.run.publish_best(self.model, self.tokens.tokenizer)
        every = self.config.train.sample_every or self.config.train.eval_every
        if progress.step % every == 0 or progress.step == self.steps:
            with self._timed("sampling"):
                self._drawn = self.draw()

    def report(self, progress: Progress) -> None:
        """Write the row, if there is one, and the samples drawn with it; move the live line."""
        self.log.step(progress.step)
        if not progress.row:
            return
        self._add_update_ratio(progress)
        self._check_finite(progress)
        row = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(self.order.epoch_at(progress.step), 4),
            "seconds": round(progress.seconds, 3),
            **{f"{name}_seconds": round(spent, 3) for name, spent in self.spent.items()},
            **progress.row,
            "peak_memory_bytes": self.runtime.peak_memory_bytes(),
        }
        if "train_loss" in row:
            tokens, seconds = progress.logged
            speed = (progress.tokens - tokens) / max(1e-9, progress.seconds - seconds)
            row["tokens_per_second"] = round(speed)
            progress.logged = (progress.tokens, progress.seconds)
        self.log.row(row, self._drawn)
        progress.row, self._drawn = {}, []
        if "val_loss" in row and self._report_seconds < REPORT_SECONDS:
            self.write_report()

    @contextlib.contextmanager
    def _timed(self, what: str) -> Generator[None]:
        """Add the time that the block takes to what was spent beside the updates."""
        started = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - started

    def _add_update_ratio(self, progress: Progress) -> None:
        """Add how far the last update moved each block, where that was measured; before the row is saved or written."""
        if (ratios := self._ratio.measure()) is not None:
            progress.row["update_ratio"] = ratios

    def _baselines(self) -> dict[str, dict[str, float]]:
        tokens = self.tokens
        return baselines(tokens.train, tokens.val, tokens.tokenizer, most=BASELINE_TOKENS)

    def _check_finite(self, progress: Progress) -> None:
        """Stop a run that has diverged before anything of it is saved."""
        values = {
            "gradient norm": progress.row.get("grad_norm"),
            "loss": progress.row.get("train_loss"),
        }
        values["change of the weights"] = sum(progress.row.get("update_ratio", ()))
        values["mean loss"] = sum(float(loss) for loss in progress.losses)
        for name, value in values.items():
            if value is not None and not math.isfinite(value):
                raise self._diverged(progress.step, name, value)

    def _diverged(self, step: int, name: str, value: float) -> UserError:
        rates = "optim.lr" + (" and optim.muon_lr" if self.config.optim.name == "muon" else "")
        return UserError(
            f"the run has diverged: at step {step} the {name} is {value}; the checkpoints before it are whole. "
            f"Begin again (--again) with a smaller {rates} or a longer optim.warmup_steps"
        )

    def write_report(self) -> Path:
        """Write `report.html` from what the run has written so far and return where it is."""
        started = time.perf_counter()
        path = write_report(self.run.path)
        self._report_seconds = time.perf_counter() - started
        return path

    # What it does with the model as it stands:

    def likelihood(self, max_tokens: int | None = None) -> Likelihood:
        """Return how well the model foretells the held-out part, or an evenly spread part of it."""
        return evaluate(
            self.step,
            self.tokens.val,
            self.tokens.tokenizer,
            batch_size=self.config.train.micro_batch_size or self.config.train.batch_size,
            max_tokens=max_tokens,
            separator=self.separator,
        )

    def draw(self, prompt: str | None = None) -> list[str]:
        """Return texts drawn by `config.sample`, prompt included; another prompt may be given."""
        sample = self.config.sample
        prompt = sample.prompt if prompt is None else prompt
        return [
            prompt + generate(self.model, self.tokens.tokenizer, prompt, **sample.drawing(number))
            for number in range(sample.num_samples)
        ]

    def load_best(self) -> None:
        """Put the best weights of the run into the model."""
        fill(self.model, read_model(self.run.path)[1], str(self.run.path))

    def seconds_per_step(self) -> tuple[float, float]:
        """Return the seconds of an update and of an evaluation with its sample. Afterwards the job is spoilt."""
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - began < TRIAL_SECONDS:
            started = time.perf_counter()
            update(self.step, self.optimizer, self.batches(len(times)), self.clip)
            self.runtime.wait()
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        self.likelihood(max_tokens=self.config.train.eval_tokens)
        self.draw()
        # The slowest quarter is left out: the first steps allocate memory, and other processes get in between.
        quickest = sorted(times)[: len(times) - len(times) // 4]
        return statistics.mean(quickest), time.perf_counter() - started
