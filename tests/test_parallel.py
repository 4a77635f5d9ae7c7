"""One run by one, two and four processes: the same batches, the same losses, the same weights."""

import dataclasses
import math

import pytest
import safetensors.torch
import torch

import minigpt
from minigpt.config import OptimConfig, TrainConfig
from minigpt.data.batches import Batch
from minigpt.errors import PeerError, UserError
from minigpt.fit import update
from minigpt.loss import IGNORED, TrainStep
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer
from minigpt.parallel import pick_parallel, share, sync_gradients
from minigpt.pretrain import introduce, prepare_run
from minigpt.ranks import ALONE, Ranks
from minigpt.rundir import RunDir
from minigpt.runtime import Runtime, share_step

from .conftest import small_run, tiny
from .several import together
from .test_pretrain import stop_after

CPU = torch.device("cpu")
STEPS = 50
OPTIMIZERS = {
    "adamw": {"name": "adamw"},
    "muon-fp32": {"name": "muon", "newton_schulz_dtype": "fp32"},
    "muon-bf16": {"name": "muon", "newton_schulz_dtype": "bf16"},
}
EQUAL_WITHIN = {"adamw": 1e-5, "muon-fp32": 1e-5, "muon-bf16": 1e-2}  # nats
WAYS = {1: ["none"], 2: ["ddp", "fsdp"], 4: ["ddp", "fsdp", "hsdp"]}
# Which of them are trained with which optimiser; a run of four processes on two cores takes some seconds.
TRAINED = {
    "adamw": {1: ["none"], 2: ["fsdp"], 4: ["ddp", "fsdp", "hsdp"]},
    "muon-fp32": {1: ["none"], 2: ["fsdp"], 4: ["hsdp"]},
    "muon-bf16": {1: ["none"], 2: [], 4: ["fsdp"]},
}


# Runs that go on in another number of processes, another way: until step 20, 35, and to the end.
HANDED_ON = {"adamw": ["ddp", "none", "hsdp"], "muon-fp32": ["fsdp", "none", "fsdp"]}
STOPS = {2: 20, 1: 35, 4: None}


def config_of(small_config, optimizer, way):
    """Return settings in which each of two processes still has two micro-batches."""
    optim = OptimConfig(**OPTIMIZERS[optimizer], warmup_steps=5, schedule="linear")
    train = dataclasses.replace(
        small_config.train, steps=STEPS, batch_size=16, micro_batch_size=4, log_every=1, eval_every=25,
        checkpoint_every=25, sample_every=50, parallel="auto" if way == "none" else way, shard_size=2,
    )  # fmt: skip
    return dataclasses.replace(small_config, optim=optim, train=train)


def fitted(config, out, ranks, stop=None):
    """Train, as the command does; up to a step where one is given, at which the second process is told to stop."""
    ranks.shards = ranks.copies = None  # of the run before
    job = prepare_run(config, out, ranks=ranks)
    introduce(job)
    if stop is None:
        job.fit(job.load_best)
        return
    if ranks.rank == min(1, ranks.size - 1):
        # Of several it is heard one step later.
        stop_after(job, stop - (ranks.size > 1))
    with pytest.raises(KeyboardInterrupt):
        job.fit()
    assert job.progress.step == stop


def train_all(ranks, folder, small_config):
    """Train in all ways of so many processes; and take up what others have begun."""
    for optimizer in OPTIMIZERS:
        for way in TRAINED[optimizer][ranks.size]:
            fitted(
                config_of(small_config, optimizer, way),
                folder / f"{optimizer}-{way}-{ranks.size}",
                ranks,
            )
    for optimizer, ways in HANDED_ON.items():
        way = ways[list(STOPS).index(ranks.size)]
        out = folder / f"{optimizer}-handed-on"
        fitted(config_of(small_config, optimizer, way), out, ranks, STOPS[ranks.size])


@pytest.fixture(scope="module")
def runs(small_text, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("runs"), small_run(small_text, dropout=0.0)
    together(2, train_all, folder, config)
    train_all(Ranks(), folder, config)
    together(4, train_all, folder, config)
    return folder


COMPARED = [
    *(
        (optimizer, f"{way}-{size}")
        for optimizer in OPTIMIZERS
        for size in (2, 4)
        for way in TRAINED[optimizer][size]
    ),
    *((optimizer, "handed-on") for optimizer in HANDED_ON),
]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "way"), COMPARED)
def test_any_number_of_processes_gives_the_same_losses(runs, optimizer, way):
    one, several = (RunDir(runs / f"{optimizer}-{name}") for name in ("none-1", way))
    rows = list(zip(one.metrics, several.metrics, strict=True))
    assert len(rows) == STEPS + 1
    for row, other in rows:
        assert row["tokens"] == other["tokens"]
        for key in ("train_loss", "val_loss"):
            assert (key in row) == (key in other)
            assert abs(row.get(key, 0) - other.get(key, 0)) <= EQUAL_WITHIN[optimizer], row["step"]
    assert rows[-1][0]["train_loss"] < rows[1][0]["train_loss"] - 0.2  # it has learnt something


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "way"), COMPARED)
def test_the_model_directory_is_that_of_one_process(runs, optimizer, way):
    one, several = runs / f"{optimizer}-none-1", runs / f"{optimizer}-{way}"
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in several.iterdir()} == names
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        assert (one / name).read_bytes() == (several / name).read_bytes()
    wanted, found = (
        safetensors.torch.load_file(run / "model.safetensors") for run in (one, several)
    )
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - tensor).abs().max() <= 10 * EQUAL_WITHIN[optimizer]
    model, tokenizer = minigpt.load(several)
    assert minigpt.generate(model, tokenizer, "the ", max_tokens=9)


@pytest.mark.slow
def test_what_is_resumed_says_that_it_is_no_longer_the_same_bit_for_bit(runs):
    log = (runs / "adamw-handed-on" / "train.log").read_text()
    assert "processes was 2, is 1" in log
    assert "parallel was none, is hsdp" in log
    assert "shared by 4 processes (hsdp), each 4 sequences of a step: 1 micro-batch of 4" in log
    # Whatever the others have to say, they leave to the first.
    assert log.count("held-out") == 3


def with_other_text(ranks, folder, config):
    """Begin a run whose second process finds another text."""
    text = folder / f"{ranks.rank}.txt"
    text.write_text("the cat sat. " * (200 + ranks.rank))
    data = dataclasses.replace(config.data, source=str(text))
    with pytest.raises((UserError, PeerError)) as failed:
        prepare_run(dataclasses.replace(config, data=data), folder / "run", ranks=ranks)
    if ranks.is_first:
        assert failed.value.status == 2
    else:
        assert "on the host of process 1 is another than that of the first" in str(failed.value)
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_hosts_with_different_texts_are_refused(small_text, tmp_path):
    together(2, with_other_text, tmp_path, small_run(small_text))


# ------------------------------------------------------------------------------------------------ of a single update


def uneven_batches(rank=0, size=1):
    """Return the micro-batches of this process, of which some have hardly a target that counts."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(16, (8, 9), generator=random)
    targets = ids[:, 1:].clone()
    for row, kept in enumerate([8, 1, 0, 5, 0, 0, 3, 8]):
        targets[row, kept:] = IGNORED
    rows = range(rank * 8 // size, (rank + 1) * 8 // size)
    return [Batch(ids[i : i + 1, :-1], targets[i : i + 1]) for i in rows]


def updated(ranks, kind, name, dtype="fp32"):
    """Return loss, norm and weights after two updates from uneven batches."""
    torch.manual_seed(0)
    step = TrainStep(GPT(tiny()))
    train = TrainConfig(shard_size=2, dtype=dtype, compile="off", recompute=dtype == "bf16")
    shared = share_step(step, Runtime(CPU, dtype), train, kind, ranks)
    config = OptimConfig(name=name, newton_schulz_dtype="fp32")
    optimizer = make_optimizer(step.model, config, ranks)
    found = []
    for _ in range(2):
        batches = uneven_batches(ranks.rank, ranks.size)
        loss, norm = update(shared, optimizer, batches, 0.5, ranks)
        found.append((loss.item(), norm.item()))
    weights = {
        key: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach()
        for key, value in step.state_dict().items()
    }
    return found, weights


def update_in_every_way(ranks, folder):
    for kind in WAYS[ranks.size]:
        for name in ("adamw", "muon"):
            ranks.shards = ranks.copies = None
            found, weights = updated(ranks, kind, name)
            wanted, others = torch.load(folder / name)
            for (loss, norm), (other, size) in zip(found, wanted, strict=True):
                assert math.isclose(loss, other, abs_tol=1e-6)
                assert math.isclose(norm, size, rel_tol=1e-5)
            assert all((weights[key] - others[key]).abs().max() < 1e-6 for key in others), kind
        ranks.shards = ranks.copies = None
        low, _ = updated(ranks, kind, "adamw", "bf16")
        for (loss, norm), (other, size) in zip(low, torch.load(folder / "bf16")[0], strict=True):
            assert math.isclose(loss, other, rel_tol=1e-3)
            assert math.isclose(norm, size, rel_tol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_targets_are_counted_over_all_processes(size, tmp_path):
    for name in ("adamw", "muon"):
        torch.save(updated(ALONE, "none", name), tmp_path / name)
    torch.save(updated(ALONE, "none", "adamw", "bf16"), tmp_path / "bf16")
    together(size, update_in_every_way, tmp_path)


# ------------------------------------------------------------------------------------------------------ what is chosen


class Group(Ranks):
    """So many processes on hosts of four, without any."""

    def __init__(self, size):
        super().__init__()
        self.size, self.local_size = size, min(4, size)


def test_a_cpu_has_room_for_a_copy_and_one_process_shares_nothing():
    assert pick_parallel(TrainConfig(), 10**9, Group(1), CPU) == "none"
    assert pick_parallel(TrainConfig(parallel="fsdp"), 10**9, Group(1), CPU) == "none"
    assert pick_parallel(TrainConfig(), 10**9, Group(8), CPU) == "ddp"
    assert pick_parallel(TrainConfig(parallel="hsdp"), 10**9, Group(8), CPU) == "hsdp"


@pytest.mark.parametrize(("memory", "kind"), [(80e9, "ddp"), (24e9, "fsdp")])
def test_a_gpu_without_room_for_a_copy_holds_a_part(memory, kind, monkeypatch):
    gpu = type("Properties", (), {"total_memory": memory})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    assert pick_parallel(TrainConfig(), 10**9, Group(8), torch.device("cuda")) == kind


def test_shards_that_do_not_divide_the_processes_are_refused():
    config = TrainConfig(parallel="hsdp", shard_size=3)
    with pytest.raises(
        UserError, match=r"which do not divide the 8 of this run; set train.shard_size"
    ):
        pick_parallel(config, 10**6, Group(8), CPU)


@pytest.mark.parametrize("kind", ["fsdp", "hsdp"])
def test_fp16_in_shards_is_refused(kind):
    with pytest.raises(
        UserError, match=r"scales no fp16 gradients; take train.dtype bf16 or fp32, or ddp"
    ):
        pick_parallel(TrainConfig(parallel=kind, dtype="fp16"), 10**6, Group(8), CPU)


def test_a_step_that_is_not_shared_stays_as_it_is():
    step = TrainStep(GPT(tiny()))
    assert share(step, "none", ALONE, CPU, TrainConfig()) is step
    sync_gradients(step, wanted=False)  # there is nothing to say


def test_a_share_is_cut_into_equal_micro_batches():
    train = TrainConfig(batch_size=24, micro_batch_size=8)
    assert [train.sequences_at_once(n) for n in (1, 2, 3, 4, 24)] == [8, 6, 8, 6, 1]
    with pytest.raises(UserError, match=r"cannot be shared by 5 processes, .* such as 20"):
        train.sequences_at_once(5)
