import json
import math

import pytest
import torch

import minigpt
from minigpt.errors import RunError, UserError
from minigpt.loss import TrainStep
from minigpt.pretrain import prepare_run, train
from minigpt.rundir import RunDir
from minigpt.trial import costs_of

from .test_pretrain import changed, outcome, stop_after


def with_losses(job, factors):
    """Have the loss of some steps, counted from 0, multiplied."""
    batches, forward, now = job.batches, job.step.forward, [-1]

    def noting(step):
        now[0] = step
        return batches(step)

    def multiplied(*inputs):
        loss, count = forward(*inputs)
        return loss * (factors.get(now[0], 1.0) if torch.is_grad_enabled() else 1.0), count

    job.batches, job.step.forward = noting, multiplied
    return job


def fit_in_parts(config, out, stops, prepare):
    """Train with a stop after each of these steps; `prepare` is given every job."""
    for stop in stops:
        job = prepare(prepare_run(config, out))
        stop_after(job, stop)
        with pytest.raises(KeyboardInterrupt):
            job.fit()
        assert job.progress.step == stop
    prepare(prepare_run(config, out)).fit()


def text_of(folder, name="train.log"):
    return (folder / name).read_text()


def only_up_to(monkeypatch, sequences, *, after=0):
    """Have memory run out in a forward pass of more sequences than these, from its `after`-th one on."""
    forward, passes = TrainStep.forward, []

    def limited(self, ids, *inputs):
        if torch.is_grad_enabled():
            passes.append(len(ids))
            if len(ids) > sequences and len(passes) > after:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, ids, *inputs)

    monkeypatch.setattr(TrainStep, "forward", limited)


def test_what_is_due_follows_from_the_settings(small_config, tmp_path):
    job = prepare_run(changed(small_config, train={"log_every": 5}), tmp_path / "run")
    due = {
        what: [step for step in range(25) if job.is_due(what, step)]
        for what in ("save", "evaluate", "log")
    }
    assert due == {
        "save": [0, 6, 12, 18, 24],
        "evaluate": [0, 8, 16, 24],
        "log": [0, 5, 10, 15, 20],
    }


def test_samples_come_at_their_own_pace(small_config, tmp_path):
    config = changed(
        small_config, train={"eval_every": 4, "sample_every": 12}, sample={"num_samples": 2}
    )
    prepare_run(config, tmp_path / "run").fit()
    text = (tmp_path / "run" / "samples.txt").read_text()
    assert [line for line in text.splitlines() if line.startswith("---")] == [
        f"--- step {step}" for step in (0, 0, 12, 12, 24, 24)
    ]
    assert text.count("the ") >= 6


def test_draw_takes_another_prompt_and_leaves_training_alone(small_config, tmp_path):
    job = prepare_run(small_config, tmp_path / "run")
    assert job.draw()[0].startswith("the ")
    assert job.draw("a mat")[0].startswith("a mat")
    assert job.model.training


def test_the_first_loss_is_near_ln_v(small_config, tmp_path):
    job = prepare_run(small_config, tmp_path / "run")
    assert abs(job.likelihood().loss - math.log(job.config.model.vocab_size)) < 0.1


BAD = {5: math.nan, 6: math.inf, 12: math.nan, 23: math.nan}


def test_an_update_that_is_not_finite_is_left_out_and_said(small_config, tmp_path):
    job = with_losses(prepare_run(small_config, tmp_path / "run"), BAD)
    job.fit()
    starts = ", ".join(map(str, job.order.starts(12)))
    assert (
        "step 13: the update is left out, for the loss is nan (the first gradient that is not finite: "
        f"embedding.weight); its windows start at the tokens {starts}\n"
    ) in text_of(tmp_path / "run")
    rows = {row["step"]: row for row in RunDir(tmp_path / "run").metrics}
    assert {step: row.get("skipped") for step, row in rows.items()} == {
        0: None, 4: None, 8: 2, 12: None, 16: 1, 20: None, 24: 1,
    }  # fmt: skip
    assert all("train_loss" in row for step, row in rows.items() if step)
    assert "grad_norm" not in rows[24]
    assert rows[24]["val_loss"] < rows[0]["val_loss"] - 0.3
    json.loads(
        text_of(tmp_path / "run", "metrics.jsonl").splitlines()[-1], parse_constant=pytest.fail
    )
    state = tmp_path / "run" / "checkpoints" / "step-00000024" / "state.json"
    json.loads(state.read_text(), parse_constant=pytest.fail)


def test_a_token_that_gives_no_numbers_costs_the_updates_of_its_windows_alone(
    small_config, tmp_path
):
    """A hook turns the embedding of a rare character into NaN, wherever it stands in a batch."""
    sentence, rare = "the cat sat on the mat. ", "Z"
    parts = [sentence * 100 + rare] * 6 + [sentence * 200]  # the last tenth has none
    (tmp_path / "text.txt").write_text("".join(parts))
    config = changed(small_config, data={"source": str(tmp_path / "text.txt")}, train={"steps": 60})
    job = prepare_run(config, tmp_path / "run")
    (bad,) = job.task.tokenizer.encode(rare)

    def spoil(module, inputs, output):
        return output.masked_fill((inputs[0] == bad).unsqueeze(-1), math.nan)

    job.model.embedding.register_forward_hook(spoil)
    struck = [
        step
        for step in range(60)
        if any(bool((batch.ids == bad).any()) for batch in job.batches(step))
    ]
    assert 2 <= len(struck) <= 20
    job.fit()
    said = [line for line in text_of(tmp_path / "run").splitlines() if "is left out" in line]
    assert [line.split(":")[0] for line in said] == [f"step {step + 1}" for step in struck]
    for step, line in zip(struck, said, strict=True):
        assert "the loss is nan (the first gradient that is not finite: embedding.weight)" in line
        named = [int(start) for start in line.split("at the tokens ")[1].split(", ")]
        windows = [job.task.tokens.train[start : start + 16].tolist() for start in named]
        assert any(bad in window for window in windows), step
    assert all(parameter.isfinite().all() for parameter in job.model.parameters())
    rows = RunDir(tmp_path / "run").metrics
    assert sum(row.get("skipped", 0) for row in rows) == len(struck)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.3


def test_a_gradient_that_is_not_finite_is_named_although_the_loss_is(small_config, tmp_path):
    job = prepare_run(small_config, tmp_path / "run")

    def spoil(gradient):
        return gradient * (math.inf if job.progress.step == 9 else 1.0)

    job.model.blocks[1].mlp.up.weight.register_hook(spoil)
    job.fit()
    said = [line for line in text_of(tmp_path / "run").splitlines() if "is left out" in line]
    assert len(said) == 1
    assert said[0].startswith(
        "step 10: the update is left out, for the gradient of blocks.1.mlp.up.weight is not finite (the loss is 2."
    )


def test_a_resumed_run_leaves_the_same_updates_out(small_config, tmp_path):
    fit_in_parts(small_config, tmp_path / "whole", [], lambda job: with_losses(job, BAD))
    fit_in_parts(small_config, tmp_path / "parts", [6, 7, 13], lambda job: with_losses(job, BAD))
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("stops", [[], [11]])
def test_three_in_a_row_end_the_run_whether_it_was_stopped_between_them_or_not(
    small_config, tmp_path, stops
):
    bad = dict.fromkeys((2, 3, 9, 10, 11), math.nan)
    sentence = r"has diverged at step 12: 3 updates in a row .*loss is nan.*checkpoints before it are whole"
    with pytest.raises(UserError, match=sentence):
        fit_in_parts(small_config, tmp_path / "run", stops, lambda job: with_losses(job, bad))
    newest, skipped = RunDir(tmp_path / "run").newest_whole()
    assert (newest.path.name, skipped) == (f"step-{stops[0] if stops else 6:08d}", [])
    weights = minigpt.GPT.from_pretrained(newest.path).state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_spike_is_said_once_and_stands_in_its_row(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.guard.FEWEST", 8)
    config = changed(small_config, optim={"lr": 0.0})
    spikes = {14: 4.0, 15: 4.0}
    for name, stops in (("whole", []), ("parts", [15, 17])):
        fit_in_parts(config, tmp_path / name, stops, lambda job: with_losses(job, spikes))
        assert text_of(tmp_path / name).count("standard deviations above") == 1
        assert "step 15: the loss is 11." in text_of(tmp_path / name)
    rows = RunDir(tmp_path / "whole").metrics
    assert [row["spike_step"] for row in rows if "spike_z" in row] == [15]
    assert [row["step"] for row in rows if "spike_z" in row] == [16]
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_out_of_memory_the_micro_batch_is_halved_and_the_losses_are_the_same(
    small_config, tmp_path, monkeypatch
):
    config = changed(small_config, model={"dropout": 0.0}, train={"micro_batch_size": 0})
    train(config, tmp_path / "plenty")
    only_up_to(monkeypatch, 3)
    train(config, tmp_path / "little")
    said = text_of(tmp_path / "little")
    assert said.count("memory ran out") == 2
    assert "with 4 sequences at a time (CUDA out of memory. Tried" in said
    assert "from here on there are 2, and 4 of such micro-batches in a step" in said
    assert RunDir(tmp_path / "little").config.train.micro_batch_size == 2
    ours, theirs = (RunDir(tmp_path / name).metrics for name in ("little", "plenty"))
    for one, other in zip(ours, theirs, strict=True):
        same = {"tokens", "train_loss", "val_loss"} & other.keys()
        assert {key: one[key] for key in same} == pytest.approx(
            {key: other[key] for key in same}, rel=1e-4
        )


def test_a_halved_micro_batch_is_decided_once_and_kept_on_resume(
    small_config, tmp_path, monkeypatch
):
    """Memory runs out in the eleventh step: whether the run is stopped after that or not, it is the same run."""
    for name, stops in (("whole", []), ("parts", [11, 17])):
        with monkeypatch.context() as patch:
            only_up_to(patch, 2, after=20)
            job = prepare_run(small_config, tmp_path / name)
            if stops:
                stop_after(job, 11)
                with pytest.raises(KeyboardInterrupt):
                    job.fit()
            else:
                job.fit()
        assert text_of(tmp_path / name).count("memory ran out") == 1
    fit_in_parts(small_config, tmp_path / "parts", [17], lambda job: job)
    assert RunDir(tmp_path / "parts").config.train.micro_batch_size == 2
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_killed_right_after_halving_it_goes_on_with_the_halved_micro_batch(
    small_config, tmp_path, monkeypatch
):
    for name in ("whole", "killed"):
        with monkeypatch.context() as patch:
            only_up_to(
                patch, 2, after=16
            )  # in the ninth step, after an evaluation and a line of the log
            job = prepare_run(small_config, tmp_path / name)
            if name == "killed":
                patch.setattr(job.run, "record", lambda config: (_ for _ in ()).throw(MemoryError))
                with pytest.raises(MemoryError):
                    job.fit()
            else:
                job.fit()
    job = prepare_run(small_config, tmp_path / "killed")
    assert (job.progress.step, job.config.train.micro_batch_size) == (8, 2)
    job.fit()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_out_of_memory_with_one_sequence_is_a_sentence(small_config, tmp_path, monkeypatch):
    only_up_to(monkeypatch, 0)
    with pytest.raises(
        UserError, match=r"with a single sequence .* take a smaller model\.block_size"
    ):
        train(small_config, tmp_path / "run")
    assert RunDir(tmp_path / "run").newest_whole()[0].state()["progress"]["step"] == 0


def test_a_halving_leaves_no_row_of_an_update_that_never_came(small_config, tmp_path, monkeypatch):
    only_up_to(monkeypatch, 2, after=4)
    config = changed(small_config, train={"log_every": 1, "micro_batch_size": 0})
    run = RunDir(train(config, tmp_path / "run"))
    assert "memory ran out" in text_of(run.path)
    steps = [row["step"] for row in run.metrics]
    assert steps == list(range(25))
    # The last rate is 0, and so is the last update.
    assert all("train_loss" in row and all(row["update_ratio"]) for row in run.metrics[1:-1])


def test_weights_that_diverge_are_one_sentence(small_config, tmp_path):
    config = changed(small_config, optim={"lr": 1e38, "clip": 0.0}, train={"log_every": 1})
    with pytest.raises(UserError, match="the run has diverged at step"):
        train(config, tmp_path / "run")


def test_a_report_that_cannot_be_drawn_does_not_end_a_run(small_config, tmp_path, monkeypatch):
    def broken(run):
        raise UserError("line 3 is damaged")

    job = prepare_run(small_config, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("minigpt.job.write_report", broken)
        job.fit()
    assert job.is_finished
    assert text_of(tmp_path / "run").count("no more reports are written: line 3 is damaged") == 1


def test_a_place_is_given_up_where_a_tracker_cannot_be_opened(small_config, tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError(5, "no such server")

    job = prepare_run(small_config, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("minigpt.job.open_trackers", broken)
        with pytest.raises(RunError, match="no such server"):
            job.fit()
    train(small_config, tmp_path / "run")


def test_a_batch_that_cannot_be_halved_is_cut_into_the_next_fewer(
    small_config, tmp_path, monkeypatch
):
    only_up_to(monkeypatch, 2)
    config = changed(small_config, train={"steps": 2, "batch_size": 9, "micro_batch_size": 9})
    assert RunDir(train(config, tmp_path / "run")).config.train.micro_batch_size == 1
    assert "from here on there are 3, and 3 of such" in text_of(tmp_path / "run")


def test_memory_that_the_optimiser_lacks_is_no_matter_of_the_micro_batch(small_config, tmp_path):
    job = prepare_run(small_config, tmp_path / "run")

    def lacking(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    job.optimizer.register_step_pre_hook(lacking)
    with pytest.raises(RunError, match="fewer sequences at a time would not help"):
        job.fit()


def test_memory_that_lacks_in_an_evaluation_is_gone_round_as_well(
    small_config, tmp_path, monkeypatch
):
    job, forward = prepare_run(small_config, tmp_path / "run"), TrainStep.forward

    def limited(self, ids, *inputs):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, ids, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "forward", limited)
        job.fit()
    train(changed(small_config, train={"micro_batch_size": 2}), tmp_path / "small")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "small")


def test_a_trial_that_runs_out_of_memory_decides_for_the_run(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.trial.TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(
        "minigpt.pretrain.steps_in", lambda ends_at, trial: bool(costs_of(trial)) * 3
    )
    only_up_to(monkeypatch, 2)
    config = changed(small_config, train={"steps": 0, "minutes": 0.1})
    job = prepare_run(config, tmp_path / "run")
    assert (job.steps, job.config.train.micro_batch_size) == (3, 2)


IMPATIENT = {
    "optim": {"lr": 3.0, "warmup_steps": 12, "schedule": "constant"},
    "train": {"eval_every": 2, "patience": 3, "log_every": 5},
}


def test_without_a_new_best_for_so_long_the_run_ends_early(small_config, tmp_path, capsys):
    config = changed(small_config, **IMPATIENT)
    train(config, tmp_path / "run")
    assert "no new lowest value in 3 evaluations (train.patience)" in text_of(tmp_path / "run")
    losses = [row["val_loss"] for row in RunDir(tmp_path / "run").metrics if "val_loss" in row]
    best = losses.index(min(losses))
    assert len(losses) == best + 4
    ended = outcome(tmp_path / "run")
    assert ended[0] == f"step-{2 * (best + 3):08d}"
    assert 2 * (best + 3) < 24
    capsys.readouterr()
    train(config, tmp_path / "run")
    end = 2 * (best + 3)
    said = capsys.readouterr().err
    assert f"this run is finished ({end} steps)" in said
    assert f"step {end}/{end}  " in said
    assert outcome(tmp_path / "run") == ended
    train(changed(config, train={"patience": 0}), tmp_path / "run", override=True)
    assert outcome(tmp_path / "run")[0] == "step-00000024"


def test_patience_survives_a_stop(small_config, tmp_path):
    config = changed(small_config, **IMPATIENT)
    fit_in_parts(config, tmp_path / "whole", [], lambda job: job)
    end = int(outcome(tmp_path / "whole")[0].removeprefix("step-"))
    fit_in_parts(config, tmp_path / "parts", [end - 3, end - 1], lambda job: job)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_run_ends_with_a_verdict(small_config, tmp_path):
    train(changed(small_config, train={"eval_every": 4}), tmp_path / "run")
    assert "\nverdict: still improving: the held-out loss fell by" in text_of(tmp_path / "run")


def test_rows_of_a_guarded_run_are_those_of_any_run(small_config, tmp_path):
    train(small_config, tmp_path / "run")
    keys = set().union(*RunDir(tmp_path / "run").metrics)
    assert not {"skipped", "spike_step", "spike_z"} & keys
