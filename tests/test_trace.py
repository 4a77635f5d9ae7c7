import pytest
import torch
import transformers

from minigpt.inside.trace import passes, trace
from minigpt.model.attention import attend
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def shaken(switches: dict) -> GPT:
    """Return a model with weights so large that its attention is far from uniform."""
    generator = torch.Generator().manual_seed(1)
    model = GPT(tiny(**switches))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() < 2 else 0.0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(params=SWITCHES.values(), ids=SWITCHES)
def model(request):
    return shaken(request.param)


@torch.inference_mode()
def test_the_way_to_the_logits_is_the_models_own_bit_for_bit(model):
    stream = trace(model, IDS).stream
    given = torch.tensor([IDS])
    assert torch.equal(model.norm(stream[-1:]), model.hidden(given))
    assert torch.equal(model.head(model.norm(stream[-1:])), model(given))


@torch.inference_mode()
def test_attention_times_values_is_sdpa(model):
    for done in passes(model, torch.tensor([IDS, IDS[::-1]])):
        each = done.query.size(1) // done.key.size(1)
        gathered = done.weights @ done.value.repeat_interleave(each, dim=1)
        wanted = attend(done.query, done.key, done.value)
        torch.testing.assert_close(gathered, wanted, atol=1e-5, rtol=0)


def test_rows_sum_to_one_and_nothing_is_seen_ahead_of_time(model):
    weights = trace(model, IDS).weights
    assert weights.shape == (2, 4, len(IDS), len(IDS))
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-6
    assert weights.triu(1).abs().max() == 0
    assert (weights >= 0).all()


def test_each_block_adds_what_attention_and_mlp_give(model):
    found = trace(model, IDS)
    added = found.stream[1:] - found.stream[:-1]
    torch.testing.assert_close(added, found.attention + found.mlp, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
@torch.inference_mode()
def test_transformers_sees_the_same_attention_and_the_same_stream(name, tmp_path):
    model = shaken(SWITCHES[name])
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    wanted = theirs(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True)
    found = trace(model, IDS)
    torch.testing.assert_close(found.weights, torch.cat(wanted.attentions), atol=1e-5, rtol=0)
    ours = torch.cat([found.stream[:-1], model.norm(found.stream[-1:])])
    torch.testing.assert_close(ours, torch.cat(wanted.hidden_states), atol=1e-5, rtol=1e-5)


def test_a_model_that_is_being_trained_is_looked_at_without_dropout_and_goes_on():
    model = GPT(tiny(dropout=0.5)).train()
    with_dropout = trace(model, IDS)
    assert model.training
    assert torch.equal(with_dropout.stream, trace(model.eval(), IDS).stream)
    assert not with_dropout.stream.requires_grad
