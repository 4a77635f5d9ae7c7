import json
import subprocess
import sys

import pytest

from minigpt.config import build, preset_layer
from minigpt.demo import demo


@pytest.mark.slow
def test_the_demo_explains_each_step_and_shows_results_when_run_again(tmp_path, capsys):
    """Two steps of training; what a minute of it is worth is shown by the slow test."""
    settings = build([preset_layer("demo"), ("test", {"train": {"steps": 2, "eval_tokens": 2000}})])
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
    assert "uniform 4.99" in (tmp_path / "demo" / "report.html").read_text()
    again = demo(settings, tmp_path / "demo")
    second = capsys.readouterr()
    assert "This demo is done" in second.err
    assert "4. Training" not in second.err
    assert again["loss"] == found["loss"]
    longer = build([preset_layer("demo"), ("test", {"train": {"steps": 2, "eval_tokens": 2000}})])
    assert demo(longer, tmp_path / "demo")["loss"] == found["loss"]
    capsys.readouterr()
    demo(settings, tmp_path / "demo", again=True)
    assert "4. Training" in capsys.readouterr().err


@pytest.mark.slow
def test_a_minute_beats_the_last_token_guess(tmp_path):
    command = [sys.executable, "-m", "minigpt", "demo", "--out", str(tmp_path / "demo"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bits_per_byte"] < found["baselines"]["bigram"]["bits_per_byte"] - 0.1
    assert "Your GPT beats the bigram by" in done.stderr
