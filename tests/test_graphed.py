import pytest
import torch

from minigpt.inference.decoder import Decoder
from minigpt.inference.graphed import FixedStep, GraphedStep

from .test_decoder import CLOSE, SWITCHES, expected, made, some_ids


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_a_step_of_fixed_shapes_is_the_step(switches):
    model, ids = made(**switches), some_ids(12)
    decoder = Decoder(model, slots=2)
    step = FixedStep(decoder)
    for start in (0, 5):
        if start:
            decoder.prefill(0, ids[:start])
        for place in range(start, 12):
            found = step(ids[place], place)
            torch.testing.assert_close(found[0], expected(model, ids[: place + 1]), **CLOSE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_replays_the_step():
    model, ids = made(n_kv_head=2).cuda(), some_ids(12)
    decoder = Decoder(model)
    step = GraphedStep(decoder)
    decoder.prefill(0, ids[:3])
    for place in range(3, 12):
        with torch.no_grad():
            wanted = model(torch.tensor([ids[: place + 1]], device="cuda"))[0, -1]
        torch.testing.assert_close(step(ids[place], place)[0], wanted, rtol=0, atol=1e-4)
