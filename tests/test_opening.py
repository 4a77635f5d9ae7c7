import pytest
import torch
import transformers

import minigpt
from minigpt.config import SampleConfig
from minigpt.errors import UserError
from minigpt.inference import opening
from minigpt.inference.decoder import Decoder
from minigpt.inference.opening import Decoding, bf16_gain, open_engine
from minigpt.inference.plain import Plain
from minigpt.interop.causal import CausalLM

from .test_decoder import made


def opened(trained, said=None, slots=1, **how):
    model, tokenizer = minigpt.load(trained)
    return open_engine(
        model,
        tokenizer,
        Decoding(device="cpu", **how),
        slots=slots,
        say=(said if said is not None else []).append,
    )


@pytest.mark.parametrize(("gain", "taken"), [(1.1, "fp32"), (1.5, "bf16")])
def test_the_faster_precision_is_taken_and_named(trained, monkeypatch, gain, taken):
    monkeypatch.setattr(opening, "bf16_gain", lambda config: gain)
    said = []
    assert opened(trained, said).slots.precision == taken
    assert f"decoding in {taken}" in said[0]
    assert f"{gain} times" in said[0]


@pytest.mark.parametrize(("there", "taken"), [(True, "bf16"), (False, "fp32")])
def test_a_compiled_step_reads_bf16_where_it_can_be_compiled(monkeypatch, there, taken):
    monkeypatch.setattr(opening, "can_compile", lambda device: there)
    monkeypatch.setattr(opening, "bf16_gain", lambda config: 1.0)
    said, cpu = [], torch.device("cpu")
    assert opening.precision_of(made().config, Decoding(compile=True), cpu, said.append) == taken
    assert f"decoding in {taken}" in said[0]


def test_the_trial_measures_something():
    assert 0.01 < bf16_gain(made().config) < 100


@pytest.mark.parametrize(
    "how", [{"dtype": "fp32"}, {"dtype": "bf16"}, {"dtype": "fp16"}, {"quantize": "int8"}]
)
def test_what_is_asked_for_is_taken_without_a_trial(trained, monkeypatch, how):
    monkeypatch.setattr(opening, "bf16_gain", lambda config: pytest.fail("a trial"))
    said = []
    engine = opened(trained, said, **how)
    assert engine.slots.precision == next(iter(how.values()))
    assert not said
    text = engine.submit("the cat", SampleConfig(max_tokens=5, greedy=True))
    list(engine.run(text))
    assert len(text.picked) == 5


def test_there_are_as_many_slots_as_texts(trained):
    assert opened(trained, slots=3, dtype="fp32").slots.slots == 3


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"quantize": "int8", "dtype": "fp32"}, "--quantize int8 computes in bf16"),
        ({"device": "abacus"}, "--device is 'abacus'; wanted auto, cpu"),
    ],
)
def test_what_cannot_be_is_refused(trained, how, sentence):
    model, tokenizer = minigpt.load(trained)
    with pytest.raises(UserError, match=sentence):
        open_engine(model, tokenizer, Decoding(**({"device": "cpu"} | how)), say=[].append)


def test_other_models_are_drawn_from_as_they_are(trained):
    _, tokenizer = minigpt.load(trained)
    settings = transformers.GPTNeoXConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CausalLM(transformers.GPTNeoXForCausalLM(settings)).eval()
    engine = open_engine(model, tokenizer, Decoding(device="cpu"), slots=2, say=[].append)
    assert isinstance(engine.slots, Plain)
    texts = [engine.submit("the cat", SampleConfig(max_tokens=40), seed=seed) for seed in range(3)]
    while engine.live or engine.waiting:
        engine.step()
    for seed, text in enumerate(texts):
        assert text.text == minigpt.generate(model, tokenizer, "the cat", max_tokens=40, seed=seed)
    with pytest.raises(UserError, match="leave --dtype and --quantize out"):
        open_engine(model, tokenizer, Decoding(device="cpu", quantize="int8"), say=[].append)


def test_for_a_short_context_nothing_is_compiled():
    said, decoder = [], Decoder(made(block_size=15))
    opening.use_compiled(decoder, True, said.append)
    assert decoder.alone is None
    assert "a context of 15 is too short" in said[0]


def test_where_nothing_can_be_compiled_that_is_said_and_decoding_goes_on(trained, monkeypatch):
    monkeypatch.setattr(opening, "can_compile", lambda device: False)
    monkeypatch.setattr(opening, "load_step", lambda decoder: None)  # another test may have kept it
    said = []
    engine = opened(trained, said, dtype="fp32", compile=True)
    assert isinstance(engine.slots, Decoder)
    assert engine.slots.alone is None
    assert "the step is not compiled" in said[0]
