"""What a run learns from, how it is measured, what it begins as: the next token of a text, or a task of its own.

`job.py` trains whatever is given here: pretraining and tuning differ in their task and not in their loop.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from minigpt.beginning import Beginning, begin_with
from minigpt.config import DataConfig, RunConfig, SampleConfig
from minigpt.data.batches import Batch, Batches
from minigpt.data.corpora import STANDARD_INPUT
from minigpt.data.prepare import prepare
from minigpt.data.tokens import Tokens, find_prepared
from minigpt.errors import UserError
from minigpt.evaluate.baselines import baselines
from minigpt.evaluate.likelihood import Likelihood, evaluate
from minigpt.inference.text import texts
from minigpt.loss import TrainStep
from minigpt.model.size import training_flops_per_token, with_vocabulary
from minigpt.model.transformer import GPT
from minigpt.ranks import ALONE, Ranks
from minigpt.saving import Form, WholeForm
from minigpt.tokenizer import Tokenizer
from minigpt.whole import Sketch

Say = Callable[[str], None]
AND = "+"  # between the fingerprints of a text and of a model


class Order(Protocol):
    """The batches of a run, by step.

    Attributes:
        share: which of the sequences of a step this process takes.
        micro_batch_size: sequences in one forward pass.
        width: positions of a sequence.
        begin_with: in words, what `starts` returns.
    """

    share: range
    micro_batch_size: int
    width: int
    begin_with: str

    def at(self, step: int) -> list[Batch]:
        """Return this process's micro-batches of a step."""
        ...

    def starts(self, step: int) -> np.ndarray:
        """Return where each sequence of a step begins, of all processes, so that a person can find it."""
        ...

    def epoch_at(self, step: int) -> float:
        """Return how many times everything has been read before `step`."""
        ...


class Task(Protocol):
    """What a run learns.

    Attributes:
        tokenizer: of the model.
        form: how its weights are written.
        facts: what `data.json` records.
        fingerprint: equal where all that is learnt from is.
        materials: in words, what the fingerprint is of.
        held_out: tokens that a pass over all that is held out foretells.
    """

    tokenizer: Tokenizer
    form: Form
    facts: dict[str, Any]
    fingerprint: str
    materials: str
    held_out: int

    def settle(self, config: RunConfig) -> RunConfig:
        """Return the settings with all that follows from what is learnt: the shape of the model, the prompt.

        Raises:
            UserError: they do not go together.
        """
        ...

    def sequences(self, config: RunConfig) -> int:
        """Return how many sequences an epoch has."""
        ...

    def order(self, config: RunConfig, ranks: Ranks) -> Order:
        """Return the batches of this process."""
        ...

    def model(self, config: RunConfig, *, sharded: bool) -> GPT:
        """Return the model as it begins, in training mode; `torch.manual_seed` was called."""
        ...

    def likelihood(
        self, step: TrainStep, at_once: int, max_tokens: int | None, ranks: Ranks
    ) -> Likelihood:
        """Return how well what is held out is foretold.

        Args:
            step: the model with its loss.
            at_once: sequences at a time.
            max_tokens: an evenly spread part of about so many; None: all.
            ranks: that share the work.
        """
        ...

    def baselines(self) -> dict[str, dict[str, float]]:
        """Return how well those who know nothing, or hardly anything, foretell it; {} where nobody asks."""
        ...

    def draw(self, model: GPT, settings: SampleConfig, prompt: str) -> list[str]:
        """Return texts as the model writes them now, each with what it goes on from."""
        ...

    def flops_per_token(self, config: RunConfig) -> float | None:
        """Return the floating-point operations of training on a token; None: not known."""
        ...

    def introduction(self, step: TrainStep | None, ranks: Ranks) -> list[str]:
        """Return in sentences what there is to learn from, and what of the model is trained where that is not all.

        Args:
            step: of a run that begins; None where it goes on, and its costs have been said.
            ranks: that share the work.
        """
        ...


Opening = Callable[[RunConfig, Say, str | None], Task]  # settings, who is told, a fingerprint


def open_text(config: RunConfig, say: Say, fingerprint: str | None = None) -> "NextToken":
    """Return the task of a text, prepared if it is not yet.

    Args:
        config: the settings.
        say: is told what takes long.
        fingerprint: of the text that a run was begun with; standard input is read once, and was kept.

    Raises:
        UserError: the text cannot be used, or the settings are those of tuning.
    """
    if config.train.base:
        raise UserError(
            f"train.base is {config.train.base}: these are settings of tuning; minigpt finetune {config.train.base} "
            "--config FILE repeats them"
        )
    named = config.train.init_from
    beginning = begin_with(named) if named else None
    was_read = config.data.source == STANDARD_INPUT and fingerprint
    kept = find_prepared(fingerprint.partition(AND)[0]) if was_read and fingerprint else None
    return NextToken(kept or prepare(config.data, say), config.data, beginning)


class NextToken:
    """To foretell the next token of a text; attributes as of `Task`."""

    def __init__(
        self, tokens: Tokens, data: DataConfig, beginning: Beginning | None = None
    ) -> None:
        """Learn from a text.

        Args:
            tokens: of the text.
            data: the settings that they were made by.
            beginning: whose weights training begins with; None: they are drawn.

        Raises:
            UserError: text and model have not the same tokenizer.
        """
        self.tokens, self.tokenizer, self.facts = tokens, tokens.tokenizer, tokens.facts
        self.form: Form = WholeForm()
        self.fingerprint, self.held_out = tokens.fingerprint, len(tokens.val)
        self.materials = f"the text of {data.source}"
        if beginning is not None:
            if beginning.tokenizer.fingerprint() != self.tokenizer.fingerprint():
                raise UserError(
                    f"{data.source} is cut by {data.tokenizer}, but the weights of {beginning.name} mean nothing "
                    "without its own tokenizer; leave data.tokenizer out, or prepare the text again with "
                    f"--tokenizer {beginning.place}"
                )
            self.fingerprint += AND + beginning.fingerprint
            self.materials += f", or the model {beginning.name},"
        self._data, self._beginning = data, beginning
        self._separator = tokens.tokenizer.eos_id if data.documents == "separate" else None

    def settle(self, config: RunConfig) -> RunConfig:
        """Return the settings with the shape of the model and a prompt that the tokenizer knows; errors as `Task`."""
        model = with_vocabulary(config.model, self.tokenizer.vocab_size)
        if self.held_out < 2:
            raise UserError(f"the held-out part has {self.held_out} tokens; use more text")
        if config.data.documents == "separate" and self.tokenizer.eos_id is None:
            raise UserError(
                "data.documents is separate, but the tokenizer has no end-of-text token to tell documents by; "
                "use join, or another tokenizer"
            )
        return dataclasses.replace(config, model=model, sample=self._sample_for(config.sample))

    def _sample_for(self, sample: SampleConfig) -> SampleConfig:
        """Return the settings for samples; a text without line ends has the end-of-text token as default prompt."""
        try:
            self.tokenizer.encode(sample.prompt)
        except UserError as error:
            if sample.prompt == SampleConfig().prompt:
                return dataclasses.replace(sample, prompt="")
            raise UserError(f"sample.prompt cannot be used: {error}") from None
        return sample

    def sequences(self, config: RunConfig) -> int:
        """Return the windows of an epoch."""
        return self.order(config, ALONE).windows_per_epoch

    def order(self, config: RunConfig, ranks: Ranks) -> Batches:
        """Return the windows that this process takes."""
        return Batches(
            self.tokens.train,
            block_size=config.model.block_size,
            batch_size=config.train.batch_size,
            micro_batch_size=config.train.sequences_at_once(ranks.size),
            seed=config.data.seed,
            separator=self._separator,
            streamed=config.data.stream,
            rank=ranks.rank,
            world_size=ranks.size,
        )

    def model(self, config: RunConfig, *, sharded: bool) -> GPT:
        """Return a model with weights as they are drawn; one in shards is drawn when it is in parts."""
        if self._beginning is not None:
            return self._beginning.model_of(config.model)
        return (Sketch if sharded else GPT)(config.model)

    def likelihood(
        self, step: TrainStep, at_once: int, max_tokens: int | None, ranks: Ranks
    ) -> Likelihood:
        """Return how well the held-out part of the text is foretold."""
        return evaluate(
            step,
            self.tokens.val,
            self.tokenizer,
            batch_size=at_once,
            max_tokens=max_tokens,
            separator=self._separator,
            ranks=ranks,
        )

    def baselines(self) -> dict[str, dict[str, float]]:
        """Return what counting tokens comes to; of a stream nothing, for it is not there yet."""
        tokens = self.tokens
        return {} if self._data.stream else baselines(tokens.train, tokens.val, self.tokenizer)

    def draw(self, model: GPT, settings: SampleConfig, prompt: str) -> list[str]:
        """Return texts that go on from the prompt."""
        return texts(model, self.tokenizer, prompt, settings)

    def flops_per_token(self, config: RunConfig) -> float | None:
        """Return those of the forward and the backward pass through all of the model."""
        return training_flops_per_token(config.model)

    def introduction(self, step: TrainStep | None, ranks: Ranks) -> list[str]:
        """Return how many tokens there are, and of which kind."""
        held_out, trained = self.facts["val"], self.facts["train"]
        amount = f"{trained['tokens']:,}" if trained["tokens"] else "a stream of"
        whose = []
        if self._beginning is not None:
            lost = "; its chat template is left behind, for this run goes on from a text"
            name = self._beginning.name
            whose.append(f"the weights of {name}, trained further{lost * self._beginning.chats}")
        return [
            *whose,
            f"{self.facts['source']}: {amount} tokens to train on, {held_out['tokens']:,} held out; "
            f"{self.tokenizer.vocab_size:,} ids ({self.tokenizer.kind})",
        ]
