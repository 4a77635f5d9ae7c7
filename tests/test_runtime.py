import signal
import threading

import pytest
import torch

from minigpt.config import TrainConfig
from minigpt.errors import UserError
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.runtime import (
    StopSignals,
    pick_device,
    pick_dtype,
    pick_newton_schulz_dtype,
    prepare_step,
    start_runtime,
)

from .conftest import tiny

CPU = TrainConfig(device="cpu")


def test_a_cpu_run_is_deterministic_always():
    runtime = start_runtime(CPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert (runtime.device.type, runtime.dtype) == ("cpu", torch.float32)
    assert runtime.describe()["threads"] == torch.get_num_threads()
    assert runtime.peak_memory_bytes() > 1 << 20
    runtime.wait()


@pytest.mark.parametrize(
    ("name", "sentence"), [("gpu", "wanted auto, cpu, cuda"), ("cuda:99", "does not have")]
)
def test_a_device_that_is_not_there_is_refused(name, sentence):
    with pytest.raises(UserError, match=sentence):
        pick_device(name)


def test_a_cpu_takes_fp32_unless_told():
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("bf16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"amx_bf16": True}, torch.bfloat16), ({"amx_bf16": False, "avx2": True}, torch.float32)],
)
def test_newton_schulz_takes_bf16_where_the_cpu_has_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    cpu = torch.device("cpu")
    assert pick_newton_schulz_dtype("auto", cpu) == expected
    assert pick_newton_schulz_dtype("fp32", cpu) == torch.float32
    assert pick_newton_schulz_dtype("bf16", cpu) == torch.bfloat16


def test_newton_schulz_takes_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_newton_schulz_dtype("auto", torch.device("cpu")) == torch.float32


def gradients(config, **switches):
    torch.manual_seed(0)
    step = prepare_step(TrainStep(GPT(tiny(**switches))), start_runtime(config), config)
    ids = torch.randint(0, 29, (2, 13), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    loss, _ = step(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in step.model.named_parameters()}


def test_recomputation_changes_no_bit_dropout_included():
    plain = gradients(CPU, dropout=0.3)
    recomputed = gradients(TrainConfig(device="cpu", recompute=True), dropout=0.3)
    assert torch.equal(plain[0], recomputed[0])
    assert plain[1].keys() == recomputed[1].keys()
    for name, gradient in plain[1].items():
        assert torch.equal(gradient, recomputed[1][name]), name


def test_bf16_is_near_fp32_and_keeps_fp32_weights():
    plain, half = gradients(CPU), gradients(TrainConfig(device="cpu", dtype="bf16"))
    assert not torch.equal(plain[0], half[0])
    assert abs(plain[0] - half[0]) / plain[0] < 1e-2
    assert all(gradient.dtype == torch.float32 for gradient in half[1].values())


@pytest.mark.slow
def test_compiled_is_near_eager_and_keeps_the_names():
    plain, compiled = gradients(CPU), gradients(TrainConfig(device="cpu", compile=True))
    torch.testing.assert_close(compiled[0], plain[0])
    assert plain[1].keys() == compiled[1].keys()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_at_once(number):
    ended = []
    before = signal.signal(number, lambda *_: ended.append(number))
    event = threading.Event()
    with StopSignals(event) as signals:
        signal.raise_signal(number)
        assert event.is_set()
        assert (signals.received, ended) == (number, [])
        signal.raise_signal(number)  # goes to who was there before: of a program, to its end
        assert ended == [number]
    signal.raise_signal(number)
    assert ended == [number] * 2
    signal.signal(number, before)
