import dataclasses

import pytest
import torch

from minigpt import decisions
from minigpt.config import RunConfig, TrainConfig
from minigpt.decisions import bf16_gain, can_compile, decide, pays_to_compile

from .conftest import tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settings(**train):
    return RunConfig(model=tiny().resolve(), train=TrainConfig(**{"steps": 10, **train}))


@pytest.mark.parametrize(("gain", "expected"), [(1.6, "bf16"), (1.4, "fp32"), (0.05, "fp32")])
def test_a_cpu_takes_bf16_where_it_is_faster_and_says_so(monkeypatch, gain, expected):
    monkeypatch.setattr(decisions, "bf16_gain", lambda shape, rows: gain)
    said = []
    decided = decide(settings(), CPU, said.append)
    assert decided.train.dtype == expected
    assert said[0].startswith(f"train.dtype is {expected}: in a trial")
    assert f"{gain:.1f} times as fast in bf16 as in fp32" in said[0]


def test_what_is_asked_for_is_not_tried(monkeypatch):
    monkeypatch.setattr(decisions, "bf16_gain", lambda shape, rows: 9.0)
    said = []
    decided = decide(settings(dtype="fp32", compile="off"), CPU, said.append)
    assert (decided.train.dtype, decided.train.compile, decided.train.device) == (
        "fp32",
        "off",
        "cpu",
    )
    assert said == []


def test_the_trial_takes_every_product_of_a_block(monkeypatch):
    taken = []
    monkeypatch.setattr(
        decisions, "_best_seconds", lambda *works: taken.extend(w() for w in works) or [1.0, 1.0]
    )
    shape = tiny(n_layer=3).resolve()
    assert bf16_gain(shape, 7) == 1.0
    sizes = {tuple(product.shape) for product in taken}
    for outputs, inputs in {(shape.n_embd, shape.n_embd), (shape.mlp_hidden, shape.n_embd)}:
        assert {(7, outputs), (7, inputs), (outputs, inputs)} <= sizes


def test_where_bf16_is_slow_not_all_is_tried(monkeypatch):
    taken = []

    def seconds(slow, fast):
        taken.append(slow())
        return [1.0, 50.0]

    monkeypatch.setattr(decisions, "_best_seconds", seconds)
    assert bf16_gain(tiny().resolve(), 7) == 0.02
    assert len(taken) == 3


@pytest.mark.parametrize("size", [(32, 32), (768, 3072), (8192, 2048)])
def test_a_trial_stays_short_however_large_the_model(size):
    rows = decisions._most_rows(size)
    assert 64 <= rows <= 2048
    assert rows == 64 or 2 * rows * size[0] * size[1] <= 1e9


def test_the_trial_times_real_products():
    assert 0 < bf16_gain(tiny().resolve(), 16) < 1000


def compiles(device=CPU, **train):
    return pays_to_compile(settings(**train), device)


def test_compiling_is_for_long_runs(monkeypatch):
    monkeypatch.setattr(decisions, "can_compile", lambda device: True)
    assert not compiles(steps=100)
    assert compiles(steps=1_000_000)
    assert not compiles(steps=0, minutes=1.0)
    assert compiles(steps=0, minutes=10.0)
    assert not compiles(GPU, steps=100)
    assert compiles(GPU, steps=0, minutes=10.0)
    assert compiles(GPU, steps=10**9)


def test_it_is_said_when_a_run_is_compiled(monkeypatch):
    monkeypatch.setattr(decisions, "can_compile", lambda device: True)
    said = []
    decided = decide(settings(dtype="fp32", steps=1_000_000), CPU, said.append)
    assert decided.train.compile == "on"
    assert said == ["the run is long enough for compiling its step to pay: train.compile is on"]
    assert decide(decided, CPU, said.append) == decided


@pytest.mark.parametrize("missing", ["compiler", "has_python_headers"])
def test_nothing_is_compiled_without_what_it_takes(monkeypatch, missing):
    monkeypatch.setattr(decisions.machine, missing, lambda: None)
    assert not can_compile(CPU)
    assert not compiles(steps=1_000_000)


def test_a_decision_stands(monkeypatch):
    monkeypatch.setattr(decisions, "bf16_gain", lambda shape, rows: 9.0)
    decided = decide(settings(), CPU, lambda line: None)
    monkeypatch.setattr(decisions, "bf16_gain", lambda shape, rows: 0.1)
    assert decide(decided, CPU, lambda line: None).train == dataclasses.replace(
        decided.train, dtype="bf16"
    )
