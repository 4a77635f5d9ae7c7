"""The name of a model in; its shape, its tokenizer and its weights out: what a run begins with that draws none."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt.config import DataConfig, ModelConfig, RunConfig
from minigpt.errors import UserError
from minigpt.finetune.peft_format import is_adapter
from minigpt.interop.causal import CausalLM, unsupported
from minigpt.interop.loading import load_both, located
from minigpt.model.transformer import GPT

FREE = ("dropout", "block_size")  # of a shape: what training may have otherwise


class Beginning:
    """A model that is trained further.

    Attributes:
        name: where it lies, or hf:OWNER/NAME.
        place: where its files lie on this machine.
        is_adapter: whether it is one, merged into its base.
        shape: of the model.
        tokenizer: of the model.
        fingerprint: the SHA-256 of its weights.
    """

    def __init__(self, named: str, done: str) -> None:
        """Open a model by what `minigpt.load` takes; errors as there.

        Args:
            named: the name.
            done: what is to be done with it, "tuned" for instance.

        Raises:
            UserError: it is one that is not trained here, or has no tokenizer.
        """
        place = located(named)
        assert isinstance(place, Path)
        self.name = named if named.startswith("hf:") else str(place.resolve())
        self.place, self.is_adapter = place, is_adapter(place)
        model, self.tokenizer = load_both(place)
        if isinstance(model, CausalLM):
            raise unsupported(model.inner.config.model_type, done)
        self.shape, self.fingerprint = model.config, _fingerprint_of(model)
        self._opened: GPT | None = model

    def model(self) -> GPT:
        """Return the model as it is elsewhere, in eval mode; a new one each time."""
        opened, self._opened = self._opened, None
        return load_both(self.place)[0] if opened is None else opened

    def model_of(self, shape: ModelConfig) -> GPT:
        """Return a new model of a shape that `checked_shape` has let pass, with these weights, in training mode."""
        made, weights = GPT(shape), self.model().state_dict()
        if shape.position == "learned":
            name = "position_embedding.weight"
            weights[name] = weights[name][: shape.block_size]
        made.load_state_dict(weights)
        return made.train()

    def checked_shape(self, asked: ModelConfig) -> ModelConfig:
        """Return the shape that is trained: as asked, or where nothing is asked that of the model.

        Raises:
            UserError: something else is asked than the model has.
        """
        usual = dataclasses.replace(ModelConfig(), dropout=asked.dropout)
        shape = dataclasses.replace(self.shape, dropout=asked.dropout)
        if asked == usual:
            return shape
        shape = dataclasses.replace(shape, block_size=asked.block_size)
        wanted, found = dataclasses.asdict(asked), dataclasses.asdict(shape)
        if others := [f"{name} {found[name]}" for name in found if wanted[name] != found[name]]:
            raise UserError(
                f"{self.name} has {', '.join(others)}, and [model] asks for something else; leave all of [model] out "
                f"but for {' and '.join(FREE)}"
            )
        if shape.position == "learned" and shape.block_size > self.shape.block_size:
            raise UserError(
                f"model.block_size is {shape.block_size}, but {self.name} has learnt {self.shape.block_size} "
                "positions; take as many or fewer"
            )
        return shape

    def checked_data(self, data: DataConfig) -> DataConfig:
        """Return the settings of a text with the tokenizer of this model, where they do not name one."""
        if data.tokenizer != DataConfig().tokenizer:
            return data
        return dataclasses.replace(data, tokenizer=str(self.place))

    def layer(self) -> dict[str, Mapping[str, Any]]:
        """Return the settings that follow from it, for others to be laid over."""
        return {"model": dataclasses.asdict(self.shape), "data": {"tokenizer": str(self.place)}}


@functools.lru_cache(maxsize=1)
def begin_with(named: str) -> Beginning:
    """Return the model that a run on a text begins with; the one that was asked for last is kept."""
    return Beginning(named, "trained further")


def as_begun(config: RunConfig) -> RunConfig:
    """Return the settings with what follows from `train.init_from`; without that, as they are.

    Raises:
        UserError: they ask for another shape than the model has.
    """
    if not config.train.init_from:
        return config
    beginning = begin_with(config.train.init_from)
    return dataclasses.replace(
        config, model=beginning.checked_shape(config.model), data=beginning.checked_data(config.data)
    )  # fmt: skip


def _fingerprint_of(model: GPT) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.contiguous().numpy())
    return found.hexdigest()
