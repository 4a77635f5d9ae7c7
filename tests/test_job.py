import math

from minigpt.pretrain import prepare_run

from .test_pretrain import changed


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
