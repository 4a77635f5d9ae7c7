"""The rows of `metrics.jsonl` and the samples in; the same points in TensorBoard and Weights & Biases out.

Neither holds anything that the run directory does not. After a resume they go on from the checkpoint, and no step
stands there twice.
"""

import html
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from minigpt.config import RunConfig, to_dict
from minigpt.extras import require
from minigpt.files import read_json

TENSORBOARD, WANDB, WANDB_STATE = "tensorboard", "wandb", "wandb.json"  # in the run directory


class Tracker(Protocol):
    """What shows a run elsewhere."""

    def row(self, row: dict[str, Any], texts: Sequence[str]) -> None:
        """Show a row of `metrics.jsonl` and the texts drawn with it."""

    def close(self) -> None:
        """Hand over all that is still on its way."""


def check_trackers(config: RunConfig) -> None:
    """Refuse trackers whose packages are missing.

    Raises:
        UserError: it names the extra.
    """
    for name in config.log.trackers():
        require(name, f"log.to = {name}")


def open_trackers(config: RunConfig, folder: Path, step: int) -> list[Tracker]:
    """Return the trackers that `log.to` names.

    Args:
        config: of the run.
        folder: the run directory.
        step: that the run begins or goes on at; what the trackers hold from there on is of a future that was lost.
    """
    kinds = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    return [kinds[name](config, folder, step) for name in config.log.trackers()]


class TensorBoard:
    """Events in the folder `tensorboard` of the run directory."""

    def __init__(self, config: RunConfig, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # From `purge_step` on, readers forget what was written before a resume.
        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=step)

    def row(self, row: dict[str, Any], texts: Sequence[str]) -> None:
        """Show a row and its texts; they are on the disk when this returns."""
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, row["step"])
        for number, text in enumerate(texts):
            # Indented, so that no Markdown is made of it.
            indented = "\n".join("    " + line for line in text.splitlines())
            self._writer.add_text(f"samples/{number}", indented, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, by the id that `wandb.json` keeps; with WANDB_MODE=offline in the folder `wandb`."""

    def __init__(self, config: RunConfig, folder: Path, step: int) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._path = folder / WANDB_STATE
        known = read_json(self._path) if self._path.is_file() else {}
        self._last = int(
            known.get("step", -1)
        )  # its steps only rise: what it has is not sent again
        self._run = wandb.init(
            project="minigpt",
            name=folder.resolve().name,
            id=known.get("id"),
            resume="allow",
            dir=str(folder),
            config=to_dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._html = wandb.Html

    def row(self, row: dict[str, Any], texts: Sequence[str]) -> None:
        """Show a row and its texts, unless they were shown before a resume: they are the same again."""
        if row["step"] <= self._last:
            return
        self._last = row["step"]
        shown = {
            f"samples/{number}": self._html(f"<pre>{html.escape(text)}</pre>")
            for number, text in enumerate(texts)
        }
        self._run.log(dict(scalars(row)) | shown, step=self._last, commit=True)
        self._path.write_text(json.dumps({"id": self._run.id, "step": self._last}) + "\n")

    def close(self) -> None:
        """Send what is left, and say that the run has ended."""
        self._run.finish()


def scalars(row: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row by name, those of its parts as part/name; the step is where they stand.

    >>> dict(scalars({"step": 5, "train_loss": 2.5, "update_ratio": [0.1, 0.2]}))
    {'train_loss': 2.5, 'update_ratio/0': 0.1, 'update_ratio/1': 0.2}
    """
    for key, value in row.items():
        name = f"{above}{key}"
        if isinstance(value, list):
            yield from scalars({str(n): part for n, part in enumerate(value)}, f"{name}/")
        elif isinstance(value, dict):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield name, value
