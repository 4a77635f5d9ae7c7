"""The name of a model in; out comes what is tuned: its weights, fresh each time, and how it is talked with."""

import datetime
import hashlib
from pathlib import Path

from minigpt.finetune.chatml import CHATML, with_chat_tokens
from minigpt.finetune.peft_format import is_adapter
from minigpt.finetune.token_rows import add_rows
from minigpt.inference.template import Template
from minigpt.interop.causal import CausalLM, unsupported
from minigpt.interop.export import chat_template
from minigpt.interop.loading import load_both, located
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
        place = located(named)
        assert isinstance(place, Path)
        self.name = named if named.startswith("hf:") else str(place.resolve())
        self.is_adapter = is_adapter(place)
        self._place = place
        model, tokenizer = load_both(place)
        if isinstance(model, CausalLM):
            raise unsupported(model.inner.config.model_type, "tuned")
        self.fingerprint = _fingerprint_of(model)
        source = chat_template(place)
        self.tokenizer = tokenizer if source else with_chat_tokens(tokenizer)
        self.template = Template(source or CHATML, self.tokenizer, now=DAY)
        self.new = [] if source else [self.tokenizer.specials[name] for name in CHAT_TOKENS]
        self._opened: GPT | None = self._with_rows(model)
        self.shape = self._opened.config

    def model(self) -> GPT:
        """Return the model as it is elsewhere, with rows for all ids; a new one each time."""
        opened, self._opened = self._opened, None
        return self._with_rows(load_both(self._place)[0]) if opened is None else opened

    def _with_rows(self, model: GPT) -> GPT:
        missing = self.tokenizer.vocab_size - model.config.vocab_size
        if missing > 0:
            add_rows(model, missing)
        return model


def _fingerprint_of(model: GPT) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.contiguous().numpy())
    return found.hexdigest()
