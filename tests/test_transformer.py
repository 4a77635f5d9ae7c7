import itertools
import math

import pytest
import torch

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.loss import TrainStep
from minigpt.model.attention import Cache
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny

EVERY_COMBINATION = [
    {
        "position": position, "norm": norm, "mlp": mlp, "qk_norm": qk_norm, "attention_gate": gate,
        "n_kv_head": kv, "bias": bias, "tie_embeddings": tied,
    }
    for position, norm, mlp, qk_norm, gate, kv, bias, tied in itertools.product(
        ("rope", "learned"), ("rmsnorm", "layernorm"), ("swiglu", "gelu", "gelu_exact", "relu2"), (False, True),
        ("none", "silu"), (4, 2, 1), (False, True), (False, True),
    )
]  # fmt: skip


def model(seed=0, **switches) -> GPT:
    """Return a model whose weights are large enough that a mistake shows in the logits."""
    torch.manual_seed(seed)
    made = GPT(tiny(**switches)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@torch.no_grad()
def test_cached_logits_are_the_full_ones_for_every_combination_of_switches():
    ids = torch.randint(0, 29, (2, 12), generator=torch.Generator().manual_seed(0))
    assert len(EVERY_COMBINATION) == 768
    for switches in EVERY_COMBINATION:
        made = model(**switches)
        full = made(ids)
        cache = Cache(made.config)
        # A prefill, a second prefill after it, and single tokens: every way in which a cache grows.
        parts = [
            made(ids[:, start:end], cache=cache)
            for start, end in [(0, 5), (5, 8), (8, 9), (9, 10), (10, 12)]
        ]
        torch.testing.assert_close(
            torch.cat(parts, 1), full, atol=2e-4, rtol=1e-4, msg=lambda m, s=switches: f"{s}: {m}"
        )
        assert cache.length == 12


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_later_tokens_do_not_change_earlier_logits(switches):
    made = model(**switches)
    ids = torch.randint(0, 29, (1, 12))
    other = ids.clone()
    other[0, 7:] = (other[0, 7:] + 1) % 29
    before, after = made(ids), made(other)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().max() > 1e-3


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_the_loss_at_the_start_is_near_ln_v(switches):
    torch.manual_seed(0)
    made = TrainStep(GPT(tiny(vocab_size=500, n_embd=64, **switches)))
    ids = torch.randint(0, 500, (32, 13))
    loss, count = made(ids[:, :-1], ids[:, 1:])
    assert abs(loss.item() / count.item() - math.log(500)) < 0.1


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_one_batch_is_learnt_by_heart(switches):
    torch.manual_seed(0)
    step = TrainStep(GPT(tiny(**switches)))
    ids = torch.randint(0, 29, (4, 13))
    ids[:, 0] = torch.arange(4)  # rows that begin alike could not be told apart
    optimizer = torch.optim.AdamW(step.parameters(), 1e-2, fused=True)
    for _ in range(120):
        loss, count = step(ids[:, :-1], ids[:, 1:])
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() / count.item() < 0.05


def test_attention_stays_inside_documents():
    made = model()
    ids = torch.randint(0, 29, (1, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7])
    apart = made.head(made.hidden(ids, documents=documents))
    torch.testing.assert_close(apart[:, 5:], made(ids[:, 5:]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(apart[:, :5], made(ids[:, :5]), atol=1e-4, rtol=1e-4)


def test_more_positions_than_the_context_are_an_error():
    with pytest.raises(ValueError, match="13 positions, but block_size is 12"):
        model()(torch.zeros(1, 13, dtype=torch.long))


def test_first_weights_have_the_size_that_fits_their_inputs():
    torch.manual_seed(0)
    made = GPT(tiny(n_layer=8, n_embd=64, n_head=4, mlp="gelu", bias=True, position="learned"))
    block = made.blocks[0]
    for weight, std in [
        (block.attention.query.weight, 1 / 8),
        (block.mlp.up.weight, 1 / 8),
        (made.embedding.weight, 0.02),
        (made.position_embedding.weight, 0.02),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.1)
    assert block.attention.query.bias.abs().max() == 0
    assert block.attention_norm.weight.min() == 1
    wide = GPT(tiny(n_embd=1024, n_layer=1))
    assert wide.head.weight.std().item() == pytest.approx(0.3 / 32, rel=0.1)


def test_a_tied_head_is_the_embedding():
    tied, untied = model(), model(tie_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    made = GPT(tiny(dropout=0.5))
    ids = torch.randint(0, 29, (1, 12))
    made.train()
    assert not torch.equal(made(ids), made(ids))
    made.eval()
    assert torch.equal(made(ids), made(ids))


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(UserError, match="vocab_size is not set"):
        GPT(ModelConfig())
