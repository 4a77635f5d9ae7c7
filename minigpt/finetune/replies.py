"""Conversations and a model in, the task of answering as they do out: what `job.py` trains in the place of a text.

    conversations -> examples -> packed rows -> the loss on the assistant's tokens alone

The model begins as it is elsewhere. With an adapter it stays so, and small matrices beside its own are trained
(`lora.py`); with `lora.rank` 0 all of it is. A model that has never been talked with gets ChatML as its template, and
the rows of its special tokens are trained with an adapter, too.
"""

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from minigpt.config import ModelConfig, RunConfig, SampleConfig
from minigpt.data.split import Split
from minigpt.errors import UserError
from minigpt.evaluate.clusters import Tally
from minigpt.evaluate.likelihood import Likelihood, in_portions, likelihood_of, sizes_of
from minigpt.files import expanded
from minigpt.finetune.adapter_form import AdapterForm, ChatForm
from minigpt.finetune.base import Base
from minigpt.finetune.conversations import Conversations, Recorded, counted, read_conversations
from minigpt.finetune.costs import seconds_beside, trained_share
from minigpt.finetune.lora import swap_in
from minigpt.finetune.packing import PackedBatches
from minigpt.finetune.targets import Example, make_examples
from minigpt.inference.engine import Engine
from minigpt.inference.plain import Plain
from minigpt.inference.template import Message
from minigpt.loss import IGNORED, TrainStep
from minigpt.model.transformer import GPT
from minigpt.ranks import Ranks
from minigpt.saving import Form
from minigpt.task import Say

ASKED = 3  # held-out conversations whose first answer is drawn beside the one that is recorded


def open_replies(
    config: RunConfig, say: Say, fingerprint: str | None = None, *, strict: bool = False
) -> "Replies":
    """Return the task of answering as the conversations in `data.source` do.

    Args:
        config: the settings; `train.base` is tuned.
        say: is told what was found, and what is left out.
        fingerprint: of what a run was begun with; everything is read again anyway.
        strict: a broken record is refused instead of counted.

    Raises:
        UserError: base or file cannot be used.
    """
    if not config.train.base:
        raise UserError(
            "train.base is empty; name the model to tune: a run, a Hugging Face directory"
        )
    conversations = read_conversations(expanded(config.data.source), strict=strict)
    for sentence in conversations.sentences():
        say(sentence)
    base = Base(config.train.base)
    if config.lora.rank and base.is_adapter:
        raise UserError(
            f"{config.train.base} is an adapter itself; merge it first (minigpt export {config.train.base} --to hf "
            "--out DIR) and tune that, or train all weights with --lora.rank 0"
        )
    examples = make_examples(conversations, base.template, base.shape.block_size, strict=strict)
    for sentence in examples.sentences():
        say(sentence)
    return Replies(config, base, conversations, examples.good)


class Replies:
    """To answer as the assistant of the conversations does; attributes as of `minigpt.task.Task`.

    Attributes:
        base: what is tuned.
        trained, val: the examples to learn from, and those held out.
        has_adapter: whether an adapter is trained, and not all weights.
    """

    def __init__(
        self, config: RunConfig, base: Base, conversations: Conversations, examples: list[Example]
    ) -> None:
        """Hold some of the examples out.

        Raises:
            UserError: there are fewer than two.
        """
        self.base, self.tokenizer = base, base.tokenizer
        self.has_adapter = config.lora.rank > 0
        self.trained, self.val = _split(config, conversations.name, examples)
        self.form: Form = (
            AdapterForm(base.name, base.template.source)
            if self.has_adapter
            else ChatForm(base.template.source, base.template.ends())
        )
        held_out = _fingerprint(self.val)
        known = (
            base.fingerprint,
            base.tokenizer.fingerprint(),
            _fingerprint(self.trained),
            held_out,
        )
        self.fingerprint = hashlib.sha256("\n".join(known).encode()).hexdigest()
        self.materials = f"{conversations.name}, or the model {config.train.base}"
        self.held_out = _targets_in(self.val)
        # With learned positions a conversation has to begin at the first.
        self._packed = base.shape.position == "rope"
        self._held = PackedBatches(
            self.val, block_size=base.shape.block_size, batch_size=1, packed=self._packed
        )
        by_number = {recorded.number: recorded for recorded in conversations.good}
        self._asked = [by_number[example.number] for example in self.val[:ASKED]]
        self.facts = {
            "source": conversations.name,
            "base": base.name,
            "formats": dict(conversations.formats),
            "train": _counts(self.trained),
            "val": _counts(self.val),
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer": self.tokenizer.fingerprint(),
            "held_out": held_out,
            "fingerprint": self.fingerprint,
        }

    def settle(self, config: RunConfig) -> RunConfig:
        """Return the settings with the shape of the base.

        Raises:
            UserError: they ask for another shape, or for a prompt that the tokenizer does not know.
        """
        shape = dataclasses.replace(self.base.shape, dropout=config.model.dropout)
        asked = dataclasses.replace(config.model, dropout=0.0)
        if asked not in (ModelConfig(), dataclasses.replace(shape, dropout=0.0)):
            raise UserError(
                f"the model {config.train.base} has its own shape; leave the settings of [model] out, but for dropout"
            )
        if config.sample.prompt != SampleConfig().prompt:
            self.base.template.ids([{"role": "user", "content": config.sample.prompt}])
        train = config.train
        if self.has_adapter and train.parallel == "auto":
            train = dataclasses.replace(train, parallel="ddp")
        return dataclasses.replace(config, model=shape, train=train)

    def sequences(self, config: RunConfig) -> int:
        """Return the rows of an epoch."""
        return self._rows(config).windows_per_epoch

    def order(self, config: RunConfig, ranks: Ranks) -> PackedBatches:
        """Return the rows that this process takes."""
        return self._rows(
            config,
            micro_batch_size=config.train.sequences_at_once(ranks.size),
            rank=ranks.rank,
            world_size=ranks.size,
        )

    def _rows(self, config: RunConfig, **options: Any) -> PackedBatches:
        return PackedBatches(
            self.trained,
            block_size=config.model.block_size,
            batch_size=config.train.batch_size,
            packed=self._packed,
            seed=config.data.seed,
            **options,
        )

    def model(self, config: RunConfig, *, sharded: bool) -> GPT:
        """Return the base, with a fresh adapter in it where there is to be one.

        Raises:
            UserError: an adapter is asked for in shards.
        """
        if sharded and self.has_adapter:
            raise UserError(
                "train.parallel asks for shards, but an adapter is trained beside a whole copy of its base in each "
                "process; take ddp, or train all weights with --lora.rank 0"
            )
        model = self.base.model()
        model.config = config.model
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.model.dropout
        if self.has_adapter:
            swap_in(model, config.lora, rows=self.base.new, seed=config.train.seed)
        return model.train()

    def likelihood(
        self, step: TrainStep, at_once: int, max_tokens: int | None, ranks: Ranks
    ) -> Likelihood:
        """Return how well the held-out answers are foretold; standard errors are by conversation."""
        started, (sizes, characters) = time.perf_counter(), sizes_of(self.tokenizer)
        rows = self._held.rows
        if max_tokens is not None and (wanted := max(1, max_tokens // self._held.width)) < len(
            rows
        ):
            rows = [rows[i] for i in np.linspace(0, len(rows) - 1, wanted).round().astype(int)]
        portions = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
        tally, bytes_, chars = Tally(), 0, 0
        for portion, batch, nats in in_portions(step, portions, self._held.batch, ranks):
            targets = batch.targets[batch.targets != IGNORED].numpy()
            inside = [i for row in portion for i in row]
            counts = [int(self.val[i].said[1:].sum()) for i in inside]
            tally.add(np.repeat(inside, counts), nats, sizes[targets])
            bytes_ += int(sizes[targets].sum())
            chars += int(characters[targets].sum())
        return likelihood_of(tally, tally, chars, bytes_, started, ranks)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Return nothing: what is to be beaten is the base itself, before the first update."""
        return {}

    def draw(self, model: GPT, settings: SampleConfig, prompt: str) -> list[str]:
        """Return answers to the prompt; without one, to the first questions that are held out."""
        training = model.training
        model.eval()
        engine, texts = Engine(Plain(model), self.tokenizer), []
        for number, messages in enumerate(self._questions(settings, prompt)):
            room = model.config.block_size - 1
            ids = self.base.template.ids(messages)[-room:]
            answer = engine.submit(
                ids, settings, seed=settings.seed + number, ends=self.base.template.ends()
            )
            texts.append(f"{messages[-1]['content']}\n→ {''.join(engine.run(answer))}")
        model.train(training)
        return texts

    def _questions(self, settings: SampleConfig, prompt: str) -> Iterable[list[Message]]:
        if prompt != SampleConfig().prompt:
            return [[{"role": "user", "content": prompt}]] * settings.num_samples
        return [_up_to_answer(recorded) for recorded in self._asked]

    def flops_per_token(self, config: RunConfig) -> float | None:
        """Return None: rows are padded, and an adapter has no gradients for most weights."""
        return None

    def introduction(self, step: TrainStep | None, ranks: Ranks) -> list[str]:
        """Return how many conversations there are; of an adapter what it costs beside training all weights."""
        rows = PackedBatches(
            self.trained, block_size=self.base.shape.block_size, batch_size=1, packed=self._packed
        )
        how = "packed into" if self._packed else "each of them in one of"
        told = [
            f"{self.facts['source']}: {counted(len(self.trained), 'conversation')} to learn from ({how} "
            f"{len(rows.rows):,} rows of {rows.width} tokens, {rows.filled:.0%} full), {len(self.val):,} held out"
        ]
        if self.has_adapter and step is not None:
            told.append(trained_share(step))
            device = step.model.head.weight.device
            if ranks.size == 1 and (said := seconds_beside(step, rows.at(0)[0].to(device))):
                told.append(said)
        return told


def _up_to_answer(recorded: Recorded) -> list[Message]:
    first = next(n for n, m in enumerate(recorded.messages) if m["role"] == "assistant")
    return recorded.messages[:first]


def _split(
    config: RunConfig, name: str, examples: list[Example]
) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn from and those held out: spread evenly, or the first N; one of each at least."""
    count, data = len(examples), config.data
    if count < 2:
        raise UserError(
            f"{name} has {counted(count, 'conversation')} that can be learnt from; one is held out, so that at least 2 "
            "are needed"
        )
    rule = (
        Split("first", data.val_documents)
        if data.val_documents
        else Split("every", data.val_fraction)
    )
    before = [rule.held_out_before(number) for number in range(count + 1)]
    held = [after > this for this, after in itertools.pairwise(before)]
    if not any(held):
        held[-1] = True
    if all(held):
        asked = (
            f"data.val_documents = {data.val_documents}"
            if data.val_documents
            else f"data.val_fraction = {data.val_fraction}"
        )
        raise UserError(
            f"{asked} would hold out all of the {counted(count, 'conversation')} in {name}; take less"
        )
    pairs = list(zip(examples, held, strict=True))
    return [e for e, out in pairs if not out], [e for e, out in pairs if out]


def _targets_in(examples: Sequence[Example]) -> int:
    return sum(int(example.said[1:].sum()) for example in examples)


def _counts(examples: Sequence[Example]) -> dict[str, int]:
    tokens = sum(example.length for example in examples)
    return {"conversations": len(examples), "tokens": tokens, "targets": _targets_in(examples)}


def _fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of examples."""
    found = hashlib.sha256()
    for example in examples:
        found.update(f"{len(example.ids)}\n".encode())
        found.update(example.ids.tobytes() + example.said.tobytes())
    return found.hexdigest()
