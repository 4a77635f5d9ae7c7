import doctest
import json
import math
import struct
from collections.abc import Iterator

import pytest

from minigpt import extras, trackers
from minigpt.config import LogConfig, build
from minigpt.errors import UserError
from minigpt.pretrain import prepare_run, train
from minigpt.rundir import RunDir
from minigpt.trackers import check_trackers, scalars

from .test_pretrain import changed, outcome, stop_after

NUMBERS = ("train_loss", "val_loss", "lr", "grad_norm")


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(trackers).failed == 0


def test_the_numbers_of_a_row_have_names():
    row = {"step": 1, "a": 1, "b": [2.0], "c": {"d": {"e": 3}}, "words": "x"}
    assert dict(scalars(row)) == {"a": 1, "b/0": 2.0, "c/d/e": 3}


def test_trackers_are_listed_by_commas_and_checked():
    assert LogConfig(to=" wandb, tensorboard,wandb ").trackers() == ["wandb", "tensorboard"]
    assert LogConfig().trackers() == []
    with pytest.raises(
        UserError, match=r"log\.to names 'tensorbord'; .*did you mean 'tensorboard'"
    ):
        build([("test", {"log": {"to": "tensorbord"}})])


def test_a_missing_package_is_named_before_anything_is_written(small_config, tmp_path, monkeypatch):
    there = extras.version_of
    monkeypatch.setattr(
        extras, "version_of", lambda name: None if name == "tensorboard" else there(name)
    )
    config = changed(small_config, log={"to": "tensorboard"})
    with pytest.raises(UserError, match=r"log\.to = tensorboard needs .*minigpt\[tensorboard\]"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_trackers(small_config)


class Recorded:
    """A tracker that notes down what it is given."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def row(self, row, texts):
        self.rows.append((row["step"], len(texts)))

    def close(self):
        self.closed += 1


def test_trackers_see_every_row_and_are_closed_when_the_run_stops(
    small_config, tmp_path, monkeypatch
):
    recorded = Recorded()
    monkeypatch.setattr("minigpt.job.open_trackers", lambda config, folder, step: [recorded])
    job = prepare_run(small_config, tmp_path / "run")
    stop_after(job, 13)
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    assert recorded.rows == [(0, 1), (4, 0), (8, 1), (12, 0)]
    assert recorded.closed == 1
    assert job.log.trackers == []


def killed_and_resumed(config, folder) -> list[dict]:
    """Return the rows of a run that lost its last steps, as after `kill -9`, and went on from step 12."""
    job = prepare_run(config, folder)
    stop_after(job, 17)
    job.run.save_checkpoint = lambda step, *rest: (
        step == 17 or RunDir.save_checkpoint(job.run, step, *rest)
    )
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    assert RunDir(folder).newest_whole()[0].path.name == "step-00000012"
    train(config, folder)
    return RunDir(folder).metrics


@pytest.mark.filterwarnings("default")  # of TensorBoard's own
def test_tensorboard_holds_each_point_once_after_a_resume(small_config, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = changed(small_config, log={"to": "tensorboard"})
    rows = killed_and_resumed(config, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in NUMBERS:
        points = {e.step: e.value for e in events.Scalars(name)}
        assert len(points) == len(events.Scalars(name))
        expected = {row["step"]: row[name] for row in rows if name in row}
        assert points.keys() == expected.keys()
        assert all(math.isclose(points[step], expected[step], rel_tol=1e-6) for step in points)
    assert len(events.Scalars("update_ratio/1")) == 6
    shown = plugin_event_accumulator.EventAccumulator(
        str(tmp_path / "run" / "tensorboard")
    ).Reload()
    texts = shown.Tensors("samples/0/text_summary")
    assert [event.step for event in texts] == [0, 8, 16, 24]
    train(small_config, tmp_path / "plain")
    assert outcome(tmp_path / "plain") == outcome(tmp_path / "run")
    train(config, tmp_path / "run", again=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert len(events.Scalars("train_loss")) == 6


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    assert content[:4] == b":W&B"
    record, place = b"", 7
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_rows(folder) -> tuple[set[str], list[dict]]:
    """Return the ids and the rows in the files that W&B wrote without a network."""
    from wandb.proto import wandb_internal_pb2

    ids, rows = set(), []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for content in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = record.history.item
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
    return ids, rows


@pytest.mark.filterwarnings("default")  # of W&B's own
def test_wandb_without_a_network_holds_each_point_once_after_a_resume(
    small_config, tmp_path, monkeypatch
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = changed(small_config, log={"to": "wandb"})
    rows = killed_and_resumed(config, tmp_path / "run")
    ids, sent = wandb_rows(tmp_path / "run")
    assert ids == {json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]}
    assert [row["_step"] for row in sent] == [row["step"] for row in rows]
    for name in NUMBERS:
        assert [r.get(name) for r in sent] == [r.get(name) for r in rows]
    assert [r["_step"] for r in sent if any(k.startswith("samples/0") for k in r)] == [0, 8, 16, 24]
    train(small_config, tmp_path / "plain")
    assert outcome(tmp_path / "plain") == outcome(tmp_path / "run")
