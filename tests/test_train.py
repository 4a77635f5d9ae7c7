import dataclasses

import pytest
import torch

from minigpt.bench.train import (
    CHARACTERS,
    WARM_UP,
    Measured,
    _rows,
    _with_room,
    bench_train,
    ours,
    sized,
    transformers_gpt2,
)
from minigpt.config import DataConfig, ModelConfig, RunConfig, TrainConfig, to_dict
from minigpt.errors import UserError
from minigpt.guard import Guard
from minigpt.model.size import training_flops_per_token
from minigpt.runtime import Runtime, start_runtime

SMALL = RunConfig(
    model=ModelConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=16),
    train=TrainConfig(batch_size=4, micro_batch_size=2, device="cpu"),
)


def test_the_ids_are_known_without_a_text():
    def rows(**data):
        return sized(RunConfig(data=DataConfig(**data)), print).model.vocab_size

    assert rows(tokenizer="char") == CHARACTERS
    assert rows(tokenizer="bpe", vocab_size=300) == 300
    assert rows(tokenizer="gpt2") == 50_304
    assert sized(SMALL, print).model.vocab_size == 64


@pytest.mark.parametrize("way", [ours, transformers_gpt2])
def test_a_step_is_timed(way):
    found = way(to_dict(sized(SMALL, print)), 0.05)
    assert 0 < found.seconds < 1
    assert found.peak_bytes > 1e7
    assert found.flops_per_second > 1e8


def test_our_step_is_guarded_as_that_of_a_run(monkeypatch):
    looks = []

    class Counted(Guard):
        def look(self, memory, step, losses):
            looks.append(len(losses))
            return super().look(memory, step, losses)

    monkeypatch.setattr("minigpt.bench.train.Guard", Counted)
    ours(to_dict(sized(SMALL, print)), 0.05)
    assert len(looks) > WARM_UP
    assert set(looks) == {1}  # on a CPU after each update, as TrainingJob.report has it


def test_utilisation_stands_in_the_rows_where_the_peak_is_known(monkeypatch):
    config = sized(SMALL, print)
    flops = 64 * training_flops_per_token(config.model)
    found = Measured(0.5, 10**9, 8.0 * flops, peak_flops=4.0 * flops, sequences=1)
    rows = {row["what"]: row["value"] for row in _rows(config, "hf", found, 8.0 * flops)}
    assert rows["MFU"] == 50
    assert rows["share of the floor"] == 25
    assert rows["micro-batch, smaller for room"] == 1
    unknown = dataclasses.replace(found, peak_flops=None, sequences=0)
    assert len(_rows(config, "hf", unknown, 8.0 * flops)) == 4
    assert Runtime(torch.device("cpu"), "fp32").peak_flops() is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert Runtime(torch.device("cuda"), "bf16").peak_flops() == 989e12


def test_a_peer_without_room_takes_smaller_micro_batches():
    sizes = []

    def step(batches):
        sizes.append(len(batches[0].ids))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError

    config = sized(SMALL, print)
    found = _with_room(step, config, start_runtime(config.train), 0.0)
    assert (found.sequences, sizes[:2], sizes[-1]) == (1, [2, 1], 1)


@pytest.mark.slow
def test_rows_are_of_one_shape_for_ours_and_the_peer():
    rows = bench_train(SMALL, peers=["hf"], seconds=0.05)
    assert [row["who"] for row in rows] == ["minigpt"] * 4 + ["hf"] * 4
    for who in ("minigpt", "hf"):
        step, speed, share, memory = (r["value"] for r in rows if r["who"] == who)
        assert speed == pytest.approx(64 / step * 1e3, rel=1e-3)
        assert share > 0
        assert memory > 10
    assert training_flops_per_token(sized(SMALL, print).model) > 0


def test_a_peer_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="--vs nanogpt is not known; peers: hf"):
        bench_train(SMALL, peers=["nanogpt"])
    with pytest.raises(UserError, match="wanted at least 1"):
        bench_train(dataclasses.replace(SMALL, model=ModelConfig(n_layer=0)))
