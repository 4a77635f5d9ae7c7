"""A model and its optimiser, whole or in shards, in; files of the run directory out, and back.

Where it helps, files are written while training goes on: the numbers are copied to host memory first. Several
processes write what the optimiser remembers each in part; the weights are gathered by the first, so that what it writes
is a model directory like any other.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from minigpt.background import Background
from minigpt.errors import UserError
from minigpt.model.families import build, check_tensors, read_model, write_model
from minigpt.model.transformer import GPT
from minigpt.optim.groups import optimizer_tensors, restore_optimizer
from minigpt.ranks import Ranks, own_part
from minigpt.rundir import PARTS, Checkpoint, RunDir
from minigpt.tokenizer import Tokenizer
from minigpt.whole import part_of, spread, whole


class Form(Protocol):
    """How the weights of a run lie in a folder: which of a model's tensors, in which files."""

    def tensors(self, model: GPT) -> dict[str, Tensor]:
        """Return what is written of a model, by name, as it is."""
        ...

    def write(
        self,
        folder: Path,
        model: GPT,
        tensors: dict[str, Tensor],
        tokenizer: Tokenizer | None,
        *,
        exact: bool,
    ) -> None:
        """Write a directory that others load.

        Args:
            folder: made where there is none.
            model: its structure counts, not its values.
            tensors: the values, by name.
            tokenizer: of the model.
            exact: write as well what such a directory does not say to the last bit: it is a checkpoint.
        """
        ...

    def read(self, folder: Path, model: GPT) -> dict[str, Tensor]:
        """Return the tensors in a folder, by name, of a checkpoint to the last bit.

        Raises:
            UserError: they are damaged, or of another model.
        """
        ...


class WholeForm:
    """All weights, as a Hugging Face model directory."""

    def tensors(self, model: GPT) -> dict[str, Tensor]:
        """Return everything that the model consists of."""
        return model.state_dict(keep_vars=True)

    def write(
        self,
        folder: Path,
        model: GPT,
        tensors: dict[str, Tensor],
        tokenizer: Tokenizer | None,
        *,
        exact: bool,
    ) -> None:
        """Write the directory, which says it all."""
        write_model(folder, model.config, tensors, tokenizer)

    def read(self, folder: Path, model: GPT) -> dict[str, Tensor]:
        """Return the weights in a directory; errors as `Form.read`."""
        tensors = read_model(folder)[1]
        check_tensors(model, tensors, str(folder))
        return tensors


class Snapshot:
    """Weights as they are, or (copied) as they were at one time, in host memory, on the first rank alone."""

    def __init__(
        self, model: GPT, form: Form, ranks: Ranks, *, exact: bool = False, copied: bool = True
    ) -> None:
        """Take the weights of a model; where they are copied, every rank takes part."""
        self._model, self._form, self._exact = model, form, exact
        tensors = form.tensors(model)
        self.tensors = whole(tensors, ranks) if copied else tensors

    def save_pretrained(self, folder: Path, tokenizer: Tokenizer | None = None) -> None:
        """Write a directory that others load."""
        self._form.write(folder, self._model, self.tensors, tokenizer, exact=self._exact)


class Saver:
    """Writes the checkpoints and the best weights of one run, and reads them again; every rank calls all of it."""

    def __init__(
        self,
        run: RunDir,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        tokenizer: Tokenizer,
        ranks: Ranks,
        form: Form | None = None,
    ) -> None:
        """See to the files of a run; `form` None: all weights are kept."""
        self.run, self.model, self.optimizer, self.tokenizer = run, model, optimizer, tokenizer
        self.ranks, self.form = ranks, form or WholeForm()
        # Alone on a CPU, it would take the cores and the memory of what goes on.
        on_cpu = model.head.weight.device.type == "cpu"
        self._background = Background(at_once=ranks.size == 1 and on_cpu)

    def wait(self) -> None:
        """Return when all that was begun is written.

        Raises:
            OSError: it cannot be written; PeerError where that is so on another rank.
        """
        self.ranks.together(self._background.wait)

    def checkpoint(self, step: int, state: dict[str, Any], keep: int) -> None:
        """Write the checkpoint of a step and remove all but the last `keep`; see `RunDir.save_checkpoint`."""
        self.wait()
        model, run = self._snapshot(exact=True), self.run
        tensors = optimizer_tensors(self.optimizer, self.model)
        if self.ranks.size == 1:
            if not self._background.at_once:
                tensors = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
            self._background.do(
                lambda: run.save_checkpoint(step, model, self.tokenizer, tensors, state, keep)
            )
            return
        from minigpt.parts import save_parts  # takes half a second

        folder = self.ranks.first(lambda: run.begin_checkpoint(step))
        parts = save_parts(tensors, folder / PARTS, self.ranks.files)
        if self.ranks.is_first:
            self._background.do(
                lambda: run.save_checkpoint(step, model, self.tokenizer, parts, state, keep)
            )
        else:
            self._background.do(parts.result)

    def publish(self) -> None:
        """Make the weights as they are now the ones that everybody sees who loads the run."""
        self.wait()
        model = self._snapshot()
        if self.ranks.is_first:
            self._background.do(lambda: self.run.publish_best(model, self.tokenizer))

    def drawing_model(self) -> GPT | None:
        """Return a model to draw text with, on the first rank; it may be a copy."""
        if self.ranks.shards is None:
            return self.model if self.ranks.is_first else None
        tensors = whole(self.model.state_dict(keep_vars=True), self.ranks)
        if not self.ranks.is_first:
            return None
        model = build(GPT, self.model.config, tensors, "the model")
        return model.to(self.model.head.weight.device)

    def take_weights(self, folder: Path) -> None:
        """Put the weights of a model directory into the model.

        Raises:
            UserError: they cannot be read, or are of another model.
        """
        tensors = self.ranks.together(lambda: self._read(folder) if self.ranks.is_first else {})
        spread(tensors, self.form.tensors(self.model), self.ranks)

    def take(self, checkpoint: Checkpoint) -> None:
        """Take up weights and optimiser as a checkpoint has them, whoever wrote it."""
        self.take_weights(checkpoint.path)
        tensors = self.ranks.together(lambda: self._optimizer_of(checkpoint))
        restore_optimizer(self.optimizer, self.model, tensors)

    def _optimizer_of(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Return this process's part of what an optimiser remembered."""
        folder, parameters = checkpoint.path / PARTS, dict(self.model.named_parameters())
        tensors: dict[str, Tensor] = {}
        if folder.is_dir():
            from minigpt.parts import described_parts, read_parts

            for name, (shape, dtype) in described_parts(folder).items():
                tensors[name] = _room(parameters[name.rpartition("/")[0]], shape, dtype)
            read_parts(folder, tensors)
            return tensors
        for name, tensor in checkpoint.optimizer().items():
            parameter = parameters[name.rpartition("/")[0]]
            room = tensors[name] = _room(parameter, tensor.shape, tensor.dtype)
            own_part(room).copy_(part_of(tensor, room))
        return tensors

    def mend_best(self, best_step: int) -> tuple[str, bool]:
        """Publish the best weights again where they cannot be read; for the first rank alone.

        They are in a checkpoint if one of their step is kept; else the next ones that are evaluated take their place.

        Returns:
            What to say of it, empty where nothing was wrong; and whether they are there.
        """
        try:
            self._read(self.run.path)
        except UserError as error:
            kept = self.run.checkpoint_of(best_step)
            if kept.fault() is not None:
                return (
                    f"the best weights are lost, and the next ones take their place: {error}",
                    False,
                )
            tensors = self._read(kept.path)
            self.form.write(self.run.path, self.model, tensors, self.tokenizer, exact=False)
            return f"the best weights are taken from {kept.path.name}: {error}", True
        return "", True

    def _read(self, folder: Path) -> dict[str, Tensor]:
        return self.form.read(folder, self.model)

    def _snapshot(self, *, exact: bool = False) -> Snapshot:
        copied = not self._background.at_once
        return Snapshot(self.model, self.form, self.ranks, exact=exact, copied=copied)


def _room(parameter: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return room for what an optimiser remembers of a parameter: in parts as that is, where it has its shape."""
    if shape == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=dtype)
    return torch.empty(shape, dtype=dtype, device=parameter.device)
