import json
import time

import pytest
import torch

from minigpt import __version__, doctor
from minigpt.doctor import as_text, examine, faster
from minigpt.extras import EXTRAS


@pytest.fixture(scope="module")
def facts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "TRIAL_SECONDS", 0.01)
        patch.setenv("HF_TOKEN", "secret")
        patch.setenv("HF_HUB_OFFLINE", "1")
        return examine()


def test_it_says_what_is_here_and_json_can_hold_it(facts):
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["minigpt"], facts["torch"]) == (__version__, torch.__version__)
    assert facts["threads"] == torch.get_num_threads()
    assert all(speed > 0 for speed in facts["gflops_per_second"].values())
    assert {f["what"] for f in facts["folders"]} == {"working folder", "cache", "hugging face"}
    assert set(facts["packages"]) == set(EXTRAS)


def test_offline_variables_are_shown_and_no_secrets(facts):
    assert "HF_HUB_OFFLINE=1" in as_text(facts)
    assert "secret" not in json.dumps(facts) + as_text(facts)


def test_the_text_stays_within_80_columns_but_for_paths(facts):
    bare = facts | {"folders": [f | {"path": "/x"} for f in facts["folders"]], "variables": {}}
    for packages in (
        facts["packages"],
        {extra: dict.fromkeys(names) for extra, names in EXTRAS.items()},
    ):
        text = as_text(bare | {"packages": packages})
        assert max(len(line) for line in text.splitlines()) <= 80


def test_what_is_missing_comes_with_the_command_that_installs_it(facts):
    text = as_text(facts | {"packages": {"hf": {"transformers": None}}})
    assert "transformers missing: pip install 'minigpt[hf]'" in text


def test_advice_follows_from_the_facts(facts):
    speeds = {
        f"{d} {kind}": 1.0 for d in ("fp32", "bf16") for kind in ("forward", "weight gradient")
    }
    sound = facts | {
        "device": "cpu", "compiler": "/usr/bin/g++", "python_headers": True, "threads": 2, "cores": 2,
        "gflops_per_second": speeds, "folders": [],
    }  # fmt: skip
    assert list(doctor._advice(sound)) == []
    for change, word in (
        ({"compiler": None}, "g++"),
        ({"python_headers": False}, "python3-dev"),
        ({"threads": 1}, "OMP_NUM_THREADS"),
        ({"folders": [{"what": "cache", "path": "/c", "free_bytes": 10**9}]}, "Little room"),
    ):
        (advice,) = doctor._advice(sound | change)
        assert word in advice
    assert "nothing to mend" in as_text(sound | {"advice": []})


def test_a_precision_that_is_slow_in_one_product_is_not_the_faster_one():
    speeds = {"fp32 forward": 100.0, "fp32 weight gradient": 100.0}
    assert faster(speeds | {"bf16 forward": 900.0, "bf16 weight gradient": 3.0}) == "fp32"
    assert faster(speeds | {"bf16 forward": 900.0, "bf16 weight gradient": 300.0}) == "bf16"


def test_a_trial_is_over_soon(monkeypatch):
    monkeypatch.setattr(doctor, "TRIAL_SECONDS", 0.0)
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(doctor, "TRIAL_SECONDS", 6)
    speed = doctor._speed(lambda: calls.append(1), torch.device("cpu"))
    assert len(calls) == 2
    assert speed == round(2 * doctor.TRIAL_SIZE**3 / 1e9, 1)
