from minigpt.pretrain import prepare_run, train
from minigpt.trial import Costs, costs_of, steps_in

from .test_pretrain import changed, outcome


def test_steps_fill_the_time_that_is_left(small_config, tmp_path, monkeypatch):
    job = prepare_run(small_config, tmp_path / "run")
    monkeypatch.setattr("minigpt.trial.costs_of", lambda job: Costs(0.1, 0.5, 0.2, 0.3, 0.1))
    passes = job.task.held_out / 500  # over all that is held out, in evaluations
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    monkeypatch.setattr("minigpt.trial.seconds_of", lambda work: 3.0)  # the baselines
    ends = 2 * (0.5 + 0.2 + 0.1 + 0.3) + 0.5 * passes + 0.2 + 3.0
    assert steps_in(1100.0, job) == int((100 - ends) / (0.1 + 0.8 / 8 + 0.3 / 6))
    assert steps_in(900.0, job) == 1


def test_timing_leaves_no_trace(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.trial.TRIAL_SECONDS", 0.1)
    monkeypatch.setattr(
        "minigpt.pretrain.steps_in", lambda ends_at, trial: 24 * (costs_of(trial).checkpoint > 0)
    )
    train(small_config, tmp_path / "steps")
    train(changed(small_config, train={"steps": 0, "minutes": 0.1}), tmp_path / "minutes")
    assert outcome(tmp_path / "minutes") == outcome(tmp_path / "steps")
