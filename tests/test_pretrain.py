import dataclasses
import hashlib
import json
import shutil
import signal
import threading

import pytest
import torch
import transformers

import minigpt
from minigpt import pretrain
from minigpt.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from minigpt.errors import UserError
from minigpt.job import TrainingJob
from minigpt.pretrain import prepare_run, train
from minigpt.rundir import RunDir


def outcome(folder) -> tuple:
    """Return the hashes of the last checkpoint's weights and optimiser, the metrics without times, and the samples."""
    run = RunDir(folder)
    newest = run.newest_whole()[0].path
    hashes = [
        hashlib.sha256((newest / f).read_bytes()).hexdigest()
        for f in ("model.safetensors", "optimizer.safetensors")
    ]
    hashes.append(hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest())
    return newest.name, hashes, without_times(run.metrics), (run.path / "samples.txt").read_text()


def without_times(rows: list[dict]) -> list[dict]:
    """Return rows of metrics.jsonl without what a clock or the machine decides."""
    timed = ("seconds", "per_second", "_memory_bytes")
    return [{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows]


def changed(config: RunConfig, **sections) -> RunConfig:
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in sections.items()
        },
    )


def stop_after(job, step):
    """Have the job stop after a step, as a signal does."""
    before = job.batches

    def stopping(number):
        if number + 1 == step:
            job._stop.set()
        return before(number)

    job.batches = stopping


def test_a_run_learns_and_leaves_a_complete_directory(small_config, tmp_path):
    run = RunDir(train(small_config, tmp_path / "run"))
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "run.toml", "metrics.jsonl", "samples.txt", "train.log", "checkpoints",
    }  # fmt: skip
    rows = run.metrics
    assert [row["step"] for row in rows] == [0, 4, 8, 12, 16, 20, 24]
    assert set(rows[-1]) == {
        "step", "tokens", "epoch", "seconds", "train_loss", "val_loss", "val_bits_per_byte", "val_bits_per_char", "lr",
        "grad_norm", "update_ratio", "tokens_per_second", "peak_memory_bytes", "evaluation_seconds",
        "sampling_seconds", "saving_seconds",
    }  # fmt: skip
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.3
    assert rows[-1]["tokens"] == 24 * 8 * 16
    assert (run.path / "samples.txt").read_text().count("--- step") == 4
    model, tokenizer = minigpt.load(run.path)
    assert len(minigpt.generate(model, tokenizer, "the ", max_tokens=9)) == 9
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run.path)
    ids = torch.tensor([tokenizer.encode("the cat sat")])
    assert (theirs(ids).logits - model(ids)).abs().max() < 1e-4
    assert transformers.AutoTokenizer.from_pretrained(run.path)(
        "the cat"
    ).input_ids == tokenizer.encode("the cat")


def test_the_best_weights_are_published_and_kept(small_config, tmp_path):
    config = changed(
        small_config, optim={"lr": 3.0, "clip": 0.0, "warmup_steps": 16, "schedule": "constant"}
    )
    run = RunDir(train(config, tmp_path / "run"))
    losses = {row["step"]: row["val_loss"] for row in run.metrics if "val_loss" in row}
    best = min(losses, key=losses.get)
    assert best < 24  # at such a rate it gets worse
    assert run.newest_whole()[0].state()["progress"]["best_step"] in losses
    job = prepare_run(config, tmp_path / "run")
    job.load_best()
    assert job.likelihood(max_tokens=500).loss == losses[best]


@pytest.mark.parametrize(
    ("stops", "optim"),
    [
        ([7], {}),
        ([3, 12, 13, 23], {}),
        ([9, 16], {"name": "muon", "newton_schulz_dtype": "fp32"}),
        ([9, 16], {"name": "muon", "newton_schulz_dtype": "bf16"}),
    ],
)
def test_stopped_and_resumed_is_bit_for_bit_the_undisturbed_run(
    small_config, tmp_path, stops, optim
):
    config = changed(small_config, optim=optim)
    train(config, tmp_path / "whole")
    for stop in stops:
        job = prepare_run(config, tmp_path / "parts")
        stop_after(job, stop)
        with pytest.raises(KeyboardInterrupt):
            job.fit()
        assert job.progress.step == stop
    train(config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_run_goes_on_from_an_older_checkpoint_when_the_newest_is_damaged(
    small_config, tmp_path, capsys
):
    train(small_config, tmp_path / "whole")
    job = prepare_run(small_config, tmp_path / "parts")
    stop_after(job, 20)
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    file = tmp_path / "parts" / "checkpoints" / "step-00000020" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    train(small_config, tmp_path / "parts")
    assert (
        "skipped the damaged checkpoint step-00000020: optimizer.safetensors has"
        in capsys.readouterr().err
    )
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_finished_run_says_so_and_again_starts_over(small_config, tmp_path, capsys):
    train(small_config, tmp_path / "run")
    before = outcome(tmp_path / "run")
    capsys.readouterr()
    train(small_config, tmp_path / "run")
    assert "this run is finished (24 steps)" in capsys.readouterr().err
    assert outcome(tmp_path / "run") == before
    train(changed(small_config, train={"steps": 8}), tmp_path / "run", again=True)
    assert outcome(tmp_path / "run")[0] == "step-00000008"


def test_run_toml_repeats_the_run(small_config, tmp_path):
    train(small_config, tmp_path / "first")
    config = RunDir(tmp_path / "first").config
    assert config.train.steps == 24
    assert config.train.dtype == "fp32"
    train(config, tmp_path / "second")
    assert outcome(tmp_path / "second") == outcome(tmp_path / "first")
    train(config, tmp_path / "first")  # the same settings, as resolved: nothing has changed


def test_changed_settings_are_refused_with_the_difference(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    other = changed(small_config, optim={"lr": 0.5}, train={"steps": 30})
    with pytest.raises(
        UserError, match=r"optim\.lr was 0\.01, now 0\.5; train\.steps was 24, now 30"
    ):
        train(other, tmp_path / "run")
    train(
        changed(small_config, train={"log_every": 3, "keep": 1}, sample={"prompt": "a "}),
        tmp_path / "run",
    )
    train(other, tmp_path / "run", override=True)
    assert outcome(tmp_path / "run")[0] == "step-00000030"
    assert RunDir(tmp_path / "run").config.optim.lr == 0.5


def test_the_optimiser_cannot_be_overridden(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    other = changed(small_config, optim={"name": "muon"})
    with pytest.raises(UserError, match=r"optim\.name was 'adamw', now 'muon'"):
        train(other, tmp_path / "run")
    with pytest.raises(UserError, match=r"optim\.name cannot be changed by --override"):
        train(other, tmp_path / "run", override=True)


def test_what_only_muon_reads_matters_only_with_muon(small_config, tmp_path):
    readings = {"muon_lr": 0.5, "momentum": 0.5, "newton_schulz_dtype": "bf16"}
    train(small_config, tmp_path / "adamw")
    before = outcome(tmp_path / "adamw")
    train(changed(small_config, optim=readings), tmp_path / "adamw")
    assert outcome(tmp_path / "adamw") == before
    config = changed(small_config, optim={"name": "muon", "newton_schulz_dtype": "fp32"})
    train(config, tmp_path / "muon")
    for name, value in readings.items():
        with pytest.raises(UserError, match=rf"other settings: optim\.{name} was"):
            train(changed(config, optim={name: value}), tmp_path / "muon")


def test_the_precision_of_newton_schulz_is_decided_once(small_config, tmp_path, monkeypatch):
    config = changed(small_config, optim={"name": "muon"})
    for decided, found in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr(
            "minigpt.pretrain.pick_newton_schulz_dtype", lambda name, device, found=decided: found
        )
        job = prepare_run(config, tmp_path / decided)
        assert job.config.optim.newton_schulz_dtype == decided
        assert job.optimizer.dtype == found
        job.place.leave()
    train(config, tmp_path / "fp32")
    monkeypatch.setattr(
        "minigpt.pretrain.pick_newton_schulz_dtype",
        lambda name, device: "bf16" if name == "auto" else name,
    )
    assert prepare_run(config, tmp_path / "fp32").optimizer.dtype == torch.float32


def test_both_rates_follow_the_schedule(small_config, tmp_path):
    config = changed(
        small_config, optim={"name": "muon", "lr": 0.01, "muon_lr": 0.04, "min_lr": 0.001}
    )
    job = prepare_run(config, tmp_path / "run")
    job.fit()
    muon, *rest = job.optimizer.param_groups
    assert muon["lr"] == pytest.approx(0.004)  # at the end, as min_lr to lr
    assert [group["lr"] for group in rest] == pytest.approx([0.001, 0.001])
    assert RunDir(tmp_path / "run").metrics[-1]["lr"] == pytest.approx(0.001)


def test_a_changed_text_is_refused(small_config, small_text, tmp_path):
    copy = tmp_path / "text.txt"
    copy.write_text(small_text.read_text())
    config = changed(small_config, data={"source": str(copy)})
    train(config, tmp_path / "run")
    copy.write_text(small_text.read_text() + "more.")
    with pytest.raises(UserError, match="has changed since"):
        train(config, tmp_path / "run")


def test_epochs_become_steps(small_config, tmp_path):
    config = changed(small_config, train={"steps": 0, "epochs": 0.25})
    job = prepare_run(config, tmp_path / "run")
    assert job.order.epoch_at(job.steps) == pytest.approx(0.25, abs=8 / job.order.windows_per_epoch)


def test_minutes_become_steps_once(small_config, tmp_path, monkeypatch):
    config = changed(small_config, train={"steps": 0, "minutes": 0.1})
    monkeypatch.setattr("minigpt.pretrain.steps_in", lambda ends_at, trial: 17)
    stopped_at(config, tmp_path / "run", 9)
    assert RunDir(tmp_path / "run").config.train.steps == 17
    assert RunDir(tmp_path / "run").config.train.minutes == 0
    monkeypatch.setattr("minigpt.pretrain.steps_in", lambda ends_at, trial: 99)
    train(config, tmp_path / "run")
    assert outcome(tmp_path / "run")[0] == "step-00000017"


def test_a_run_cannot_be_given_another_time_by_override(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    config = changed(small_config, train={"steps": 0, "minutes": 1.0})
    with pytest.raises(UserError, match=r"train\.minutes cannot be changed by --override"):
        train(config, tmp_path / "run", override=True)


def test_a_warm_up_longer_than_the_run_is_shortened(small_config, tmp_path):
    job = prepare_run(changed(small_config, optim={"warmup_steps": 100}), tmp_path / "run")
    assert job.config.optim.warmup_steps == 2
    assert job.learning_rate(24) == 0.0


def test_attention_inside_documents_is_another_run(small_config, tmp_path):
    text = tmp_path / "documents.txt"
    text.write_text("<|endoftext|>".join(["the cat sat on the mat. " * 4] * 30))
    config = changed(small_config, data={"source": str(text)})
    losses = []
    for documents in ("join", "separate"):
        run = train(changed(config, data={"documents": documents}), tmp_path / documents)
        losses.append(RunDir(run).metrics[-1]["val_loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"model": {"block_size": 100_000}}, "one window needs"),
        ({"model": {"vocab_size": 5}}, "model.vocab_size is 5 but the tokenizer has"),
        ({"train": {"device": "cuda:7"}}, "this machine does not have"),
        ({"data": {"source": "none.txt"}}, "there is no text at"),
        ({"data": {"tokenizer": "none.json"}}, "there is no tokenizer at"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    small_config, tmp_path, sections, sentence
):
    with pytest.raises(UserError, match=sentence):
        train(changed(small_config, **sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refused_start_over_loses_nothing(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    before = outcome(tmp_path / "run")
    with pytest.raises(UserError, match="there is no text"):
        train(changed(small_config, data={"source": "none.txt"}), tmp_path / "run", again=True)
    assert outcome(tmp_path / "run") == before


def test_another_machine_is_said(small_config, tmp_path, capsys):
    train(small_config, tmp_path / "run")
    newest = RunDir(tmp_path / "run").newest_whole()[0].path
    state = json.loads((newest / "state.json").read_text())
    state["runtime"]["threads"] = 999
    (newest / "state.json").write_text(json.dumps(state))
    manifest = json.loads((newest / "manifest.json").read_text())
    content = (newest / "state.json").read_bytes()
    manifest["files"]["state.json"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (newest / "manifest.json").write_text(json.dumps(manifest))
    train(small_config, tmp_path / "run")
    assert "threads was 999" in capsys.readouterr().err


def test_training_works_outside_the_main_thread(small_config, tmp_path):
    thread = threading.Thread(target=train, args=(small_config, tmp_path / "run"))
    thread.start()
    thread.join(60)
    assert outcome(tmp_path / "run")[0] == "step-00000024"


def test_the_defaults_are_a_run(tmp_path, small_text):
    config = RunConfig(
        data=DataConfig(source=str(small_text)), train=TrainConfig(steps=1), optim=OptimConfig()
    )
    train(config, tmp_path / "run")
    assert outcome(tmp_path / "run")[0] == "step-00000001"


def test_a_run_without_a_whole_checkpoint_is_not_started_over_unasked(small_config, tmp_path):
    run = train(small_config, tmp_path / "run")
    rows = RunDir(run).metrics
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"no whole checkpoint to go on from .*--again starts over"):
        train(small_config, run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"no whole checkpoint to go on from \(they are gone\)"):
        train(small_config, run)
    assert RunDir(run).metrics == rows
    train(small_config, run, again=True)


@pytest.mark.parametrize("lr", [1e30, 1e4])
def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(small_config, tmp_path, lr):
    config = changed(
        small_config, optim={"lr": lr, "clip": 0.0, "warmup_steps": 0, "weight_decay": 1e5}
    )
    with pytest.raises(UserError, match=r"has diverged at step \d+: .* smaller optim\.lr"):
        train(config, tmp_path / "run")
    newest = RunDir(tmp_path / "run").newest_whole()[0]
    weights = minigpt.GPT.from_pretrained(newest.path).state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    json.loads(
        (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1],
        parse_constant=pytest.fail,
    )


def test_weights_that_are_no_numbers_are_never_saved(small_config, tmp_path):
    """Between two lines of the log too, where neither loss nor gradient is looked at."""
    config = changed(
        small_config,
        optim={"lr": 1e30, "clip": 0.0, "warmup_steps": 0},
        train={"log_every": 1000, "eval_every": 1000, "checkpoint_every": 1},
    )
    with pytest.raises(UserError, match="has diverged"):
        train(config, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        weights = minigpt.GPT.from_pretrained(folder).state_dict()
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_text_may_move(small_config, small_text, tmp_path):
    train(small_config, tmp_path / "run")
    moved = tmp_path / "moved.txt"
    moved.write_text(small_text.read_text())
    train(changed(small_config, data={"source": str(moved)}), tmp_path / "run")
    assert RunDir(tmp_path / "run").config.data.source == str(moved)


def test_a_text_without_line_ends_trains_with_the_default_prompt(small_config, tmp_path):
    text = tmp_path / "line.txt"
    text.write_text("the cat sat on the mat. " * 200)
    config = changed(small_config, data={"source": str(text)}, sample={"prompt": "\n"})
    assert RunDir(train(config, tmp_path / "run")).config.sample.prompt == ""
    with pytest.raises(UserError, match=r"sample\.prompt cannot be used: .*'é'"):
        train(changed(config, sample={"prompt": "é"}), tmp_path / "run", again=True)
    assert outcome(tmp_path / "run")[0] == "step-00000024"


def test_a_run_of_epochs_can_be_given_more_steps(small_config, tmp_path):
    config = changed(small_config, train={"steps": 0, "epochs": 0.1})
    steps = RunDir(train(config, tmp_path / "run")).config.train.steps
    longer = changed(small_config, train={"steps": steps + 3})
    with pytest.raises(UserError, match=rf"train\.steps was {steps}, now {steps + 3}"):
        train(longer, tmp_path / "run")
    train(longer, tmp_path / "run", override=True)
    assert outcome(tmp_path / "run")[0] == f"step-{steps + 3:08d}"
    with pytest.raises(UserError, match="but the run is at step"):
        train(changed(small_config, train={"steps": 1}), tmp_path / "run", override=True)


def test_run_toml_with_one_harmless_change_is_the_same_run(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    resolved = RunDir(tmp_path / "run").config
    train(changed(resolved, train={"log_every": 7}), tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings: optim\.lr was 0\.01, now 0\.5\. Restore"):
        train(changed(resolved, optim={"lr": 0.5}), tmp_path / "run")


def test_a_harmless_change_keeps_the_best_weights(small_config, tmp_path):
    config = changed(small_config, optim={"lr": 3.0, "warmup_steps": 16, "schedule": "constant"})
    run = train(config, tmp_path / "run")
    best = (run / "model.safetensors").read_bytes()
    assert best != (run / "checkpoints" / "step-00000024" / "model.safetensors").read_bytes()
    train(changed(config, sample={"prompt": "a "}, train={"keep": 1}), run)
    assert (run / "model.safetensors").read_bytes() == best
    with pytest.raises(UserError, match=r"sample\.prompt cannot be used"):
        train(changed(config, sample={"prompt": "é"}), run)


def test_the_shape_cannot_be_overridden(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    with pytest.raises(UserError, match=r"model\.n_embd cannot be changed by --override"):
        train(changed(small_config, model={"n_embd": 32}), tmp_path / "run", override=True)


def test_a_shortened_warm_up_is_said(small_config, tmp_path, capsys):
    prepare_run(changed(small_config, optim={"warmup_steps": 100}), tmp_path / "run")
    assert "optim.warmup_steps = 100 would take up the whole run" in capsys.readouterr().err


def test_a_run_in_use_is_refused_with_again_too_and_free_once_it_is_done(small_config, tmp_path):
    job = prepare_run(small_config, tmp_path / "run")
    for again in (False, True):
        with pytest.raises(UserError, match="run is in use by process"):
            train(small_config, tmp_path / "run", again=again)
    job.fit()
    train(small_config, tmp_path / "run", again=True)
    with pytest.raises(UserError, match="other settings"):
        train(changed(small_config, optim={"lr": 0.5}), tmp_path / "run")
    train(small_config, tmp_path / "run")


def test_more_steps_need_no_override_while_the_rate_is_constant(small_config, tmp_path):
    short = changed(small_config, optim={"schedule": "constant"}, train={"steps": 16})
    longer = changed(short, train={"steps": 24})
    train(short, tmp_path / "extended")
    train(longer, tmp_path / "extended")
    train(longer, tmp_path / "at once")
    assert outcome(tmp_path / "extended") == outcome(tmp_path / "at once")
    with pytest.raises(UserError, match=r"train\.steps was 24, now 16"):
        train(short, tmp_path / "extended")
    with pytest.raises(UserError, match="other settings"):
        train(changed(longer, optim={"lr": 0.5}, train={"steps": 30}), tmp_path / "extended")


@pytest.mark.parametrize(("stop", "is_safe"), [(19, True), (21, False)])
def test_more_steps_under_wsd_need_no_override_before_the_decay(
    small_config, tmp_path, stop, is_safe
):
    config = changed(small_config, optim={"schedule": "wsd"})
    longer = changed(config, train={"steps": 30})
    job = prepare_run(config, tmp_path / "run")
    stop_after(job, stop)
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    if not is_safe:
        with pytest.raises(UserError, match=r"train\.steps was 24, now 30"):
            train(longer, tmp_path / "run")
        return
    train(longer, tmp_path / "run")
    train(longer, tmp_path / "at once")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "at once")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_low_precision_goes_on_bit_for_bit(small_config, tmp_path, dtype, monkeypatch):
    """In fp16 the loss scale begins far too high, and comes down over the first updates: it must be kept, too."""
    monkeypatch.setattr("minigpt.loss_scale.FIRST", 2.0**34)
    config = changed(small_config, train={"dtype": dtype})
    train(config, tmp_path / "whole")
    rows = RunDir(tmp_path / "whole").metrics
    overflowed = sum(row.get("overflowed", 0) for row in rows)
    assert (overflowed > 7) == (dtype == "fp16")
    assert not any("skipped" in row for row in rows)
    assert rows[-1]["train_loss"] < rows[0]["val_loss"]
    for stop in (7, 12):
        job = prepare_run(config, tmp_path / "halves")
        stop_after(job, stop)
        with pytest.raises(KeyboardInterrupt):
            job.fit()
    train(config, tmp_path / "halves")
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")


def test_what_is_faster_is_found_out_once(small_config, tmp_path, monkeypatch):
    config = changed(small_config, train={"dtype": "auto"})
    monkeypatch.setattr("minigpt.decisions.bf16_gain", lambda shape, rows: 3.0)
    job = prepare_run(config, tmp_path / "run")
    stop_after(job, 7)
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    monkeypatch.setattr("minigpt.decisions.bf16_gain", lambda shape, rows: 0.5)
    train(config, tmp_path / "run")
    assert RunDir(tmp_path / "run").config.train.dtype == "bf16"
    assert "3.0 times as fast in bf16 as in fp32" in (tmp_path / "run" / "train.log").read_text()


def in_the_middle_of(monkeypatch, name, number, step=None):
    """Have a signal come in the middle of what a job does under this name; once, at this step."""
    done, before = [], getattr(TrainingJob, name)

    def interrupted(job, *arguments, **settings):
        if not done and step in (None, job.progress.step):
            done.append(True)
            signal.raise_signal(number)
        return before(job, *arguments, **settings)

    monkeypatch.setattr(TrainingJob, name, interrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step", "saved_at"),
    [
        ("evaluate", 8, "at step 9"),
        ("draw", 8, "at step 9"),
        ("write_report", 16, "at step 17"),
        ("_write_checkpoint", 12, "at step 13"),
        ("evaluate", 24, "after the last step, 24,"),
        ("draw", 24, "after the last step, 24,"),
    ],
)
def test_a_signal_in_the_middle_of_anything_ends_the_run_soon_and_loses_nothing(
    small_config, tmp_path, monkeypatch, capsys, name, step, saved_at
):
    train(small_config, tmp_path / "whole")
    in_the_middle_of(monkeypatch, name, signal.SIGINT, step)
    with pytest.raises(KeyboardInterrupt):
        train(small_config, tmp_path / "parts")
    assert f"stopped and saved {saved_at}" in capsys.readouterr().err
    train(small_config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_second_signal_stops_at_once_and_loses_nothing_that_was_saved(
    small_config, tmp_path, monkeypatch, capsys
):
    train(small_config, tmp_path / "whole")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        in_the_middle_of(patch, "likelihood", signal.SIGINT, 8)
        in_the_middle_of(patch, "draw", signal.SIGINT, 8)
        with pytest.raises(KeyboardInterrupt):
            train(small_config, tmp_path / "parts")
    assert "stopped and saved" not in capsys.readouterr().err
    assert RunDir(tmp_path / "parts").newest_whole()[0].path.name == "step-00000006"
    train(small_config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_sigterm_is_told_from_sigint_by_the_status(small_config, tmp_path, monkeypatch):
    in_the_middle_of(monkeypatch, "draw", signal.SIGTERM, 8)
    with pytest.raises(SystemExit) as ended:
        train(small_config, tmp_path / "run")
    assert ended.value.code == 143


@pytest.mark.parametrize("name", ["likelihood", "write_report", "draw"])
def test_after_the_last_step_a_signal_stops_at_once_and_the_same_command_does_the_rest(
    small_config, tmp_path, monkeypatch, name
):
    train(small_config, tmp_path / "whole")
    before = pretrain.conclude

    def concluding(job):
        in_the_middle_of(monkeypatch, name, signal.SIGINT)
        before(job)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "conclude", concluding)
        with pytest.raises(KeyboardInterrupt):
            train(small_config, tmp_path / "parts")
    train(small_config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_run_is_in_use_until_its_last_word_is_said(small_config, tmp_path, monkeypatch):
    refused, before = [], TrainingJob.draw

    def drawing(job, *arguments):
        with pytest.raises(UserError, match="run is in use by process"):
            prepare_run(small_config, tmp_path / "run")
        refused.append(job.progress.step)
        return before(job, *arguments)

    monkeypatch.setattr(TrainingJob, "draw", drawing)
    train(small_config, tmp_path / "run")
    assert refused == [0, 8, 16, 24, 24]  # after each evaluation, and once more at the end
    prepare_run(small_config, tmp_path / "run").place.leave()


def make_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3]),
    "other content": lambda path: path.write_bytes(b"\xff{\x00"),
}


def stopped_at(config, out, step):
    job = prepare_run(config, out)
    stop_after(job, step)
    with pytest.raises(KeyboardInterrupt):
        job.fit()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.toml", "data.json"])
def test_settings_and_facts_that_are_damaged_are_written_anew(small_config, tmp_path, name, damage):
    train(small_config, tmp_path / "whole")
    stopped_at(small_config, tmp_path / "parts", 13)
    sound = (tmp_path / "parts" / name).read_bytes()
    DAMAGES[damage](tmp_path / "parts" / name)
    train(small_config, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert (tmp_path / "parts" / name).read_bytes() == sound


@pytest.mark.parametrize("damage", [*DAMAGES, "a folder"])
def test_best_weights_that_are_damaged_are_taken_from_the_checkpoint_of_their_step(
    small_config, tmp_path, capsys, damage
):
    config = changed(small_config, train={"checkpoint_every": 4, "keep": 3})
    train(config, tmp_path / "whole")
    stopped_at(config, tmp_path / "parts", 13)
    weights = tmp_path / "parts" / "model.safetensors"
    if damage == "a folder":
        make_folder(weights)
        with pytest.raises(OSError, match="Is a directory"):
            train(config, tmp_path / "parts")
        weights.rmdir()
    else:
        DAMAGES[damage](weights)
    train(config, tmp_path / "parts")
    assert "the best weights are taken from step-00000008: " in capsys.readouterr().err
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_best_weights_that_are_lost_are_said_to_be(small_config, tmp_path, capsys):
    stopped_at(small_config, tmp_path / "run", 15)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"")
    train(small_config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "the best weights are lost, and the next ones take their place: " in said
    assert "model.safetensors is cut short or damaged" in said
    minigpt.load(tmp_path / "run")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "train.log"])
def test_a_log_that_is_damaged_is_said_and_costs_its_own_lines_alone(
    small_config, tmp_path, capsys, name, damage
):
    train(small_config, tmp_path / "whole")
    stopped_at(small_config, tmp_path / "parts", 13)
    DAMAGES[damage](tmp_path / "parts" / name)
    train(small_config, tmp_path / "parts")
    assert f"{name} has " in capsys.readouterr().err
    ours, theirs = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert ours[:2] == theirs[:2]
    assert [row["step"] for row in ours[2] if row["step"] > 13] == [16, 20, 24]
    assert all(row in theirs[2] for row in ours[2])
    assert ours[2] == theirs[2] or name == "metrics.jsonl"


def test_a_line_of_the_metrics_with_a_flipped_bit_ends_no_run(small_config, tmp_path, capsys):
    stopped_at(small_config, tmp_path / "run", 13)
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"\xfb" + lines[1][1:], *lines[2:]]))
    train(small_config, tmp_path / "run")
    assert [row["step"] for row in RunDir(tmp_path / "run").metrics] == [0, 8, 12, 16, 20, 24]
    said = capsys.readouterr().err
    assert said.count("no more reports are written: line 2 of ") == 1
    assert "verdict: " in said


@pytest.mark.parametrize(
    ("before", "after"), [("fp32", "fp16"), ("fp16", "bf16"), ("bf16", "auto")]
)
def test_another_precision_may_be_taken_by_override(
    small_config, tmp_path, before, after, monkeypatch
):
    monkeypatch.setattr("minigpt.decisions.bf16_gain", lambda shape, rows: 0.5)
    job = prepare_run(changed(small_config, train={"dtype": before}), tmp_path / "run")
    stop_after(job, 7)
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    other = changed(small_config, train={"dtype": after})
    with pytest.raises(UserError, match=f"train.dtype was '{before}', now '{after}'"):
        train(other, tmp_path / "run")
    train(other, tmp_path / "run", override=True)
    decided = RunDir(tmp_path / "run").config.train
    assert decided.dtype == ("fp32" if after == "auto" else after)
    assert decided.compile == "off"


def test_a_run_in_low_precision_draws_what_is_drawn_from_it_later(small_config, tmp_path):
    config = changed(small_config, train={"dtype": "bf16"})
    job = prepare_run(config, tmp_path / "run")
    job.fit()
    job.load_best()
    model, tokenizer = minigpt.load(tmp_path / "run")
    sample = config.sample
    assert job.draw() == [
        sample.prompt
        + minigpt.generate(
            model, tokenizer, sample.prompt, max_tokens=sample.max_tokens, seed=sample.seed
        )
    ]
