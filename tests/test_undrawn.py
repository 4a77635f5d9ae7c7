import torch

from minigpt.model.families import build
from minigpt.model.transformer import GPT
from minigpt.model.undrawn import Undrawn

from .conftest import tiny


def test_inside_nothing_is_drawn_and_outside_all_is():
    before = torch.get_rng_state()
    with Undrawn():
        GPT(tiny())
    assert torch.equal(torch.get_rng_state(), before)
    GPT(tiny())
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_model_that_is_loaded_takes_nothing_from_the_generator_and_is_whole():
    wanted = GPT(tiny()).eval()
    before = torch.get_rng_state()
    found = build(GPT, wanted.config, wanted.state_dict(), "here")
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.training
    ids = torch.arange(12)[None]
    assert torch.equal(found(ids), wanted(ids))
