import signal
import subprocess
import sys
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
    pick_newton_schulz_dtype,
    pick_precision,
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
    assert pick_precision("auto", torch.device("cpu")) == "fp32"
    assert pick_precision("bf16", torch.device("cpu")) == "bf16"


def test_tf32_is_refused_where_it_would_mean_nothing():
    with pytest.raises(UserError, match="tf32, which NVIDIA's GPUs have, and this run is on cpu"):
        pick_precision("tf32", torch.device("cpu"))


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"amx_bf16": True}, "bf16"), ({"amx_bf16": False, "avx2": True}, "fp32")],
)
def test_newton_schulz_takes_bf16_where_the_cpu_has_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    cpu = torch.device("cpu")
    assert pick_newton_schulz_dtype("auto", cpu) == expected
    assert pick_newton_schulz_dtype("fp32", cpu) == "fp32"
    assert pick_newton_schulz_dtype("bf16", cpu) == "bf16"


def test_newton_schulz_takes_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_newton_schulz_dtype("auto", torch.device("cpu")) == "fp32"


def gradients(config, **switches):
    torch.manual_seed(0)
    step = prepare_step(TrainStep(GPT(tiny(**switches))), start_runtime(config), config)
    ids = torch.randint(0, 29, (2, 13), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    loss, count = step(ids[:, :-1], ids[:, 1:])
    (loss / count).backward()
    return loss.detach(), {name: p.grad for name, p in step.model.named_parameters()}


def test_recomputation_changes_no_bit_dropout_included():
    plain = gradients(CPU, dropout=0.3)
    recomputed = gradients(TrainConfig(device="cpu", recompute=True), dropout=0.3)
    assert torch.equal(plain[0], recomputed[0])
    assert plain[1].keys() == recomputed[1].keys()
    for name, gradient in plain[1].items():
        assert torch.equal(gradient, recomputed[1][name]), name


SHAPES = {
    "llama": {},
    "qwen3": {"qk_norm": True, "n_kv_head": 1},
    "gpt2": {"position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True},
    "gated, untied": {"attention_gate": "silu", "mlp": "relu2", "tie_embeddings": False},
}


@pytest.mark.parametrize("switches", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [("bf16", 2e-2), ("fp16", 4e-3)])
def test_low_precision_is_near_fp32_and_keeps_fp32_weights(dtype, close, recompute, switches):
    plain = gradients(CPU, **switches)
    config = TrainConfig(device="cpu", dtype=dtype, recompute=recompute)
    half = gradients(config, **switches)
    assert not torch.equal(plain[0], half[0])
    assert abs(plain[0] - half[0]) / plain[0] < close / 4
    for name, gradient in half[1].items():
        assert gradient.dtype == torch.float32
        # Some gradients are zero but for rounding: the bias of a key moves all scores of a query alike.
        error = (gradient - plain[1][name]).norm() / (plain[1][name].norm() + 1e-3)
        assert error < 2 * close, name


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_whole_stream_is_in_the_low_precision(dtype):
    config = TrainConfig(device="cpu", dtype=dtype)
    runtime = start_runtime(config)
    step = prepare_step(TrainStep(GPT(tiny(qk_norm=True))), runtime, config)
    seen = {}
    for name, module in step.model.named_modules():
        if name.startswith(("blocks", "norm", "head")):
            module.register_forward_hook(
                lambda m, a, out, name=name: seen.update({name: out.dtype})
            )
    ids = torch.zeros(1, 5, dtype=torch.long)
    step(ids, ids)
    assert set(seen.values()) == {runtime.dtype}, seen


@pytest.mark.slow
def test_compiled_is_near_eager_and_keeps_the_names():
    plain, compiled = gradients(CPU), gradients(TrainConfig(device="cpu", compile="on"))
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


def test_a_process_that_does_not_compile_imports_no_compiler():
    code = """
import sys, torch
from minigpt.config import ModelConfig, OptimConfig, TrainConfig
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer
from minigpt.runtime import start_runtime
start_runtime(TrainConfig(device="cpu"))
model = GPT(ModelConfig(vocab_size=8, n_embd=8, n_head=2, n_layer=1))
optimizer = make_optimizer(model, OptimConfig(name="muon"))
model(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
optimizer.step()
optimizer.zero_grad(set_to_none=True)
assert not any(p.grad is not None for p in model.parameters())
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_signal_of_before_counts_as_one_of_now():
    signals = StopSignals(threading.Event())
    signals.take(0)
    assert signals.number == 0
    signals.take(signal.SIGTERM)
    assert signals.number == signal.SIGTERM
