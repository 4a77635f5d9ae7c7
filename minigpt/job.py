"""The parts of a training run put together: what `fit` works on, and what is done with it every so often."""

import contextlib
import dataclasses
import math
import statistics
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import torch

from minigpt import config as settings
from minigpt.config import RunConfig
from minigpt.data.batches import Batch
from minigpt.errors import PeerError, RunError, UserError, first_line
from minigpt.evaluate.likelihood import Likelihood
from minigpt.files import FULL
from minigpt.fit import Progress, fit
from minigpt.guard import IN_A_ROW, Guard, Skipped
from minigpt.log import Log
from minigpt.loss import TrainStep
from minigpt.model.size import parameter_count
from minigpt.optim.groups import make_optimizer
from minigpt.optim.ratio import UpdateRatio
from minigpt.optim.schedule import learning_rate
from minigpt.parallel import SHARDED, part_again, pick_parallel
from minigpt.place import Place
from minigpt.ranks import ALONE, Ranks, own_part, raise_signal
from minigpt.report import write_report
from minigpt.rundir import Checkpoint, RunDir
from minigpt.runtime import Runtime, StopSignals, share_step
from minigpt.saving import Saver
from minigpt.task import Task
from minigpt.trackers import open_trackers
from minigpt.whole import Sketch

REPORT_SECONDS = 0.2  # a report that takes longer is written at the end alone
T = TypeVar("T")


class TrainingJob:
    """The job of one run: the parts that `fit` works on, and what it does with them every so often."""

    def __init__(
        self,
        config: RunConfig,
        requested: RunConfig,
        task: Task,
        runtime: Runtime,
        run: RunDir,
        log: Log,
        place: Place | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Build the model and what trains it, as at step 0.

        Args:
            config: every setting as resolved.
            requested: the settings as they were asked for, to compare with on resume.
            task: what to learn.
            runtime: where.
            run: the directory that everything is written to.
            log: the voice of the run.
            place: held in the run directory until `fit` is done; None: of a job that is only tried.
            ranks: the processes that share the work, this one among them.
        """
        train = config.train
        self.config, self.requested, self.task = config, requested, task
        self.runtime, self.run, self.log, self.ranks = runtime, run, log, ranks
        self.steps, self.clip, self.seed = train.steps, config.optim.clip, train.seed
        self.order = task.order(config, ranks)
        self.parallel = pick_parallel(train, parameter_count(config.model), ranks, runtime.device)
        torch.manual_seed(train.seed)
        self.model = task.model(config, sharded=self.parallel in SHARDED)
        self.loss = TrainStep(self.model)  # what is evaluated; `step` is what is trained
        self.step = share_step(self.loss, runtime, train, self.parallel, ranks)
        if isinstance(self.model, Sketch):
            self.model.draw_parts()
        self.optimizer = make_optimizer(self.model, config.optim, ranks)
        self.optimizer.register_step_pre_hook(self._begin_optimizer)
        self.guard = Guard(
            self.optimizer,
            self.model.named_parameters(),
            on_device=runtime.device.type == "cuda",
            loss_scale=self.loss.loss_scale,
            ranks=ranks,
        )
        self.saver = Saver(run, self.model, self.optimizer, task.tokenizer, ranks, task.form)
        self.place = place
        self.progress = Progress()
        self.spent = {
            "evaluation": 0.0,
            "sampling": 0.0,
            "saving": 0.0,
        }  # seconds beside the updates
        self._ratio = UpdateRatio(self.model.blocks, ranks)
        self._report_seconds = 0.0  # that the last one took
        self._drawn: list[str] = []  # at this evaluation, until they are shown
        self._saved_at: int | None = None  # the step of a checkpoint that is not written again
        self._done_at: int | None = None  # the step at which all that was due has been done
        self.can_halve = False  # what is under way needs less memory with a smaller micro-batch
        self._stop = threading.Event()
        self._signals = StopSignals(self._stop, alone=ranks.size == 1)
        self._stopped_by = 0  # the signal, or 0
        log.total_steps = self.steps

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.progress.step >= self.steps

    def resume(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        """Take up weights, optimiser and progress, and cut the logs to what the checkpoint knew.

        Args:
            checkpoint: where the weights are.
            state: of the checkpoint.
        """
        self.progress = Progress(**state["progress"])
        lost = self._mend_best()
        self.saver.take(checkpoint)
        self.progress.losses = [
            torch.tensor(math.nan if loss is None else loss, device=self.runtime.device)
            for loss in self.progress.losses
        ]
        if self.loss.loss_scale is not None and (kept := state.get("loss_scale")):
            self.loss.loss_scale.restore(kept)
        self.spent |= state.get("spent", {})
        self._saved_at = self.log.done = self.progress.step
        if state.get("is_done"):
            self._done_at = self.progress.step
        self.steps = self.log.total_steps = self.progress.guard.get("ended_at", self.steps)
        for sentence in (*self.log.cut(state["logs"]), *lost):
            self.log.say(sentence)

    def _mend_best(self) -> list[str]:
        """Publish the best weights again where they cannot be read; return what to say of it."""
        if self.progress.best_loss is None:
            return []
        sentence, are_there = self.ranks.first(
            lambda: self.saver.mend_best(self.progress.best_step)
        )
        if not are_there:
            self.progress.best_loss = None
        return [sentence] if sentence else []

    def fit(self, conclude: Callable[[], Any] = lambda: None) -> Any:
        """Train to the end, or until SIGINT or SIGTERM; the step under way is finished and saved.

        Args:
            conclude: done after the last step, while no other process may touch the run; what it returns is returned.

        Raises:
            KeyboardInterrupt, SystemExit(143): somebody stopped the run; it is saved.
            RunError: a file cannot be written; the checkpoints before are whole.
            UserError: the run has diverged, or memory ran out with a single sequence at a time.
        """
        # What was done at this step already stays; what will be done again is purged there.
        begin = self.progress.step + (self._done_at == self.progress.step)
        try:
            if self.ranks.is_first:
                self.log.trackers = open_trackers(self.config, self.run.path, begin)
            with self._signals, self.log:
                self._signals.take(self.ranks.take_noted())
                self.within_memory(lambda: fit(self, self.progress), self._go_on_here)
                self.saver.wait()
            if stopped_by := self.ranks.largest(self._stopped_by or self._signals.number):
                self._say_stopped()
                raise_signal(stopped_by)
            return conclude()
        except BrokenPipeError:  # whoever read our output has seen enough
            raise
        except OSError as error:
            raise self._cannot_write(error) from error
        finally:
            if self.place is not None:
                self.place.leave()

    def _say_stopped(self) -> None:
        at = (
            f"after the last step, {self.steps},"
            if self.is_finished
            else f"at step {self.progress.step}"
        )
        self.log.say(f"stopped and saved {at}; the same command goes on from here")

    # What `fit` asks for:

    def batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step, on the device; the update that follows is measured where it is logged."""
        self.can_halve = True
        if self.is_due("log", step + 1) or step + 1 == self.steps:
            self._ratio.remember()
        return [batch.to(self.runtime.device) for batch in self.order.at(step)]

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 1."""
        return learning_rate(update, self.config.optim, self.steps)

    def is_due(self, what: str, step: int) -> bool:
        """Return whether to "save", "evaluate" or "log" after `step` updates."""
        if step == self._done_at:
            return False
        train = self.config.train
        every = {
            "save": train.checkpoint_every,
            "evaluate": train.eval_every,
            "log": train.log_every,
        }
        return step % every[what] == 0

    def should_stop(self) -> bool:
        """Return whether a signal came, to any rank."""
        self._stopped_by = self._stopped_by or self.ranks.last_largest(self._signals.number)
        return bool(self._stopped_by)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; not again one that stands."""
        if progress.step != self._saved_at:
            self._save(progress)

    def _save(self, progress: Progress, *, is_done: bool = False) -> None:
        """Write a checkpoint; `is_done`: what is due at this step is done, and not repeated on resume."""
        with self._timed("saving"):
            self._write_checkpoint(progress, is_done)

    def _write_checkpoint(self, progress: Progress, is_done: bool) -> None:
        self._add_update_ratio(progress)
        self._look(progress)
        sound = all(own_part(p).isfinite().all() for p in self.model.parameters())
        if self.ranks.largest(not sound):
            raise self._diverged(progress.step, "the largest weight is nan")
        losses = [float(loss) for loss in progress.losses]
        plain = [loss if math.isfinite(loss) else None for loss in losses]
        state = {
            "progress": dataclasses.asdict(progress) | {"losses": plain},
            "loss_scale": self.loss.loss_scale and self.loss.loss_scale.state(),
            "spent": dict(self.spent),
            "config": settings.to_dict(self.config),
            "requested": settings.to_dict(self.requested),
            "data": self.task.fingerprint,
            "runtime": self.circumstances(),
            "logs": self.log.sizes() if self.ranks.is_first else {},
            "is_done": is_done,
        }
        self.saver.checkpoint(progress.step, state, self.config.train.keep)

    def circumstances(self) -> dict[str, Any]:
        """Return what equal results depend on beside the settings."""
        return self.runtime.describe() | {"processes": self.ranks.size, "parallel": self.parallel}

    def evaluate(self, progress: Progress) -> None:
        """Add the held-out loss to the row, publish the best weights, and draw a sample where one is due.

        After `train.patience` evaluations without a new lowest loss the run ends here, with a checkpoint.
        """
        self._look(progress)
        self.can_halve = True
        with self._timed("evaluation"):
            found = self.within_memory(
                lambda: self.likelihood(max_tokens=self.config.train.eval_tokens), self._save_halved
            )
            if progress.step == 0 and self.ranks.is_first and (known := self.task.baselines()):
                progress.row["baselines"] = known
        self.can_halve = False
        if not math.isfinite(found.loss):
            raise self._diverged(progress.step, f"the held-out loss is {found.loss}")
        is_best = progress.best_loss is None or found.loss < progress.best_loss
        self._end_without_patience(progress, 0 if is_best else progress.guard.get("waited", 0) + 1)
        progress.row |= {"val_loss": found.loss, "val_bits_per_byte": found.bits_per_byte}
        if self.task.tokenizer.kind == "char":
            progress.row["val_bits_per_char"] = found.bits_per_char
        if is_best:
            progress.best_loss, progress.best_step = found.loss, progress.step
            with self._timed("saving"):
                self.saver.publish()
        every = self.config.train.sample_every or self.config.train.eval_every
        if progress.step % every == 0 or progress.step == self.steps:
            with self._timed("sampling"):
                self._drawn = self.draw()

    def _end_without_patience(self, progress: Progress, waited: int) -> None:
        """Count the evaluations without a new best one, and end the run when there have been enough."""
        patience = self.config.train.patience
        if patience and waited >= patience and progress.step < self.steps:
            self.steps = self.log.total_steps = progress.guard["ended_at"] = progress.step
            # Written before this evaluation counts, for a run that is resumed from it repeats the evaluation.
            self._save(progress)
            self.log.say(
                f"the held-out loss has had no new lowest value in {waited} evaluations (train.patience): the run "
                f"ends at step {progress.step}"
            )
        progress.guard["waited"] = waited

    def report(self, progress: Progress) -> None:
        """Write the row, if there is one, and the samples drawn with it; move the live line."""
        self.log.step(progress.step)
        if progress.row or self.guard.waits:
            self._look(progress)
        if not progress.row:
            return
        self._add_update_ratio(progress)
        row = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(self.order.epoch_at(progress.step), 4),
            "seconds": round(progress.seconds, 3),
            **{f"{name}_seconds": round(spent, 3) for name, spent in self.spent.items()},
            **progress.row,
            **progress.guard.pop("row", {}),
            "peak_memory_bytes": self.runtime.peak_memory_bytes(),
        }
        if "train_loss" in row:
            tokens, seconds = progress.logged
            speed = (progress.tokens - tokens) / max(1e-9, progress.seconds - seconds)
            row["tokens_per_second"] = round(speed)
            peak, flops = self.runtime.peak_flops(), self.task.flops_per_token(self.config)
            if peak is not None and flops is not None:
                row["mfu"] = round(speed * flops / (peak * self.ranks.size), 4)
            progress.logged = (progress.tokens, progress.seconds)
        self.log.row(row, self._drawn)
        progress.row, self._drawn = {}, []
        if "val_loss" in row:
            if self._report_seconds < REPORT_SECONDS:
                self.write_report()
            # The first alone counts baselines and draws texts: for gradients the others would not wait so long.
            self.ranks.together(lambda: None)

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

    def write_report(self) -> Path | None:
        """Write `report.html` from what the run has written so far and return where it is.

        Where that is damaged there is none; it is said once and does not keep the run from going on.
        """
        if not self.ranks.is_first:
            return None
        started = time.perf_counter()
        try:
            path = write_report(self.run.path)
        except UserError as error:
            if self._report_seconds < math.inf:
                self.log.say(f"no more reports are written: {error}")
            self._report_seconds = math.inf
            return None
        self._report_seconds = time.perf_counter() - started
        return path

    def _look(self, progress: Progress) -> None:
        """Say what the guard has seen since the last look; stop a run that has diverged."""
        for seen in self.guard.look(progress.guard, progress.step, progress.losses):
            if not isinstance(seen, Skipped):
                self.log.say(
                    f"step {seen.step}: the loss is {seen.loss:.3f}, {seen.z:.0f} standard deviations above the "
                    f"{seen.mean:.3f} of the steps before it"
                )
                continue
            starts = self.order.starts(seen.step - 1).tolist()
            more = ", …" if len(starts) > 8 else ""
            self.log.say(
                f"step {seen.step}: the update is left out, for {seen.reason}; {self.order.begin_with} "
                f"{', '.join(map(str, starts[:8]))}{more}"
            )
            if seen.in_a_row == IN_A_ROW:
                raise self._diverged(
                    seen.step, f"{IN_A_ROW} updates in a row had to be left out: {seen.reason}"
                )
        if progress.losses and "train_loss" in progress.row:
            losses = torch.stack(progress.losses).tolist()
            sound = [loss for loss in losses if math.isfinite(loss)]
            if sound and len(sound) < len(losses):
                progress.row["train_loss"] = statistics.fmean(sound)
            progress.row = {
                key: x
                for key, x in progress.row.items()
                if not isinstance(x, float) or math.isfinite(x)
            }
            progress.losses = []

    def _diverged(self, step: int, what: str) -> UserError | PeerError:
        if not self.ranks.is_first:
            return PeerError(2)
        rates = "optim.lr" + (" and optim.muon_lr" if self.config.optim.name == "muon" else "")
        return UserError(
            f"the run has diverged at step {step}: {what}; the checkpoints before it are whole. "
            f"Begin again (--again) with a smaller {rates} or a longer optim.warmup_steps"
        )

    def _begin_optimizer(self, *_: object) -> None:
        """Note that the gradient is there: what the optimiser has begun cannot be begun again."""
        self.can_halve = False

    def within_memory(self, work: Callable[[], T], then: Callable[[], None]) -> T:
        """Return what `work` returns; while memory runs out in it, halve the micro-batch, do `then`, and try again."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            # The exception is gone by now, and with it all that the step had in memory.
            self._halve(reason)
            then()

    def _save_halved(self) -> None:
        """Write the halved micro-batch down, so that it is never decided again."""
        self._save(self.progress, is_done=self._done_at == self.progress.step)
        self._saved_at = self.progress.step
        self.run.record(self.config)

    def _go_on_here(self) -> None:
        """Have `fit` go on with the update under way; what was due before it has been done."""
        self._done_at = self.progress.step
        self._save_halved()

    def _halve(self, reason: str) -> None:
        """Take half as many sequences at a time, or the next fewer that make up the batch."""
        train = self.config.train
        size = self.order.micro_batch_size
        if self.ranks.size > 1:
            raise RunError(
                f"memory ran out with {size} sequences at a time ({reason}): begin again with a smaller "
                f"train.micro_batch_size, such as {max(1, size // 2)}; train.parallel fsdp and train.recompute need "
                "less memory, too"
            )
        if not self.can_halve:
            raise RunError(
                f"memory ran out where fewer sequences at a time would not help ({reason}): take a smaller model, or "
                "a device with more memory"
            )
        if size == 1:
            raise UserError(
                f"memory ran out with a single sequence at a time ({reason}): take a smaller model.block_size or "
                "model, train.recompute, or a device with more memory"
            )
        fewer = next(n for n in range(size // 2, 0, -1) if train.batch_size % n == 0)
        self.optimizer.zero_grad(set_to_none=True)
        self._ratio.forget()
        self.loss.train()  # it may have been an evaluation that broke off
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        self.order.micro_batch_size = fewer
        self.config = dataclasses.replace(
            self.config, train=dataclasses.replace(train, micro_batch_size=fewer)
        )
        self.log.say(
            f"memory ran out with {size} sequences at a time ({reason}): from here on there are {fewer}, and "
            f"{train.batch_size // fewer} of such micro-batches in a step; the tokens in a step stay the same"
        )

    def _cannot_write(self, error: OSError) -> RunError:
        """Return what to say when a file cannot be written: which checkpoint is whole, and what to do."""
        newest, _ = self.run.newest_whole()
        kept = f"the checkpoint {newest.path.name} is whole" if newest else "there is no checkpoint"
        what = "make room" if error.errno in FULL else "mend it"
        place = f" ({error.filename})" if error.filename else ""
        return RunError(
            f"the run stops at step {self.progress.step}, for it cannot write: {error.strerror or error}{place}; "
            f"{kept}: {what}, and run the same command again"
        )

    # What it does with the model as it stands:

    def likelihood(self, max_tokens: int | None = None) -> Likelihood:
        """Return how well the model foretells the held-out part, or an evenly spread part of it."""
        train = self.config.train
        # Compiled for the shapes of an evaluation as well, it would take longer than a run of minutes saves.
        eagerly = torch.compiler.set_stance("force_eager") if train.compile == "on" else None
        with eagerly or contextlib.nullcontext():
            found = self.task.likelihood(
                self.loss, self.order.micro_batch_size, max_tokens, self.ranks
            )
        part_again(self.loss)
        return found

    def draw(self, prompt: str | None = None) -> list[str]:
        """Return texts drawn by `config.sample`, prompt included; another prompt may be given."""
        sample = self.config.sample
        prompt = sample.prompt if prompt is None else prompt
        model = self.saver.drawing_model()
        if model is None:
            return []
        # As `minigpt sample` draws it.
        with self.loss.cast.off() if self.loss.cast else contextlib.nullcontext():
            return self.task.draw(model, sample, prompt)

    def load_best(self) -> None:
        """Put the best weights of the run into the model."""
        self.saver.take_weights(self.run.path)
