"""The name of a model in; its shape, its tokenizer and its weights out: what a run begins with that draws none."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt.config import DataConfig, ModelConfig, RunConfig
from minigpt.errors import UserError
from minigpt.evaluate.measure import run_of
from minigpt.files import cache_folder, expanded
from minigpt.finetune.peft_format import is_adapter
from minigpt.interop.causal import CausalLM, unsupported
from minigpt.interop.export import chat_template
from minigpt.interop.loading import load_both, located
from minigpt.model.transformer import GPT
from minigpt.model.undrawn import Undrawn

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
        chats: whether a chat template lies with it.
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
        self.chats = chat_template(place) is not None
        self.shape, self.fingerprint = model.config, _fingerprint_of(model)
        self._opened: GPT | None = model

    def model(self) -> GPT:
        """Return the model as it is elsewhere, in eval mode; a new one each time.

        Raises:
            UserError: other weights lie there by now.
        """
        opened, self._opened = self._opened, None
        if opened is not None:
            return opened
        found = load_both(self.place)[0]
        if _fingerprint_of(found) != self.fingerprint:
            raise UserError(
                f"{self.name} has changed since it was opened; run the same command again"
            )
        return found

    def model_of(self, shape: ModelConfig) -> GPT:
        """Return a new model of a shape that `checked_shape` has let pass, with these weights, in training mode."""
        weights = self.model().state_dict()
        with Undrawn():
            made = GPT(shape)
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
        free = {name: getattr(asked, name) for name in FREE}
        shape = dataclasses.replace(self.shape, **free)
        if asked == dataclasses.replace(ModelConfig(), **free):  # nothing else is asked for
            others = {n: v for n, v in free.items() if v != getattr(ModelConfig(), n)}
            asked = shape = dataclasses.replace(self.shape, **others)
        wanted, found = dataclasses.asdict(asked), dataclasses.asdict(shape)
        if others := [f"{name} {found[name]}" for name in found if wanted[name] != found[name]]:
            raise UserError(
                f"{self.name} has {', '.join(others)}, and [model] asks for something else; leave all of [model] out "
                f"but for {' and '.join(FREE)}, and --preset with it"
            )
        if shape.position == "learned" and shape.block_size > self.shape.block_size:
            raise UserError(
                f"model.block_size is {shape.block_size}, but {self.name} has learnt {self.shape.block_size} "
                "positions; take as many or fewer"
            )
        return shape

    def checked_data(self, data: DataConfig) -> DataConfig:
        """Return the settings of a text with the tokenizer of this model, where they do not name one."""
        known = (DataConfig().tokenizer, self.tokenizer.fingerprint())
        if Path(data.tokenizer).name not in known:
            return data
        return dataclasses.replace(data, tokenizer=self.tokenizer_place())

    def layer(self) -> dict[str, Mapping[str, Any]]:
        """Return the settings that follow from it, for others to be laid over."""
        shape, tokenizer = dataclasses.asdict(self.shape), {"tokenizer": self.tokenizer_place()}
        return {"model": shape, "data": tokenizer}

    def tokenizer_place(self) -> str:
        """Return where its tokenizer lies: by its content in the cache, so that it stays wherever the model goes."""
        folder = cache_folder() / "tokenizers" / self.tokenizer.fingerprint()
        if not (folder / "tokenizer.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save(folder)
        return str(folder)


def begin_with(named: str) -> Beginning:
    """Return the model that a run on a text begins with; the last one asked for is kept while it is the same."""
    place = located(named)
    files = sorted(place.iterdir()) if isinstance(place, Path) and place.is_dir() else [place]
    stats = [path.stat() for path in files if isinstance(path, Path) and path.is_file()]
    return _begin_with(named, tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))


@functools.lru_cache(maxsize=1)
def _begin_with(named: str, _state: tuple[tuple[int, int], ...]) -> Beginning:
    return Beginning(named, "trained further")


def as_begun(config: RunConfig) -> RunConfig:
    """Return the settings with what follows from `train.init_from`; without that, as they are.

    Raises:
        UserError: they ask for another shape than the model has.
    """
    if not config.train.init_from:
        return config
    if config.train.base:
        raise UserError(
            "train.init_from belongs to minigpt train, and train.base to minigpt finetune; leave one out"
        )
    beginning = begin_with(config.train.init_from)
    return dataclasses.replace(
        config, model=beginning.checked_shape(config.model), data=beginning.checked_data(config.data),
        train=dataclasses.replace(config.train, init_from=beginning.name),
    )  # fmt: skip


def check_elsewhere(named: str, out: Path | str) -> None:
    """Refuse to write a run where the model lies that it begins with.

    Raises:
        UserError: `out` is that model, or the run that it is a checkpoint of.
    """
    if not named or named.startswith("hf:"):
        return
    place = expanded(named)
    home = run_of(named) if place.is_dir() else place.resolve().parent
    if home == expanded(str(out)).resolve():
        raise UserError(f"--out {out} is the model that the run begins with; choose another --out")


def _fingerprint_of(model: GPT) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.contiguous().numpy())
    return found.hexdigest()
