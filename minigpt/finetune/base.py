"""The name of a model in; out comes what is tuned: its weights, fresh each time, and how it is talked with."""

import dataclasses
import datetime

from minigpt.beginning import Beginning
from minigpt.finetune.chatml import CHATML, with_chat_tokens
from minigpt.finetune.token_rows import add_rows
from minigpt.inference.template import Template
from minigpt.interop.export import chat_template
from minigpt.model.transformer import GPT
from minigpt.tokenizer.patterns import CHAT_TOKENS

# What a template is told that asks for today: what is learnt must not depend on the day. Llama 3.2's own default.
DAY = datetime.datetime(2024, 7, 26)


class Base:
    """A model that is to be tuned.

    Attributes:
        name: as an adapter names it: where it lies, or hf:OWNER/NAME.
        is_adapter: whether it is one itself, merged into its own base.
        shape: with rows for all ids of the tokenizer.
        tokenizer: with the special tokens of the template.
        template: its own, else ChatML.
        new: ids of chat tokens that it has not been trained on.
        fingerprint: the SHA-256 of its weights.
    """

    def __init__(self, named: str) -> None:
        """Open a model by what `minigpt.load` takes; errors as there.

        Raises:
            UserError: it is one that is not trained here, or has no tokenizer.
        """
        self._beginning = beginning = Beginning(named, "tuned")
        self.name, self.is_adapter = beginning.name, beginning.is_adapter
        self.fingerprint = beginning.fingerprint
        source = chat_template(beginning.place)
        self.tokenizer = beginning.tokenizer if source else with_chat_tokens(beginning.tokenizer)
        self.template = Template(source or CHATML, self.tokenizer, now=DAY)
        self.new = [] if source else [self.tokenizer.specials[name] for name in CHAT_TOKENS]
        rows = max(beginning.shape.vocab_size, self.tokenizer.vocab_size)
        self.shape = dataclasses.replace(beginning.shape, vocab_size=rows)

    def model(self) -> GPT:
        """Return the model as it is elsewhere, with rows for all ids; a new one each time."""
        model = self._beginning.model()
        if missing := self.shape.vocab_size - model.config.vocab_size:
            add_rows(model, missing)
        return model
