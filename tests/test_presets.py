import dataclasses
import math

import pytest
import torch

from minigpt.config import ModelConfig, build, changes, preset_layer, presets
from minigpt.loss import TrainStep
from minigpt.model.families import family_of
from minigpt.model.size import padded_vocab_size, parameter_count
from minigpt.model.transformer import GPT

# preset: parameters in millions, family, tokens in a step
EXPECTED = {
    "1b": (1020, "minigpt", 524_288),
    "demo": (0.49, "qwen3", 1024),
    "gpt2-124m": (124.5, "gpt2", 524_288),
    "modern": (114.1, "qwen3", 524_288),
    "mqa-512": (32.3, "llama", 20_480),
    "shakespeare-char": (10.7, "gpt2", 16_384),
    "shakespeare-cpu": (0.80, "gpt2", 768),
    "shakespeare-modern": (0.86, "qwen3", 1024),
}


def shape(name):
    config = build([preset_layer(name)])
    ids = {"char": 66, "gpt2": 50_257, "bpe": config.data.vocab_size}[config.data.tokenizer]
    return config, dataclasses.replace(config.model, vocab_size=padded_vocab_size(ids)).resolve()


TUNING = ("tune-adapter", "tune-all")  # what finetune begins with; the shape is that of the base


def test_every_preset_is_expected():
    assert presets() == sorted([*EXPECTED, *TUNING, "continue"])


@pytest.mark.parametrize("name", [*TUNING, "continue"])
def test_what_begins_with_a_model_leaves_the_shape_to_it(name):
    config = build([preset_layer(name)])
    assert config.model == ModelConfig()
    assert config.optim.weight_decay in (0.0, 0.1)
    assert config.optim.schedule == "linear"


def test_an_adapter_and_all_weights_are_tuned_alike_but_for_the_rate():
    adapter, whole = (build([preset_layer(name)]) for name in TUNING)
    assert changes(adapter, whole).keys() == {"optim.lr"}
    assert adapter.optim.lr > whole.optim.lr
    assert adapter.model == ModelConfig()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_preset_builds_a_model_that_computes(name):
    config, model = shape(name)
    millions, family, tokens = EXPECTED[name]
    device = "meta" if parameter_count(model) > 5e7 else "cpu"
    with torch.device(device):
        made = TrainStep(GPT(model))
        ids = torch.zeros(1, 8, dtype=torch.long)
    assert sum(p.numel() for p in made.parameters()) == parameter_count(model)
    assert made(ids, ids)[0].shape == ()
    assert family_of(model) == family
    if millions is not None:
        assert parameter_count(model) / 1e6 == pytest.approx(millions, rel=0.01)
        assert config.train.batch_size * model.block_size == tokens


def test_recipes_are_as_published():
    gpt2 = shape("gpt2-124m")[1]
    assert (gpt2.n_layer, gpt2.n_head, gpt2.n_embd, gpt2.block_size, gpt2.vocab_size) == (
        12,
        12,
        768,
        1024,
        50304,
    )
    cpu = shape("shakespeare-cpu")[0]
    assert (cpu.optim.lr, cpu.optim.min_lr, cpu.optim.warmup_steps, cpu.optim.beta2) == (
        1e-3,
        1e-4,
        100,
        0.99,
    )
    assert (cpu.train.steps, cpu.train.batch_size, cpu.model.dropout) == (2000, 12, 0.0)
    char = shape("shakespeare-char")[0]
    assert (char.optim.lr, char.train.steps, char.train.batch_size, char.model.dropout) == (
        3e-4,
        3000,
        64,
        0.2,
    )
    mqa = shape("mqa-512")[0]
    assert (
        mqa.model.n_kv_head,
        mqa.train.epochs,
        mqa.train.batch_size,
        mqa.train.micro_batch_size,
    ) == (1, 3.0, 40, 10)
    assert (mqa.optim.name, mqa.optim.lr, mqa.optim.muon_lr) == ("muon", 6e-4, 0.005)
    big = shape("1b")[0]
    assert (big.optim.warmup_steps, big.train.steps, big.train.recompute) == (1500, 100_000, True)


def test_the_loss_of_shakespeare_char_begins_at_ln_65():
    torch.manual_seed(0)
    step = TrainStep(GPT(shape("shakespeare-char")[1])).eval()
    ids = torch.randint(0, 65, (4, 257))
    loss, count = step(ids[:, :-1], ids[:, 1:])
    assert abs(loss.item() / count.item() - math.log(65)) < 0.1
