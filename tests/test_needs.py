import json

import pytest
import torch

from minigpt import needs as needing
from minigpt.config import RunConfig, TrainConfig
from minigpt.errors import UserError
from minigpt.needs import PROCESS_BYTES, needs
from minigpt.plan import plan
from minigpt.speed import Speed
from minigpt.trial import Costs

from .conftest import tiny
from .test_pretrain import changed

SMALL = RunConfig(
    model=tiny(),
    train=TrainConfig(steps=100, batch_size=6, micro_batch_size=2, device="cpu", dtype="fp32"),
)
COSTS = Costs(update=0.5, evaluation=2.0, sample=1.0, checkpoint=0.1, publishing=0.05)


@pytest.fixture
def clockless(monkeypatch):
    """No trial is made: everything takes as long as COSTS says."""
    monkeypatch.setattr(needing, "try_out", lambda *_: Speed("whole steps", COSTS))


def needs_of(config: RunConfig, *, processes: int = 1, trial: bool = True) -> dict:
    return needs(config, plan(config, processes=processes), trial=trial)


def test_memory_is_told_both_ways_and_the_run_has_the_one_it_asks_for(clockless):
    plain, recomputed = (
        needs_of(changed(SMALL, train={"recompute": recompute}))["memory"]
        for recompute in (False, True)
    )
    for key in ("without_recomputation", "with_recomputation"):
        assert plain[key] == recomputed[key]
    assert plain["peak_bytes"] == plain["without_recomputation"]["peak_bytes"]
    assert recomputed["peak_bytes"] == recomputed["with_recomputation"]["peak_bytes"]
    assert recomputed["peak_bytes"] < plain["peak_bytes"]
    assert plain["process_bytes_at_least"] == plain["peak_bytes"] + PROCESS_BYTES
    assert (plain["device"], plain["dtype"]) == ("cpu", "fp32")


def test_a_run_takes_its_steps_and_what_is_due_between_them(clockless):
    speed = needs_of(SMALL)["speed"]
    assert speed["seconds_per_step"] == 0.5
    assert speed["tokens_per_second"] == 6 * 12 / 0.5
    ends = 2 * (2.0 + 1.0 + 0.1 + 0.05) + 1.0
    between = (2.0 + 0.05) / 250 + 1.0 / 250 + 0.1 / 250
    assert speed["run_seconds"] == pytest.approx(5 + ends + 100 * (0.5 + between))
    assert (speed["tried"], speed["device"], speed["dtype"]) == ("whole steps", "cpu", "fp32")
    assert speed["threads"] == torch.get_num_threads()


def test_minutes_hold_so_many_steps(clockless):
    speed = needs_of(changed(SMALL, train={"steps": 0, "minutes": 2.0}))["speed"]
    assert speed["run_seconds"] == 120
    assert speed["steps_about"] == int((120 - 5 - 7.3) / (0.5 + 3.15 / 250))


def test_epochs_of_a_text_that_is_not_tokens_yet_have_no_length(clockless):
    speed = needs_of(changed(SMALL, train={"steps": 0, "epochs": 2.0}))["speed"]
    assert (speed["run_seconds"], speed["steps_about"]) == (None, None)
    assert speed["seconds_per_step"] == 0.5


def test_no_time_is_told_where_none_is_measured(monkeypatch, clockless):
    def reason(config: RunConfig, **options) -> str:
        return needs_of(config, **options)["speed"]["not_measured"]

    assert reason(SMALL, trial=False) == "a trial was not wanted"
    assert "one process" in reason(SMALL, processes=2)
    monkeypatch.setattr(needing.machine, "free_memory_bytes", lambda: 1000)
    assert "does not fit" in reason(SMALL)
    monkeypatch.setattr(needing.machine, "free_memory_bytes", lambda: None)
    assert "tried" in needs_of(SMALL)["speed"]


def test_a_step_too_long_to_try_has_a_floor(monkeypatch):
    monkeypatch.setattr(needing, "try_out", lambda *_: 1234.5)
    speed = needs_of(SMALL)["speed"]
    assert speed["least_seconds_per_step"] == 1234.5
    assert "too long" in speed["not_measured"]


def test_a_run_that_does_not_fit_is_warned_of_with_the_ways_out(monkeypatch, clockless):
    monkeypatch.setattr(needing.machine, "free_memory_bytes", lambda: 1000)
    (warning,) = [w for w in needs_of(SMALL)["warnings"] if "free on cpu" in w]
    assert "the run needs 0.5 GB of memory at its peak" in warning
    assert "train.recompute (peak" in warning
    recomputed = needs_of(changed(SMALL, train={"recompute": True}))["warnings"]
    assert not any("train.recompute" in w for w in recomputed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has what is to be missing")
def test_a_device_that_only_another_machine_has_is_planned_for():
    found = needs_of(changed(SMALL, train={"device": "cuda:1", "dtype": "auto"}))
    assert found["speed"] == {"not_measured": "this machine has no cuda:1"}
    memory = found["memory"]
    assert (memory["device"], memory["dtype"], memory["kernels_of"]) == ("cuda:1", "bf16", "cpu")
    assert memory["process_bytes_at_least"] == memory["peak_bytes"]


def test_a_device_that_no_machine_has_is_refused():
    with pytest.raises(UserError, match="wanted auto, cpu, cuda"):
        needs_of(changed(SMALL, train={"device": "gpu"}))


def test_several_processes_share_the_memory_of_a_batch(clockless):
    config = changed(SMALL, train={"micro_batch_size": 0})
    one, two = (needs_of(config, processes=count)["memory"] for count in (1, 2))
    activations = [m["without_recomputation"]["activations_bytes"] for m in (one, two)]
    assert activations[1] == pytest.approx(activations[0] / 2, rel=0.05)


def test_needs_survive_json(clockless):
    facts = needs_of(SMALL)
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is here is followed itself")
def test_several_processes_are_planned_on_gpus_where_no_device_is_named(clockless):
    config = changed(SMALL, train={"device": "auto", "dtype": "auto", "parallel": "fsdp"})
    found = needs_of(config, processes=2)
    assert (found["memory"]["device"], found["memory"]["dtype"]) == ("cuda", "bf16")
    scale = found["scale"]
    assert (scale["kind"], scale["shards"], scale["micro_batches"]) == ("fsdp", 2, 3)
    assert scale["compute_from"] == "989 TFLOP/s x 0.4"
    assert scale["time"]["seconds_at_least"] <= scale["time"]["seconds_at_most"]
    assert json.loads(json.dumps(found)) == found
    assert any("communication takes" in line for line in found["warnings"])
    assert "scale" not in needs_of(SMALL)


def test_on_a_cpu_what_one_process_computes_is_tried(clockless):
    scale = needs_of(SMALL, processes=2)["scale"]
    assert scale["kind"] == "ddp"
    assert scale["time"]["compute_seconds"] == 0.5
    assert scale["time"]["seconds_at_most"] is None
    assert needs_of(SMALL, processes=2, trial=False)["scale"]["time"] is None


def test_what_has_no_room_in_a_gpu_or_its_host_is_said():
    shape = {"n_layer": 1, "n_head": 64, "n_kv_head": 64, "n_embd": 81920, "mlp_hidden": 4 * 81920}
    train = {"device": "cuda", "parallel": "ddp", "batch_size": 8, "micro_batch_size": 1}
    config = changed(SMALL, model=shape, train=train)
    warnings = needs_of(config, processes=8, trial=False)["warnings"]
    assert any("a process holds" in line and "take fsdp" in line for line in warnings)
    assert any("of a host first make weights" in line for line in warnings)
