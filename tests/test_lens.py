import math

import pytest
import torch

from minigpt.inside.lens import logits_after, read, readings
from minigpt.inside.trace import trace
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
@torch.inference_mode()
def test_the_last_row_is_the_logits_of_the_model(switches):
    model = GPT(tiny(**switches)).eval()
    found, logits = trace(model, IDS), model(torch.tensor([IDS]))[0]
    assert torch.equal(logits_after(model, found.stream[-1]), logits)
    last = list(readings(model, found.stream, found.ids))[-1]
    wanted = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(IDS[1:]), reduction="none")
    torch.testing.assert_close(last.loss, wanted)
    assert torch.equal(last.top[:, 0], logits.argmax(dim=-1))


def test_the_first_row_is_what_the_embedding_alone_says():
    model = GPT(tiny()).eval()
    rows = list(readings(model, trace(model, IDS).stream, torch.tensor(IDS)))
    assert len(rows) == 3
    # The head is the embedding, transposed: a token is most like itself.
    assert rows[0].top[:, 0].tolist() == IDS


def test_a_row_is_as_worked_out_by_hand():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]]).log()
    found = read(logits, torch.tensor([0, 2]))
    assert found.top[0].tolist() == [1, 3, 2, 0]
    assert found.probabilities[0].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found.loss.tolist() == pytest.approx([-math.log(0.2)])
    assert found.rank.tolist() == [3]


def test_a_single_token_is_followed_by_nothing_known():
    found = read(torch.zeros(1, 9), torch.tensor([4]))
    assert found.loss.tolist() == found.rank.tolist() == []
    assert found.top.shape == (1, 5)
