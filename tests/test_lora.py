import copy

import pytest
import torch

from minigpt.config import LoraConfig
from minigpt.errors import UserError
from minigpt.finetune.lora import LoraLinear, adapters, merge, swap_in
from minigpt.inference.decoder import Decoder
from minigpt.loss import TrainStep
from minigpt.model.casting import Linear
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny

IDS = torch.arange(24).view(2, 12)


def make(name="llama", **switches):
    torch.manual_seed(0)
    return GPT(tiny(**(SWITCHES[name] | switches))).eval()


def shaken(model, seed=0):
    """Move everything that is trained, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", SWITCHES)
def test_a_fresh_adapter_changes_no_bit_of_the_logits(name):
    model = make(name)
    before = model(IDS)
    swap_in(model, LoraConfig(rank=3), rows=[2, 28])
    assert torch.equal(model(IDS), before)


@pytest.mark.parametrize("name", SWITCHES)
def test_merged_equals_unmerged_and_is_a_plain_model(name):
    model = make(name)
    before, names = model(IDS), list(model.state_dict())
    shaken(swap_in(model, LoraConfig(rank=3, alpha=5.0), rows=[2, 28]))
    apart = model(IDS)
    assert (apart - before).abs().max() > 0.1
    assert merge(model) is model
    torch.testing.assert_close(model(IDS), apart, atol=1e-5, rtol=0)
    assert list(model.state_dict()) == names
    assert (model.embedding.weight is model.head.weight) == model.config.tie_embeddings
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not adapters(model)


@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "own: gate"])
def test_the_targets_and_no_others_are_trained(name, targets):
    model = make(name)
    layers = {key for key, m in model.named_modules() if isinstance(m, Linear) and key != "head"}
    swap_in(model, LoraConfig(targets=targets))
    wanted = {key for key in layers if targets in ("all", key.split(".")[2])}
    assert set(adapters(model)) == wanted
    model(IDS).sum().backward()
    with_gradient = {key for key, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {f"{key}.lora_{matrix}" for key in wanted for matrix in "AB"}
    assert with_gradient == {key for key, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["llama", "llama, untied, wide heads"])
def test_a_few_steps_lower_the_loss_and_leave_the_base_alone(name):
    model = make(name)
    base = {key: t.clone() for key, t in model.state_dict().items()}
    step = TrainStep(swap_in(model, LoraConfig(), rows=[1]))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    losses = []
    for _ in range(30):
        loss = step(IDS[:, :-1], IDS[:, 1:])[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The frozen head is small, and so are the logits that it can give.
    assert losses[-1] < 0.85 * losses[0]
    now = {key.replace(".base.", "."): t for key, t in model.state_dict().items()}
    assert all(torch.equal(now[key], tensor) for key, tensor in base.items())


def test_the_seed_decides_about_the_first_weights_alone_and_nothing_else_is_drawn():
    models = [swap_in(make(), LoraConfig(), seed=seed) for seed in (0, 0, 1)]
    model, state = make(), torch.get_rng_state()
    swap_in(model, LoraConfig())
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (
        torch.cat([layer.lora_A.flatten() for layer in adapters(model).values()])
        for model in models
    )
    assert torch.equal(one, same)
    assert not torch.isclose(one, other).any()


def test_it_computes_what_the_paper_says():
    model = make()
    x, layer = torch.randn(5, 32), model.blocks[1].mlp.up
    shaken(swap_in(model, LoraConfig(rank=4, alpha=6.0)))
    lora = model.blocks[1].mlp.up
    a, b = lora.lora_A, lora.lora_B
    assert a.shape == (4, 32)
    assert b.shape == (lora.base.out_features, 4)
    wanted = x @ layer.weight.T + 6.0 / 4 * (x @ a.T @ b.T)
    torch.testing.assert_close(lora(x), wanted)
    torch.testing.assert_close(lora.weight, layer.weight + 1.5 * b @ a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_the_precision_of_its_input(dtype):
    lora = shaken(swap_in(make(bias=True), LoraConfig())).blocks[0].attention.key
    x = torch.randn(3, 32)
    low = lora(x.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), lora(x), atol=0.1, rtol=0.05)
    low.sum().backward()
    assert lora.lora_A.grad.dtype == torch.float32


def test_dropout_is_on_the_adapter_alone_and_in_training_alone():
    model = make()
    before = model(IDS)
    swap_in(model, LoraConfig(dropout=0.5))
    assert torch.equal(model.train()(IDS), before)
    shaken(model)
    assert not torch.equal(model(IDS), model(IDS))
    model.eval()
    assert torch.equal(model(IDS), model(IDS))


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "own: gate"])
def test_a_decoder_takes_the_adapter_along(name):
    model = shaken(swap_in(make(name), LoraConfig(), rows=[3]))
    decoder = Decoder(model)
    found = decoder.head(decoder.hidden(IDS).flatten(0, 1)).view(2, 12, -1)
    torch.testing.assert_close(found, model(IDS), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same():
    model = shaken(swap_in(make(), LoraConfig(), rows=[3]))
    apart = model(IDS)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS), apart, atol=1e-5, rtol=1e-5)


def test_a_model_with_an_adapter_is_not_written_as_if_it_were_plain(tmp_path):
    model = swap_in(make(), LoraConfig(targets="mlp"))
    with pytest.raises(ValueError, match="an adapter is in the model; write it alone, or merge it"):
        model.save_pretrained(tmp_path)


def test_what_would_not_be_finite_is_not_merged():
    model = swap_in(make(), LoraConfig())
    layer = model.blocks[1].mlp.up
    with torch.no_grad():
        layer.lora_A.fill_(1e30)
        layer.lora_B.fill_(1e30)
    with pytest.raises(
        UserError, match=r"blocks\.1\.mlp\.up with its adapter holds numbers that a"
    ):
        merge(model)
    assert adapters(model)


def test_settings_that_cannot_be_are_refused():
    for wrong, text in (
        (LoraConfig(rank=0), "lora.rank is 0, so there is no adapter"),
        (LoraConfig(alpha=0.0), "lora.alpha is 0, so that nothing could be learnt"),
        (LoraConfig(dropout=1.0), "lora.dropout is 1.0"),
        (LoraConfig(targets="head"), "lora.targets is 'head'; wanted one of all, attention, mlp"),
    ):
        with pytest.raises(UserError, match=text):
            swap_in(make(), wrong)


def test_a_copy_has_an_adapter_of_its_own():
    model = swap_in(make(), LoraConfig())
    twin = shaken(copy.deepcopy(model))
    assert isinstance(model.blocks[0].attention.query, LoraLinear)
    assert not any(layer.lora_B.any() for layer in adapters(model).values())
    assert all(layer.lora_B.any() for layer in adapters(twin).values())
