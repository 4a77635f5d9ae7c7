import json
import os
import random
from pathlib import Path

import pytest
import torch

from minigpt import loss
from minigpt.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
    to_toml,
)
from minigpt.memory import memory_of
from minigpt.model.size import parameter_count
from minigpt.pretrain import prepare_run
from minigpt.runtime import Runtime, start_runtime

from .test_pretrain import changed

CPU = Runtime(torch.device("cpu"), "fp32")
TOLERANCE = 0.15
# MINIGPT_DRAW=123 pytest tests/test_memory.py draws others.
# Of 558291102, number 2, the peak is planned a quarter too high.
DRAW = int(os.environ.get("MINIGPT_DRAW") or 0)


def drawn(number: int, source: str) -> RunConfig:
    """Return the settings of a run of two updates; the first has a vocabulary that is taken in chunks."""
    rng = random.Random(f"{DRAW}/{number}")
    heads = rng.choice([2, 4, 6])
    micro = rng.choice([2, 3, 4])
    return RunConfig(
        model=ModelConfig(
            vocab_size=4000 if number == 0 else rng.choice([100, 800, 2000]),
            block_size=rng.choice([64, 96, 128]),
            n_layer=rng.choice([2, 3]),
            n_head=heads,
            n_kv_head=rng.choice([1, 2, heads]),
            n_embd=heads * rng.choice([16, 32]),
            position=rng.choice(["rope", "learned"]),
            norm=rng.choice(["rmsnorm", "layernorm"]),
            mlp=rng.choice(["swiglu", "gelu", "gelu_exact", "relu2"]),
            qk_norm=rng.choice([True, False]),
            attention_gate=rng.choice(["none", "none", "silu"]),
            bias=rng.choice([True, False]),
            tie_embeddings=rng.choice([True, False]),
            dropout=rng.choice([0.0, 0.1]),
        ),
        data=DataConfig(source=source, tokenizer="char", documents=rng.choice(["join", "separate"])),
        optim=OptimConfig(name=rng.choice(["adamw", "muon"])),
        train=TrainConfig(
            steps=2, batch_size=micro * rng.choice([1, 2]), micro_batch_size=micro, eval_tokens=100, log_every=1,
            device="cpu", dtype=rng.choice(["fp32", "fp32", "bf16", "fp16"]), recompute=rng.choice([True, False]),
        ),
        sample=SampleConfig(max_tokens=2),
    )  # fmt: skip


def measured_peak(config: RunConfig, folder: Path) -> tuple[RunConfig, int]:
    """Return the resolved settings, and the most bytes that torch's allocator has handed out at once in their run."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        job = prepare_run(config, folder / "run")
        job.fit()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    held: dict[int, int] = {}  # by address: what others left and is freed meanwhile is not ours
    total = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
            total += size
        else:
            total -= held.pop(address, 0)
        peak = max(peak, total)
    return job.config, peak


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_the_planned_peak_is_the_measured_one(small_text, tmp_path, monkeypatch, number):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 1 << 19)  # so that small logits are chunked, too
    config, measured = measured_peak(drawn(number, str(small_text)), tmp_path)
    planned = memory_of(config, start_runtime(config.train))
    shown = f"MINIGPT_DRAW={DRAW}, configuration {number}:\n{to_toml(config)}\n{planned}"
    assert planned.peak_bytes == pytest.approx(measured, rel=TOLERANCE), shown
    assert measured > 1e6, shown


def small(**sections) -> RunConfig:
    model = ModelConfig(vocab_size=500, block_size=64, n_layer=3, n_head=2, n_embd=32).resolve()
    return changed(
        RunConfig(model=model, train=TrainConfig(batch_size=4, device="cpu")), **sections
    )


def test_weights_gradients_and_states_are_those_of_the_parameters():
    config = small(model={"tie_embeddings": False, "position": "learned"})
    parameters = 4 * parameter_count(config.model)
    found = memory_of(config, CPU)
    assert (found.weights_bytes, found.gradients_bytes) == (parameters, parameters)
    # Two means for each parameter, and a count for each tensor.
    tensors = 3 + 3 * 9 + 1
    assert found.optimizer_bytes == 2 * parameters + 4 * tensors
    muon = memory_of(changed(config, optim={"name": "muon"}), CPU)
    matrices = 4 * 3 * (4 * 32 * 32 + 3 * 32 * 128)
    assert muon.optimizer_bytes == found.optimizer_bytes - matrices
    assert found.copies_bytes == muon.copies_bytes == matrices


def test_recomputation_keeps_the_inputs_of_the_blocks_and_less_at_the_peak():
    plain, recomputed = (
        memory_of(small(train={"recompute": recompute}), CPU) for recompute in (False, True)
    )
    assert recomputed.activations_bytes < plain.activations_bytes / 5
    assert recomputed.peak_bytes < plain.peak_bytes
    one, two = (
        memory_of(small(model={"n_layer": layers}, train={"recompute": True}), CPU)
        for layers in (3, 4)
    )
    stream = 4 * 4 * 64 * 32
    assert two.activations_bytes - one.activations_bytes == pytest.approx(stream, rel=0.02)


def test_attention_is_the_fused_one_which_keeps_no_scores():
    short, long = (
        memory_of(small(model={"block_size": size}, train={"batch_size": 512 // size}), CPU)
        for size in (64, 512)
    )
    assert long.activations_bytes == pytest.approx(short.activations_bytes, rel=0.1)


def test_chunked_logits_never_exist_whole(monkeypatch):
    whole = memory_of(small(model={"vocab_size": 4096}), CPU)
    assert whole.logits_bytes > 3 * 4 * 256 * 4096
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 16 * 4096)
    chunked = memory_of(small(model={"vocab_size": 4096}), CPU)
    assert chunked.logits_bytes < whole.logits_bytes / 4
    assert chunked.activations_bytes == pytest.approx(whole.activations_bytes, rel=0.01)


def test_a_larger_micro_batch_takes_more_and_more_of_them_only_their_tokens():
    one = memory_of(small(), CPU)
    twice = memory_of(small(train={"batch_size": 8}), CPU)
    two = memory_of(small(train={"batch_size": 8, "micro_batch_size": 4}), CPU)
    assert twice.activations_bytes == pytest.approx(2 * one.activations_bytes, rel=0.05)
    assert two.activations_bytes == one.activations_bytes
    assert two.peak_bytes >= one.peak_bytes


def test_a_shape_that_no_machine_could_hold_is_counted_all_the_same():
    model = {"n_embd": 16384, "n_head": 128, "n_layer": 2, "vocab_size": 128_000}
    assert memory_of(small(model=model), CPU).peak_bytes > 50e9


def test_a_large_micro_batch_is_reckoned_from_smaller_ones(monkeypatch):
    config = small(model={"vocab_size": 4096}, train={"batch_size": 24})
    followed = memory_of(config, CPU)
    monkeypatch.setattr("minigpt.memory.MOST_TOKENS", 6 * 64)
    reckoned = memory_of(config, CPU)
    for field in ("weights_bytes", "optimizer_bytes", "activations_bytes", "peak_bytes"):
        assert getattr(reckoned, field) == pytest.approx(getattr(followed, field), rel=0.01), field
