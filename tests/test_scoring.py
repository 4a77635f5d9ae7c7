import pytest
import torch

from minigpt.serve import scoring
from minigpt.serve.scoring import score

from .test_transformer import model


def test_each_token_is_scored_after_those_before_it_whatever_the_portions(monkeypatch):
    made = model(vocab_size=40, block_size=24).eval()
    ids = torch.randint(37, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        nats = made(torch.tensor([ids]))[0, :, :37].log_softmax(dim=-1)
    for rows in (1, 5, 256):
        monkeypatch.setattr(scoring, "ROWS", rows)
        found = score(made, ids, 37, 2)
        assert [one.token for one in found] == ids[1:]
        wanted = [nats[i, token].item() for i, token in enumerate(ids[1:])]
        assert [one.log_probability for one in found] == pytest.approx(wanted, abs=1e-5)
        assert [one.top[0][0] for one in found] == nats[:-1].argmax(dim=-1).tolist()
        assert all(len(one.top) == 2 for one in found)


def test_a_token_alone_follows_nothing():
    assert score(model(), [1], 3, 0) == []
