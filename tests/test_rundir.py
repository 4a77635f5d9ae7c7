import hashlib
import json
import os
import shutil
from concurrent.futures import Future
from pathlib import Path

import pytest
import safetensors.torch
import torch

from minigpt.config import RunConfig
from minigpt.errors import RunError, UserError
from minigpt.interop.loading import load
from minigpt.model.transformer import GPT
from minigpt.rundir import RunDir
from minigpt.tokenizer import char_tokenizer

from .conftest import tiny

TOKENIZER = char_tokenizer([chr(97 + i) for i in range(26)])


def begun(folder, steps=(10, 20), keep=5) -> RunDir:
    run = RunDir(folder)
    run.create(RunConfig(), {"fingerprint": "x"})
    for step in steps:
        tensors = {"a/b": torch.full((3,), float(step))}
        run.save_checkpoint(step, GPT(tiny()), TOKENIZER, tensors, {"step": step}, keep)
    return run


def test_the_newest_checkpoint_comes_back_whole(tmp_path):
    run = begun(tmp_path)
    checkpoint, skipped = run.newest_whole()
    assert (checkpoint.path.name, skipped) == ("step-00000020", [])
    assert checkpoint.state() == {"step": 20}
    assert checkpoint.optimizer()["a/b"].tolist() == [20.0] * 3
    assert sorted(os.listdir(checkpoint.path)) == [
        "config.json", "generation_config.json", "manifest.json", "model.safetensors", "optimizer.safetensors",
        "state.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_only_the_last_ones_are_kept(tmp_path):
    run = begun(tmp_path, steps=range(5), keep=2)
    assert sorted(os.listdir(run.checkpoints)) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "generation_config.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "gone", "a folder"])
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path, name, damage):
    run = begun(tmp_path)
    file = run.checkpoints / "step-00000020" / name
    content = bytearray(file.read_bytes())
    if damage in ("gone", "a folder"):
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    elif damage in ("cut", "empty"):
        file.write_bytes(content[:-7] if damage == "cut" else b"")
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    checkpoint, skipped = run.newest_whole()
    assert checkpoint.path.name == "step-00000010"
    assert len(skipped) == 1
    assert (
        f"step-00000020: {name if damage != 'flipped' else 'the content of ' + name}" in skipped[0]
    )


def test_a_file_too_many_is_no_damage(tmp_path):
    run = begun(tmp_path)
    (run.checkpoints / "step-00000020" / "notes.txt").write_text("mine")
    assert run.newest_whole()[0].path.name == "step-00000020"


def test_weights_too_many_are_damage(tmp_path):
    run = begun(tmp_path)
    (run.checkpoints / "step-00000020" / "model.safetensors.index.json").write_text("{}")
    checkpoint, skipped = run.newest_whole()
    assert checkpoint.path.name == "step-00000010"
    assert "model.safetensors.index.json is not in its manifest" in skipped[0]


@pytest.mark.parametrize("damage", ["a file", "empty"])
def test_a_checkpoint_that_is_no_folder_of_files_is_skipped(tmp_path, damage):
    run = begun(tmp_path)
    folder = run.checkpoints / "step-00000020"
    shutil.rmtree(folder)
    if damage == "a file":
        folder.write_text("x")
    else:
        folder.mkdir()
    checkpoint, skipped = run.newest_whole()
    assert checkpoint.path.name == "step-00000010"
    assert skipped == [
        "skipped the damaged checkpoint step-00000020: its manifest is missing or damaged"
    ]
    run.save_checkpoint(20, GPT(tiny()), TOKENIZER, {"a/b": torch.zeros(1)}, {"step": 20}, 1)
    assert run.newest_whole()[0].path.name == "step-00000020"
    assert os.listdir(run.checkpoints) == ["step-00000020"]


class KilledError(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("rename", [1, 2])
@pytest.mark.parametrize("is_killed", [False, True])
def test_saving_a_step_again_never_leaves_a_moment_without_a_checkpoint(
    tmp_path, monkeypatch, rename, is_killed
):
    """At each of its two renames it fails, or is killed and puts nothing back; the only checkpoint is still there."""
    run, renamed, replace = begun(tmp_path, steps=[10]), [], os.replace

    def failing(source, target):
        if "step-00000010" in (Path(source).name, Path(target).name):
            renamed.append(target)
            if len(renamed) == rename:
                raise KilledError
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", failing)
        patch.setattr("minigpt.rundir._put_back", lambda aside: None) if is_killed else None
        with pytest.raises(KilledError):
            run.save_checkpoint(10, GPT(tiny()), TOKENIZER, {"a/b": torch.zeros(1)}, {}, 1)
    run.recover()
    assert run.newest_whole()[0].state() == {"step": 10}
    assert os.listdir(run.checkpoints) == ["step-00000010"]


def test_a_damaged_later_checkpoint_never_costs_the_one_just_saved(tmp_path):
    run = begun(tmp_path, steps=(10, 20))
    (run.checkpoints / "step-00000020" / "manifest.json").write_text("{}")
    (run.checkpoints / "step-abc").mkdir()
    run.save_checkpoint(12, GPT(tiny()), TOKENIZER, {"a/b": torch.zeros(1)}, {"step": 12}, 1)
    assert run.newest_whole()[0].state() == {"step": 12}
    assert sorted(os.listdir(run.checkpoints)) == ["step-00000012", "step-abc"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_a_damaged_manifest_is_a_damaged_checkpoint(tmp_path, damage):
    run = begun(tmp_path)
    manifest = run.checkpoints / "step-00000020" / "manifest.json"
    content = bytearray(manifest.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[: len(content) // 2], "flipped": content, "empty": b"", "gone": b""}
    manifest.write_bytes(damaged[damage])
    if damage == "gone":
        manifest.unlink()
    checkpoint, skipped = run.newest_whole()
    assert checkpoint.path.name == "step-00000010"
    assert skipped[0].startswith("skipped the damaged checkpoint step-00000020: ")


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff"])
def test_a_state_that_is_no_json_is_damage_although_the_manifest_agrees(tmp_path, content):
    run = begun(tmp_path)
    folder = run.checkpoints / "step-00000020"
    (folder / "state.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    sha256 = hashlib.sha256(content).hexdigest()
    manifest["files"]["state.json"] = {"bytes": len(content), "sha256": sha256}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    checkpoint, skipped = run.newest_whole()
    assert checkpoint.path.name == "step-00000010"
    assert "state.json is no JSON object" in skipped[0]


@pytest.mark.parametrize("files", [[], None, {"state.json": 5}, {"state.json": {}}, {}])
def test_a_manifest_of_another_shape_is_damage(tmp_path, files):
    run = begun(tmp_path)
    (run.checkpoints / "step-00000020" / "manifest.json").write_text(json.dumps({"files": files}))
    assert run.newest_whole()[0].path.name == "step-00000010"


def test_a_start_that_was_killed_does_not_lock_the_folder(tmp_path):
    (tmp_path / ".run.toml.123.tmp").write_text("half")
    RunDir(tmp_path).check_free()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-00000001.tmp").mkdir()
    (tmp_path / "run.toml").write_text(
        "[model]\
"
    )
    RunDir(tmp_path).check_free()
    begun(tmp_path)
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_folder_that_only_looks_like_a_run_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text("# my notes")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds files that are not of a run"):
        RunDir(tmp_path).check_free()
    with pytest.raises(UserError, match="is a file, so"):
        RunDir(tmp_path / "config.json" / "run").check_free()
    with pytest.raises(UserError, match="File name too long"):
        RunDir(tmp_path / ("x" * 300)).check_free()


def test_a_checkpoint_without_a_manifest_is_none(tmp_path):
    run = begun(tmp_path)
    for folder in run.checkpoints.iterdir():
        (folder / "manifest.json").write_text("{")
    assert run.newest_whole()[0] is None
    assert len(run.newest_whole()[1]) == 2


@pytest.mark.parametrize(("number", "kind"), [(28, RunError), (13, UserError)])
def test_a_disk_that_is_full_at_the_start_is_no_mistake_in_the_command(
    tmp_path, monkeypatch, number, kind
):
    def failing(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("minigpt.rundir.replace_text", failing)
    with pytest.raises(kind, match=os.strerror(number)):
        begun(tmp_path)


def test_a_save_that_fails_leaves_no_trace_and_the_older_ones(tmp_path, monkeypatch):
    run = begun(tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.rundir.replace_json", full)
    with pytest.raises(OSError, match="No space left"):
        run.save_checkpoint(30, GPT(tiny()), TOKENIZER, {"a/b": torch.zeros(1)}, {}, 1)
    assert sorted(os.listdir(run.checkpoints)) == ["step-00000010", "step-00000020"]
    assert run.newest_whole()[0].state() == {"step": 20}


def test_the_folder_of_a_killed_save_is_no_checkpoint(tmp_path):
    run = begun(tmp_path)
    (run.checkpoints / ".step-00000030.tmp").mkdir()
    assert run.newest_whole()[0].path.name == "step-00000020"


def test_runs_and_checkpoints_are_model_directories(tmp_path):
    run, made = begun(tmp_path), GPT(tiny())
    run.publish_best(made, TOKENIZER)
    for folder in (run.path, run.checkpoints / "step-00000010"):
        model, tokenizer = load(folder)
        assert tokenizer.encode("abc") == [0, 1, 2]
        assert model.config == made.config


def test_settings_come_back(tmp_path):
    assert begun(tmp_path).config == RunConfig()
    assert RunDir.open(tmp_path).config == RunConfig()
    with pytest.raises(UserError, match="is no run directory"):
        RunDir.open(tmp_path / "none")


def test_metrics_leave_out_a_line_that_is_being_written(tmp_path):
    run = begun(tmp_path)
    assert run.metrics == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert run.metrics == [{"step": 1}, {"step": 2}]


STEPS = [b'{"step": %s}' % step for step in (b'"x"', b"true", b"1.5", b"-1", b"null", b"[]")]


@pytest.mark.parametrize(
    "line", [b"{", b"", b"\xff", b"[]", b"{}", b"\x00\x00", b'{"step": 1', *STEPS]
)
def test_metrics_leave_out_a_damaged_line(tmp_path, line):
    run = begun(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    assert run.metrics == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("name", ["run.toml", "data.json"])
def test_a_run_that_lost_a_file_of_its_root_is_a_run_still(tmp_path, name):
    run = begun(tmp_path)
    run.publish_best(GPT(tiny()), TOKENIZER)
    (tmp_path / name).unlink()
    run.check_free()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="holds files that are not of a run"):
        run.check_free()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(UserError, match="holds files that are not of a run"):
        RunDir(tmp_path).check_free()
    with pytest.raises(UserError, match="is a file"):
        RunDir(tmp_path / "thesis.doc").check_free()
    RunDir(tmp_path / "new").check_free()


def test_clearing_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    run = begun(tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    run.clear()
    assert os.listdir(tmp_path) == ["notes.md"]


def test_a_checkpoint_of_large_weights_and_of_an_optimizer_in_parts_is_whole(tmp_path):
    class Large(GPT):
        def save_pretrained(self, folder, tokenizer):
            super().save_pretrained(folder, tokenizer, max_shard_bytes=20_000)

    run = RunDir(tmp_path / "run")
    parts = run.begin_checkpoint(30) / "optimizer" / "part-00001-of-00001.safetensors"
    parts.parent.mkdir()
    safetensors.torch.save_file({"a/b": torch.zeros(1)}, parts)
    written = Future()
    written.set_result(None)
    run.save_checkpoint(30, Large(tiny()), TOKENIZER, written, {"step": 30}, 1)
    checkpoint, skipped = run.newest_whole()
    assert skipped == []
    assert (checkpoint.path / "model.safetensors.index.json").is_file()
    assert len(list(checkpoint.path.glob("model-*"))) > 1
    file = checkpoint.path / "optimizer" / parts.name
    file.write_bytes(file.read_bytes()[:-1])
    assert f"optimizer/{parts.name} has" in checkpoint.fault()


def test_a_run_knows_which_call_of_torchrun_has_begun_it(tmp_path):
    run = RunDir(tmp_path)
    assert not run.is_signed("one")
    run.sign("one")
    assert run.is_signed("one")
    assert not run.is_signed("another")
    run.clear()
    assert not run.is_signed("one")
    run.sign("")  # of none
