"""Settings in, a trained run directory out: builds the parts, resumes where a run stopped, and calls `fit`."""

import copy
import dataclasses
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minigpt import config as settings
from minigpt.config import DEFAULT_STEPS, RunConfig
from minigpt.data.batches import Batch, Batches
from minigpt.data.prepare import Tokens, prepare
from minigpt.errors import UserError
from minigpt.evaluate.likelihood import Likelihood, evaluate
from minigpt.fit import Progress, fit, update
from minigpt.log import Log, results
from minigpt.loss import TrainStep
from minigpt.model.families import FAMILIES, check_tensors, family_of, read_model
from minigpt.model.size import padded_vocab_size, parameter_count
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer, optimizer_tensors, restore_optimizer
from minigpt.optim.schedule import learning_rate
from minigpt.rundir import Checkpoint, RunDir
from minigpt.runtime import Runtime, prepare_step, start_runtime
from minigpt.sampling import generate

TRIAL_SECONDS = 2.0  # of steps that are timed and thrown away before a run of so many minutes
HARMLESS = ("train.log_every", "train.checkpoint_every", "train.keep", "train.sample_every")


class Pretraining:
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
        )
        torch.manual_seed(train.seed)
        self.model = GPT(config.model)
        self.step = prepare_step(TrainStep(self.model), runtime, train)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.progress = Progress()
        self._resumed_at: int | None = None
        self._stop = threading.Event()
        log.total_steps = self.steps

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up weights, optimiser and progress, and cut the logs to what the checkpoint knew."""
        state = checkpoint.state()
        weights = read_model(checkpoint.path)[1]
        check_tensors(checkpoint.path, self.model.state_dict(), weights)
        self.model.load_state_dict(weights)
        restore_optimizer(self.optimizer, self.model, checkpoint.optimizer())
        self.progress = Progress(**state["progress"])
        self.progress.losses = [
            torch.tensor(loss, device=self.runtime.device) for loss in self.progress.losses
        ]
        self._resumed_at = self.progress.step
        self.log.cut(state["logs"])

    def fit(self) -> None:
        """Train to the end, or until SIGINT or SIGTERM; the step under way is finished and saved.

        Raises:
            KeyboardInterrupt, SystemExit(143): somebody stopped the run; it is saved.
        """
        with _Signals(self._stop) as signals, self.log:
            fit(self, self.progress)
        if self.progress.step < self.steps:
            self.log.say(
                f"stopped and saved at step {self.progress.step}; the same command goes on from here"
            )
            signals.raise_received()

    # What `fit` asks for:

    def batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step, on the device."""
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
        state = dataclasses.asdict(progress) | {"losses": [float(x) for x in progress.losses]}
        self.run.save_checkpoint(
            progress.step,
            self.model,
            self.tokens.tokenizer,
            optimizer_tensors(self.optimizer, self.model),
            {
                "progress": state,
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
        found = self.likelihood(max_tokens=self.config.train.eval_tokens)
        progress.row |= {"val_loss": found.loss, "val_bits_per_byte": found.bits_per_byte}
        if self.tokens.tokenizer.kind == "char":
            progress.row["val_bits_per_char"] = found.bits_per_char
        if progress.best_loss is None or found.loss < progress.best_loss:
            progress.best_loss, progress.best_step = found.loss, progress.step
            self.run.publish_best(self.model, self.tokens.tokenizer)
        every = self.config.train.sample_every or self.config.train.eval_every
        if progress.step % every == 0 or progress.step == self.steps:
            self.log.samples(progress.step, self.draw())

    def report(self, progress: Progress) -> None:
        """Write the row, if there is one, and move the live line."""
        self.log.step(progress.step)
        if not progress.row:
            return
        row = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(self.order.epoch_at(progress.step), 4),
            "seconds": round(progress.seconds, 3),
            **progress.row,
            "peak_memory_bytes": self.runtime.peak_memory_bytes(),
        }
        if "train_loss" in row:
            tokens, seconds = progress.logged
            speed = (progress.tokens - tokens) / max(1e-9, progress.seconds - seconds)
            row["tokens_per_second"] = round(speed)
            progress.logged = (progress.tokens, progress.seconds)
        self.log.row(row)
        progress.row = {}

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
        self.model.load_state_dict(read_model(self.run.path)[1])

    def seconds_per_step(self) -> tuple[float, float]:
        """Return the seconds of an update and of an evaluation with its sample, timed on a copy."""
        model = copy.deepcopy(self.model)
        step = prepare_step(TrainStep(model), self.runtime, self.config.train)
        optimizer = make_optimizer(model, self.config.optim)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 8 or time.perf_counter() - began < TRIAL_SECONDS:
            started = time.perf_counter()
            update(step, optimizer, self.batches(len(times)), self.clip)
            self.runtime.wait()
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        self.likelihood(max_tokens=self.config.train.eval_tokens)
        self.draw()
        return statistics.mean(sorted(times)[: -len(times) // 4]), time.perf_counter() - started


def train(
    config: RunConfig,
    out: Path | str = "runs/latest",
    *,
    again: bool = False,
    override: bool = False,
    started: float | None = None,
) -> Path:
    """Train a model, or go on where the run in `out` stopped; return the run directory.

    Args:
        config: the settings.
        out: the run directory.
        again: start over, even if `out` holds a run.
        override: go on with changed settings.
        started: when the process began, on `time.monotonic`; `train.minutes` counts from here.

    Raises:
        UserError: settings, text or run directory cannot be used.
    """
    job = prepare_run(config, out, again=again, override=override, started=started)
    introduce(job)
    if job.progress.step >= job.steps:
        job.log.say(f"this run is finished ({job.steps} steps); --again starts over")
    job.fit()
    job.load_best()
    found = job.likelihood()
    job.log.say(
        f"held-out loss {found.loss:.4f} nats per token, {found.bits_per_byte:.4f} bits per byte, over all "
        f"{found.tokens:,} tokens (weights of step {job.progress.best_step})"
    )
    job.log.say(f"{job.progress.seconds:.1f} s in updates; the run is {job.run.path}")
    for text in job.draw():
        results(text)
    return job.run.path


def prepare_run(
    config: RunConfig,
    out: Path | str,
    *,
    again: bool = False,
    override: bool = False,
    started: float | None = None,
) -> Pretraining:
    """Return the job of the run in `out`, new or resumed, ready to `fit`; arguments as `train`."""
    started = time.monotonic() if started is None else started
    settings.check(config)
    run, log = RunDir(out), Log(Path(out))
    run.check_free()
    checkpoint, skipped = (None, []) if again else run.newest_whole()
    if checkpoint is not None:
        return _resumed(config, run, log, checkpoint, skipped, override)
    runtime = start_runtime(config.train)
    tokens = prepare(config.data, log.say)
    resolved = resolve(config, tokens, runtime, run, log, started)
    job = Pretraining(resolved, config, tokens, runtime, run, log)
    run.clear()
    run.create(resolved, tokens.facts)
    for line in skipped:
        log.say(line)
    return job


def _resumed(
    config: RunConfig,
    run: RunDir,
    log: Log,
    checkpoint: Checkpoint,
    skipped: list[str],
    override: bool,
) -> Pretraining:
    state = checkpoint.state()
    resolved = settings_to_resume(config, state, override)
    runtime = start_runtime(resolved.train)
    tokens = prepare(config.data)
    if state["data"] != tokens.fingerprint:
        raise UserError(
            f"the text of {config.data.source} has changed since {run.path} was begun; "
            "restore it, or pass --again to start over"
        )
    job = Pretraining(resolved, config, tokens, runtime, run, log)
    job.resume(checkpoint)
    run.create(resolved, tokens.facts)
    for line in skipped:
        log.say(line)
    _say_what_differs(log, state["runtime"], runtime.describe())
    return job


def resolve(
    config: RunConfig, tokens: Tokens, runtime: Runtime, run: RunDir, log: Log, started: float
) -> RunConfig:
    """Return the settings with everything decided that depends on text, machine or clock."""
    ids = tokens.tokenizer.vocab_size
    rows = config.model.vocab_size or padded_vocab_size(ids)
    if rows < ids:
        raise UserError(
            f"model.vocab_size is {rows:,} but the tokenizer has {ids:,} ids; leave it out, or take {ids:,}"
        )
    if len(tokens.val) < 2:
        raise UserError(
            f"the held-out part has {len(tokens.val)} tokens; use more text or a larger data.val_fraction"
        )
    model = dataclasses.replace(config.model, vocab_size=rows).resolve()
    dtype: Any = "bf16" if runtime.dtype == torch.bfloat16 else "fp32"
    train = dataclasses.replace(config.train, device=str(runtime.device), dtype=dtype)
    config = dataclasses.replace(config, model=model, train=train)
    steps = train.steps or DEFAULT_STEPS
    if train.minutes or train.epochs:
        trial = Pretraining(_of_length(config, 1), config, tokens, runtime, run, log)
        if train.epochs:
            steps = math.ceil(train.epochs * trial.order.windows_per_epoch / train.batch_size)
        elif train.minutes:
            steps = steps_in(train.minutes * 60 - (time.monotonic() - started), trial)
    return _of_length(config, steps)


def steps_in(seconds: float, trial: Pretraining) -> int:
    """Return how many steps, with their evaluations and the end of the run, fit into `seconds`."""
    update_seconds, evaluation_seconds = trial.seconds_per_step()
    tokens_at_end = len(trial.tokens.val) / min(
        trial.config.train.eval_tokens, len(trial.tokens.val)
    )
    left = seconds - TRIAL_SECONDS - evaluation_seconds * (3 + tokens_at_end)
    each = update_seconds + evaluation_seconds / trial.config.train.eval_every
    return max(1, int(left / each))


def settings_to_resume(config: RunConfig, state: dict[str, Any], override: bool) -> RunConfig:
    """Return the settings to go on with: those of the checkpoint, and of the new ones what cannot matter.

    Raises:
        UserError: a setting that matters has changed and `override` is not given.
    """
    resolved = settings.from_dict(state["config"], "the checkpoint")
    requested = settings.from_dict(state["requested"], "the checkpoint")
    changed = settings.changes(requested, config)
    if not settings.changes(resolved, config):
        changed = {}  # `--config run.toml` of the same run
    serious = {
        k: v for k, v in changed.items() if k not in HARMLESS and not k.startswith("sample.")
    }
    if serious and not override:
        listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in serious.items())
        raise UserError(
            f"the run was begun with other settings: {listed}. Restore them, pass --override to go on with "
            "the new ones, or --again to start over"
        )
    sections: dict[str, dict[str, Any]] = {}
    for key, (_, new) in changed.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = new
    return settings.build([("the checkpoint", state["config"]), ("the new settings", sections)])


def introduce(job: Pretraining) -> None:
    """Say what is about to happen: text, model, length, place."""
    config, tokens, say = job.config, job.tokens, job.log.say
    held_out, trained = tokens.facts["val"], tokens.facts["train"]
    say(
        f"data   {tokens.facts['source']}: {trained['tokens']:,} tokens to train on, "
        f"{held_out['tokens']:,} held out; {tokens.tokenizer.vocab_size:,} ids ({tokens.tokenizer.kind})"
    )
    shape = config.model
    say(
        f"model  {parameter_count(shape):,} parameters: {shape.n_layer} layers, {shape.n_head} heads, "
        f"{shape.n_embd} channels, context {shape.block_size} ({FAMILIES[family_of(shape)].architecture})"
    )
    per_step = config.train.batch_size * shape.block_size
    say(
        f"train  {job.steps:,} steps of {config.train.batch_size} x {shape.block_size} = {per_step:,} tokens "
        f"({job.order.epoch_at(job.steps):.1f} epochs) on {job.runtime.device} in {config.train.dtype}, "
        f"{torch.get_num_threads()} threads"
    )
    if job.progress.step:
        say(f"going on from step {job.progress.step}")
    else:
        say(
            f"the loss of a model that knows nothing is ln {shape.vocab_size} = {math.log(shape.vocab_size):.2f}"
        )


def _of_length(config: RunConfig, steps: int) -> RunConfig:
    """Return the settings for so many steps; a warm-up that would take up the run is shortened to a tenth of it."""
    train = dataclasses.replace(config.train, steps=steps, epochs=0.0, minutes=0.0)
    warmup = config.optim.warmup_steps
    optim = dataclasses.replace(
        config.optim, warmup_steps=warmup if warmup < steps else steps // 10
    )
    return dataclasses.replace(config, train=train, optim=optim)


def _say_what_differs(log: Log, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [
        f"{key} was {before[key]}, is {now[key]}" for key in now if before.get(key) != now[key]
    ]
    if differing:
        log.say(
            f"this is not the machine that the run was begun on ({'; '.join(differing)}): "
            "it goes on, but no longer bit for bit"
        )


class _Signals:
    """Sets an event at the first SIGINT or SIGTERM; the second one ends the process at once."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self._before: dict[int, Callable[..., Any] | int | None] = {}
        self.received: int | None = None

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_received(self) -> None:
        """Raise what the signal would have raised by itself."""
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _receive(self, number: int, frame: object) -> None:
        if self._event.is_set():
            self.__exit__()
            signal.raise_signal(number)
        self.received = number
        self._event.set()
