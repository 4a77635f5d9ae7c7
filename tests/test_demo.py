import json
import time

import pytest

from minigpt.cli import run
from minigpt.config import RunConfig, build, preset_layer
from minigpt.demo import demo


def settings_of(steps: int, **data: str) -> RunConfig:
    changes = {"train": {"steps": steps, "eval_tokens": 2000}, "data": data}
    return build([preset_layer("demo"), ("the test", changes)])


@pytest.mark.slow
def test_the_demo_explains_each_step_and_shows_results_when_run_again(small_text, tmp_path, capsys):
    """Two steps of training on a small text; what the demo's own text and time are worth is shown below."""
    settings = settings_of(2, source=str(small_text))
    found = demo(settings, tmp_path / "demo")
    shown = capsys.readouterr()
    for part in (
        "1. The text",
        "2. The tokenizer",
        "3. The model",
        "noise",
        "4. Training",
        "5. The result",
    ):
        assert part in shown.err
    for name in (
        "all tokens",
        "how common",
        "follows the last one",
        "by a network",
        "follows the last two",
        "your GPT",
    ):
        assert name in shown.err
    assert shown.err.count("minigpt sample") == shown.err.count("minigpt eval") == 1
    assert "│ The" in shown.out
    assert f"How it went, to look at in a browser: {tmp_path / 'demo' / 'report.html'}" in shown.err
    again = demo(settings, tmp_path / "demo")
    second = capsys.readouterr()
    assert "This demo is done" in second.err
    assert "4. Training" not in second.err
    assert again["loss"] == found["loss"]
    demo(settings, tmp_path / "demo", again=True)
    assert "4. Training" in capsys.readouterr().err


@pytest.mark.slow
def test_two_hundred_steps_beat_the_last_token_guess(tmp_path, capsys):
    """On two laptop cores a minute has more than a thousand."""
    found = demo(settings_of(200), tmp_path / "demo")
    assert found["bits_per_byte"] < found["baselines"]["bigram"]["bits_per_byte"] - 0.1
    assert "Your GPT beats the bigram by" in capsys.readouterr().err
    assert "uniform 4.99" in (tmp_path / "demo" / "report.html").read_text()


def test_the_verb_hands_its_minutes_on_and_prints_what_was_found(tmp_path, capsys, monkeypatch):
    def done(settings, out, *, again):
        return {"minutes": settings.train.minutes, "out": out.name, "again": again}

    monkeypatch.setattr("minigpt.demo.demo", done)
    words = ["demo", "--minutes", "2.5", "--out", str(tmp_path / "mine"), "--again", "--json"]
    assert run(time.monotonic(), words) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown == {"minutes": 2.5, "out": "mine", "again": True}
