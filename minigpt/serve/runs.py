"""A folder of runs in, what the page shows of them out: a list, one run as it stands, several in one chart.

Drawn as in `report.html`, from the same rows. A name is looked up among the runs that are there; it is never joined to
a path. What a run is writing at this moment is seen up to its last whole line.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minigpt.config import RunConfig, to_dict
from minigpt.curves import Row, end_of, number_in, points_of
from minigpt.drawing import Line, Point, chart
from minigpt.errors import UserError, plain
from minigpt.files import read_json
from minigpt.place import LOCK
from minigpt.report import (
    duration,
    figures,
    how_far,
    judged,
    pictures,
    read_samples,
    settings_of,
    shape_in_words,
    shown,
    some_of,
)
from minigpt.rundir import RunDir
from minigpt.serve.errors import ApiError

MOST_LISTED = 200  # the newest
MOST_COMPARED = 6  # as many lines as can be told apart
QUIET_SECONDS = 300.0  # without a line in the log: it is no longer training
COMPARED = (
    ("val_bits_per_byte", "bits per byte held out"),
    ("val_loss", "nats per token held out"),
)

Over = Literal["step", "tokens", "seconds"]


@dataclass(frozen=True)
class Run:
    """A run as it stood when it was read.

    Attributes:
        path: its folder.
        settings: as resolved.
        rows: of `metrics.jsonl`.
        version: another one when something was written since.
        is_training: whether a process holds it and writes.
    """

    path: Path
    settings: RunConfig
    rows: list[Row]
    version: str
    is_training: bool


class Runs:
    """The runs in a folder."""

    def __init__(self, folder: Path | None) -> None:
        """Look at a folder; None: there are none."""
        self.folder = folder
        self._read: dict[Path, Run] = {}

    def names(self) -> dict[str, Path]:
        """Return the runs that are there by name, the youngest first; the folder itself may be one."""
        if self.folder is None or not self.folder.is_dir():
            return {}
        found = [path.parent for path in self.folder.glob("*/run.toml")]
        if (self.folder / "run.toml").is_file():
            found.append(self.folder)
        newest = sorted(found, key=lambda path: (-_written(path), path.name))[:MOST_LISTED]
        return {path.resolve().name: path for path in newest}

    def find(self, name: str) -> Run:
        """Return a run by its name.

        Raises:
            ApiError: there is none (404).
            UserError: it is damaged.
        """
        path = self.names().get(name)
        if path is None:
            raise ApiError(
                404, f"there is no run {plain(name)} here; reload the list", code="run_not_found"
            )
        return self._open(path)

    def listed(self) -> list[dict[str, Any]]:
        """Return a line on each run, the youngest first; a damaged one says so."""
        return [self._line(name, path) for name, path in self.names().items()]

    def view(self, name: str) -> dict[str, Any]:
        """Return one run as it stands, as JSON: words, numbers, texts, and its charts as HTML; errors as `find`."""
        run = self.find(name)
        rows, settings, data = run.rows, run.settings, run.path / "data.json"
        facts = read_json(data) if data.is_file() else {}
        changed, others = settings_of(settings)
        return {
            "name": name,
            "version": run.version,
            "training": run.is_training,
            "shape": shape_in_words(settings),
            "source": settings.data.source,
            "far": how_far(rows, settings),
            "figures": [[str(value), label] for value, label in figures(rows, settings, facts)],
            "judged": judged(rows) if rows else "",
            "charts": pictures(rows, settings),
            "samples": some_of(read_samples(run.path / "samples.txt")),
            "changed": changed,
            "others": others,
        }

    def comparison(self, names: Sequence[str], over: Over = "step") -> dict[str, Any]:
        """Return several runs in one chart, as JSON: the chart as HTML, and the settings in which they differ.

        Args:
            names: of at most MOST_COMPARED runs.
            over: what the chart is drawn over.

        Raises:
            UserError: too many, or as `find`.
        """
        if len(names) > MOST_COMPARED:
            raise UserError(
                f"{len(names)} runs were to be compared; wanted at most {MOST_COMPARED}, which can be told apart"
            )
        runs = {name: self.find(name) for name in dict.fromkeys(names)}
        key, unit = next(
            (
                pair
                for pair in COMPARED
                if all(points_of(run.rows, pair[0]) for run in runs.values())
            ),
            COMPARED[1],
        )
        return {
            "version": " ".join(run.version for run in runs.values()),
            "training": any(run.is_training for run in runs.values()),
            "unit": unit,
            "charts": _compared(runs, key, over),
            "without": [name for name, run in runs.items() if not points_of(run.rows, key)],
            "runs": [self._line(name, run.path) for name, run in runs.items()],
            "differ": differences([run.settings for run in runs.values()]),
        }

    def _open(self, path: Path) -> Run:
        """Return a run, read again only where it was written to."""
        version = f"{path.name}/" + "-".join(
            f"{file.stat().st_mtime_ns}.{file.stat().st_size}" if file.is_file() else "none"
            for file in (path / "metrics.jsonl", path / "run.toml", path / "samples.txt")
        )
        is_training = _is_training(path)
        known = self._read.get(path)
        if known is None or (known.version, known.is_training) != (version, is_training):
            directory = RunDir.open(path)
            known = Run(path, directory.config, directory.metrics, version, is_training)
            self._read[path] = known
        return known

    def _line(self, name: str, path: Path) -> dict[str, Any]:
        try:
            run = self._open(path)
        except UserError as error:
            return {"name": name, "error": plain(error)}
        last = run.rows[-1] if run.rows else {}
        held = points_of(run.rows, "val_bits_per_byte")
        best = min(held, key=lambda point: point[1], default=None)
        return {
            "name": name,
            "version": run.version,
            "training": run.is_training,
            "shape": shape_in_words(run.settings),
            "far": how_far(run.rows, run.settings),
            "share": min(1.0, last.get("step", 0) / max(1, end_of(run.rows, run.settings))),
            "best": None if best is None else round(best[1], 4),
            "best_step": None if best is None else best[0],
            "time": duration(number_in(last, "seconds") or 0.0),
            "written": _written(path),
        }


def differences(settings: Sequence[RunConfig]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs, (name, its value in each)."""
    sections = [to_dict(one) for one in settings]
    return [
        (f"{name}.{key}", [shown(one[name][key]) for one in sections])
        for name, values in (sections[0] if sections else {}).items()
        for key, first in values.items()
        if any(one[name][key] != first for one in sections)
    ]


def _compared(runs: dict[str, Run], key: str, over: Over) -> str:
    """Return a broad and a narrow chart, as HTML, with a line for each run."""
    lines = {
        name: [(row[over], row[key]) for row in run.rows if number_in(row, over) is not None and number_in(row, key)]
        for name, run in runs.items()
    }  # fmt: skip
    drawn = [
        Line(f"{_short(name)} {points[-1][1]:.2f}" if points else "", points, f"line run-{place}", dots=True)
        for place, (name, points) in enumerate(lines.items())
    ]  # fmt: skip
    name, describe = f"Held-out loss over {over.removesuffix('s')}s", _describer(lines, over)
    pictures = [
        (style, chart(drawn, name=name, size=size, right=right, describe=describe))
        for style, size, right in (("broad", (880, 400), 150), ("narrow", (350, 300), 112))
    ]
    return "".join(
        f'<div class="{style}">{picture}</div>' for style, picture in pictures if picture
    )


def _describer(lines: dict[str, list[Point]], over: Over) -> Callable[[float], str]:
    def describe(place: float) -> str:
        words = [duration(place)] if over == "seconds" else [f"{over} {place:,.0f}"]
        for name, points in lines.items():
            reached = [value for x, value in points if x <= place]
            if reached:
                words.append(f"{name} {reached[-1]:.4f}")
        return " · ".join(words)

    return describe


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


def _written(path: Path) -> float:
    """Return when a run was last written to, in seconds since 1970."""
    files = (path / name for name in ("metrics.jsonl", "train.log", "run.toml"))
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def _is_training(path: Path) -> bool:
    """Return whether a process has left its note here, and has written since: a killed one leaves its note."""
    return (path / f"{LOCK}.json").is_file() and time.time() - _written(path) < QUIET_SECONDS
