"""The run directory: a Hugging Face model directory that also holds all that an exact resume needs.

Nothing in it is ever half there. A checkpoint is written under a hidden name, flushed, and renamed when whole; files in
the root take the place of older ones in one step. No pickle is read or written.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from minigpt.config import RunConfig, file_layer, from_dict, to_toml
from minigpt.errors import RunError, UserError
from minigpt.files import FULL, flush, read_json, replace_json, replace_text, sha256_of
from minigpt.model.weights import INDEX, WEIGHTS, read_tensors, save_tensors
from minigpt.tokenizer import Tokenizer

WRITTEN = (
    "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "samples.txt",
    "train.log", "data.json", "report.html", "wandb.json",
)  # fmt: skip
TRACKED = ("tensorboard", "wandb")  # folders of what shows the run elsewhere
ASIDE = ".older.tmp"  # a checkpoint, while one of the same step takes its place
MANIFEST, STATE = "manifest.json", "state.json"
LAUNCH = ".launch"  # by which a run was begun that torchrun may start again
OPTIMIZER = "optimizer.safetensors"
PARTS = "optimizer"  # a folder instead: each of several processes has written a part
TRAINED = "trained.safetensors"  # of a model of which not all is trained: what is, under our names


class Written(Protocol):
    """What writes a Hugging Face model directory: weights as they are, or were at one time."""

    def save_pretrained(self, folder: Path, tokenizer: Tokenizer | None = None) -> None:
        """Write it."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint on disk: a model directory with `state.json` and the optimiser's tensors."""

    path: Path

    def state(self) -> dict[str, Any]:
        """Return what was passed to `save_checkpoint`."""
        return read_json(self.path / STATE)

    def optimizer(self) -> dict[str, Tensor]:
        """Return the optimiser's tensors by name, where one process has written them."""
        return read_tensors(self.path / OPTIMIZER)

    def fault(self) -> str | None:
        """Return what is wrong with the files, by size first and then by SHA-256, or None when all are whole."""
        try:
            files = {
                name: (int(wanted["bytes"]), str(wanted["sha256"]))
                for name, wanted in read_json(self.path / MANIFEST)["files"].items()
            }
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            return "its manifest is missing or damaged"
        weights = {WEIGHTS, INDEX, TRAINED} & files.keys()
        optimizer = [name for name in files if name == OPTIMIZER or name.startswith(f"{PARTS}/")]
        if not (weights and optimizer and STATE in files):
            return "its manifest does not name all files"
        for name, (size, sha256) in files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if sha256_of(file) != sha256:
                return f"the content of {name} has changed"
        # Others are somebody's notes, but these would be read in the place of what was saved.
        read = (*self.path.glob("model*"), *self.path.glob(TRAINED))
        if foreign := {file.name for file in read} - files.keys():
            return f"{min(foreign)} is not in its manifest"
        try:
            self.state()
        except UserError:
            return f"{STATE} is no JSON object"
        return None


class RunDir:
    """The folder of one training run: settings, metrics, checkpoints and the best weights."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    def create(self, config: RunConfig, data: dict[str, Any]) -> None:
        """Make the folder; record the settings of the run and what it is trained on."""
        self.make()
        try:
            for left in (*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):
                _remove(left)  # of a process that was killed while it wrote
            self.record(config)
            self.checkpoints.mkdir(exist_ok=True)
            replace_json(self.path / "data.json", data)
        except OSError as error:
            raise self._not_made(error) from None

    def make(self) -> None:
        """Make the folder itself."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_made(error) from None

    def mark(self) -> Path:
        """Return a new hidden file in the folder, by which others tell whether they see the same one."""
        path = self.path / f".{uuid.uuid4()}.tmp"
        path.touch()
        return path

    def sign(self, launch: str) -> None:
        """Note which call of torchrun has begun the run; empty: none that is known."""
        if launch:
            replace_text(self.path / LAUNCH, launch)
        else:
            (self.path / LAUNCH).unlink(missing_ok=True)

    def is_signed(self, launch: str) -> bool:
        """Return whether it was this call that has begun the run."""
        path = self.path / LAUNCH
        return path.is_file() and path.read_text() == launch

    def _not_made(self, error: OSError) -> UserError | RunError:
        if error.errno in FULL:
            return RunError(
                f"the run directory {self.path} cannot be written: {error.strerror}; what is whole is kept: make room, "
                "and run the same command again"
            )
        return UserError(f"the run directory {self.path} cannot be made: {error.strerror}")

    def record(self, config: RunConfig) -> None:
        """Write the settings of the run."""
        replace_text(self.path / "run.toml", to_toml(config))

    def check_free(self) -> None:
        """Refuse a folder that holds something else than a run.

        Raises:
            UserError: it does, or it is a file.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"{self.path} is a file; a run needs a folder of its own (--out)")
            ours = (self.path / "run.toml").is_file()
        except OSError as error:
            raise UserError(f"--out cannot be {str(self.path)[:60]}…: {error.strerror}") from None
        above = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise UserError(
                f"{above} is a file, so {self.path} cannot be a folder; choose another --out"
            )
        begun = (self.path / "data.json").is_file() or not (self.path / "config.json").is_file()
        ours = ours and begun  # some other folder may have a run.toml
        ours = ours or any((c / MANIFEST).is_file() for c in self._checkpoint_folders())
        if self.path.is_dir() and not ours and any(_shown(self.path)):
            raise UserError(f"{self.path} holds files that are not of a run; choose another --out")

    @classmethod
    def open(cls, path: Path | str) -> "RunDir":
        """Return the run at `path`.

        Raises:
            UserError: there is none.
        """
        run = cls(path)
        if not (run.path / "run.toml").is_file():
            raise UserError(
                f"{path} is no run directory (it has no run.toml); pass one that train made"
            )
        return run

    @property
    def config(self) -> RunConfig:
        """The settings of the run, as resolved."""
        return from_dict(file_layer(self.path / "run.toml")[1], str(self.path / "run.toml"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The objects of `metrics.jsonl`, without lines that are damaged or still being written."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        return [row for line in lines[:-1] if (row := _row_of(line)) is not None]

    def begin_checkpoint(self, step: int) -> Path:
        """Return the hidden folder, new and empty, that `save_checkpoint` completes."""
        hidden = self._hidden(step)
        shutil.rmtree(hidden, ignore_errors=True)  # of a run that was killed while writing
        hidden.mkdir(parents=True)
        return hidden

    def save_checkpoint(
        self,
        step: int,
        model: Written,
        tokenizer: Tokenizer,
        optimizer: dict[str, Tensor] | Future[Any],
        state: dict[str, Any],
        keep: int,
    ) -> Checkpoint:
        """Write the checkpoint of a step and remove all but the last `keep`.

        Args:
            step: updates done.
            model: writes its own directory.
            tokenizer: of the model.
            optimizer: its tensors; or, where several processes write them into the folder that `begin_checkpoint`
                returned, what is done when all have.
            state: the rest.
            keep: how many.
        """
        final = self.checkpoint_of(step).path
        if isinstance(optimizer, dict):
            self.begin_checkpoint(step)
        with self._appearing(step, final) as folder:
            try:
                model.save_pretrained(folder, tokenizer)
            finally:
                if not isinstance(optimizer, dict):
                    optimizer.exception()  # nobody may still write into a folder that is to go
            if isinstance(optimizer, dict):
                plain = {name: tensor.cpu().contiguous() for name, tensor in optimizer.items()}
                save_tensors(plain, folder / OPTIMIZER)
                flush(folder / OPTIMIZER)
            else:
                optimizer.result()
            replace_json(folder / STATE, state)
            files = {
                str(file.relative_to(folder)): {
                    "bytes": file.stat().st_size,
                    "sha256": sha256_of(file),
                }
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            replace_json(folder / MANIFEST, {"files": files})
        # Later steps are of a future that was given up: damaged, or from before a resume.
        kept = [folder for folder in self._checkpoint_folders() if folder.name <= final.name][:keep]
        for folder in self._checkpoint_folders():
            if folder not in kept:
                _remove(folder)
        return Checkpoint(final)

    def checkpoint_of(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, whether it is there or not."""
        return Checkpoint(self.checkpoints / f"step-{step:08d}")

    def recover(self) -> None:
        """Put back the checkpoint of a process that was killed while one of the same step took its place.

        Only for who holds the place: another process may be about to do the second half.
        """
        for aside in self.checkpoints.glob(f".step-*{ASIDE}"):
            _put_back(aside)

    def newest_whole(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that is whole, and a sentence for each newer one that is not."""
        skipped: list[str] = []
        for folder in self._checkpoint_folders():
            fault = Checkpoint(folder).fault()
            if fault is None:
                return Checkpoint(folder), skipped
            skipped.append(f"skipped the damaged checkpoint {folder.name}: {fault}")
        return None, skipped

    def publish_best(self, model: Written, tokenizer: Tokenizer) -> None:
        """Make these weights the ones that everybody sees who loads the run."""
        model.save_pretrained(self.path, tokenizer)

    def clear(self) -> None:
        """Remove what a run has written here, and nothing else; what makes the folder a run goes last."""
        if self.checkpoints.is_dir():
            gone = self.checkpoints.with_name(f".checkpoints.{os.getpid()}.tmp")
            # In one step: no run is left with half of its checkpoints.
            os.replace(self.checkpoints, gone)
            shutil.rmtree(gone)
        for name in TRACKED:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (*WRITTEN, LAUNCH, "run.toml"):
            (self.path / name).unlink(missing_ok=True)

    def _hidden(self, step: int) -> Path:
        final = self.checkpoint_of(step).path
        return final.with_name(f".{final.name}.tmp")

    def _checkpoint_folders(self) -> list[Path]:
        """The folders under final names, the newest first."""
        return sorted(self.checkpoints.glob("step-" + 8 * "[0-9]"), reverse=True)

    @contextlib.contextmanager
    def _appearing(self, step: int, final: Path) -> Generator[Path]:
        """Give the folder that was begun; when the block ends well it becomes `final`, and else it is removed."""
        hidden = self._hidden(step)
        aside = final.with_name(f".{final.name}{ASIDE}")
        try:
            yield hidden
            flush(hidden)
            if final.exists():  # a damaged one, or the same one from before a resume
                os.replace(final, aside)
            os.replace(hidden, final)
            flush(final.parent)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            _put_back(aside)


def _row_of(line: bytes) -> dict[str, Any] | None:
    """Return the object in a line of `metrics.jsonl`; None where there is no whole one of a step."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if type(step) is int and step >= 0 else None  # True is an int, too


def _shown(folder: Path) -> list[Path]:
    """Return what is in a folder but for hidden files, which a killed start may have left."""
    return [p for p in folder.iterdir() if not p.name.startswith(".")]


def _put_back(aside: Path) -> None:
    """Give a checkpoint its name back if the one that was to take its place never did; else remove it."""
    final = aside.with_name(aside.name.removeprefix(".").removesuffix(ASIDE))
    if aside.exists() and not final.exists():
        os.replace(aside, final)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
