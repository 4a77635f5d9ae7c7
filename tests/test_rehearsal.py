import pytest
import torch

from minigpt.config import OptimConfig, RunConfig, TrainConfig
from minigpt.fit import update
from minigpt.optim.muon import Muon
from minigpt.rehearsal import flops_per_second, make_step, random_batches
from minigpt.runtime import Runtime

from .conftest import tiny
from .test_pretrain import changed

CPU = Runtime(torch.device("cpu"), "fp32")
SMALL = RunConfig(
    model=tiny().resolve(), train=TrainConfig(batch_size=6, micro_batch_size=2, device="cpu")
)


def test_batches_are_those_of_a_step():
    batches = random_batches(SMALL, CPU.device)
    assert [tuple(batch.ids.shape) for batch in batches] == [(2, 12)] * 3
    for batch in batches:
        torch.testing.assert_close(batch.ids[:, 1:], batch.targets[:, :-1])
        assert batch.ids.max() < 29
        assert batch.documents is None
    (whole,) = random_batches(changed(SMALL, train={"micro_batch_size": 0}), CPU.device)
    torch.testing.assert_close(whole.ids, torch.cat([batch.ids for batch in batches]))
    separate = random_batches(changed(SMALL, data={"documents": "separate"}), CPU.device)
    assert separate[0].documents.shape == (2, 12)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("muon", Muon)])
def test_the_parts_make_an_update(name, kind):
    config = changed(SMALL, optim={"name": name, "newton_schulz_dtype": "bf16"})
    step, optimizer = make_step(config, CPU)
    assert isinstance(optimizer, kind)
    assert getattr(optimizer, "dtype", torch.bfloat16) == torch.bfloat16
    before = step.model.head.weight.detach().clone()
    loss, _ = update(step, optimizer, random_batches(config, CPU.device), OptimConfig().clip)
    assert loss.item() == pytest.approx(3.4, abs=0.2)
    assert not torch.equal(step.model.head.weight, before)


def test_the_rate_is_that_of_a_product(monkeypatch):
    monkeypatch.setattr("minigpt.rehearsal.repeat", lambda work, wait, **times: [2.0, 0.5, 1.0])
    assert flops_per_second(CPU) == 2 * 1024**3 / 0.5
