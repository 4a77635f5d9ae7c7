import pytest
import torch

from minigpt import loss
from minigpt.config import LoraConfig
from minigpt.errors import UserError
from minigpt.finetune.lora import merge, swap_in
from minigpt.finetune.token_rows import RowsEmbedding, RowsHead, add_rows
from minigpt.loss import TrainStep

from .test_lora import IDS, make, shaken

BOTH = pytest.mark.parametrize("name", ["gpt2", "gpt2, untied"])


@BOTH
def test_only_the_chosen_rows_get_gradients_and_a_tied_table_stays_one(name):
    model = swap_in(make(name), LoraConfig(targets="mlp"), rows=[5, 2])
    model(IDS).square().sum().backward()
    assert model.embedding.base.weight.grad is None
    assert model.head.base.weight.grad is None
    assert model.embedding.delta.grad.abs().sum(dim=1).gt(0).tolist() == [True, True]
    assert (model.embedding.delta is model.head.delta) == (name == "gpt2")
    before = [table.weight.detach().clone() for table in (model.embedding, model.head)]
    shaken(model)
    for table, old in zip((model.embedding, model.head), before, strict=True):
        moved = (table.weight != old).any(dim=1)
        assert moved.nonzero().flatten().tolist() == [2, 5]


@BOTH
def test_moved_rows_are_what_is_read_and_what_is_scored(name):
    model = shaken(swap_in(make(name), LoraConfig(), rows=[2, 5, 7]))
    x = torch.randn(3, 32)
    torch.testing.assert_close(model.head(x), x @ model.head.weight.T)
    torch.testing.assert_close(model.embedding(IDS), model.embedding.weight[IDS])
    low = model.head(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), model.head(x), atol=0.05, rtol=0.05)


@BOTH
def test_the_loss_in_chunks_trains_the_rows_as_the_whole_one_does(name, monkeypatch):
    gradients = []
    for at_once in (1 << 25, 29 * 5):
        monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
        model = shaken(swap_in(make(name), LoraConfig(), rows=[2, 5]))
        TrainStep(model)(IDS[:, :-1], IDS[:, 1:])[0].backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@BOTH
def test_settled_rows_are_in_the_tables(name):
    model = shaken(swap_in(make(name), LoraConfig(), rows=[2]))
    assert isinstance(model.embedding, RowsEmbedding)
    assert isinstance(model.head, RowsHead)
    wanted = [model.embedding.weight.clone(), model.head.weight.clone()]
    merge(model)
    assert torch.equal(model.embedding.weight, wanted[0])
    assert torch.equal(model.head.weight, wanted[1])
    assert type(model.embedding) is torch.nn.Embedding


def test_rows_that_are_not_there_are_refused():
    with pytest.raises(
        UserError, match="the row 29 is to be trained, but the model has rows for 2"
    ):
        swap_in(make(), LoraConfig(), rows=[1, 29])
    with pytest.raises(UserError, match="a row to train is named twice"):
        swap_in(make(), LoraConfig(), rows=[1, 1])


@BOTH
def test_added_rows_leave_the_others_and_what_they_score(name):
    model = make(name)
    before = model(IDS)
    add_rows(model, 3)
    after = model(IDS)
    assert model.config.vocab_size == 32
    assert after.shape == (2, 12, 32)
    torch.testing.assert_close(after[..., :29], before)
    torch.testing.assert_close(after[..., 30], before.mean(dim=-1), atol=1e-5, rtol=1e-5)
    assert (model.embedding.weight is model.head.weight) == (name == "gpt2")
    assert torch.equal(model.embedding.weight[31], model.embedding.weight[:29].mean(dim=0))
