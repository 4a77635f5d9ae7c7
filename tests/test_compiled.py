import signal
import subprocess
import sys

import pytest
import torch

import minigpt
from minigpt.errors import UserError
from minigpt.inference import compiled
from minigpt.inference.compiled import SoonCompiled, load_step, path_of, start_compiling
from minigpt.inference.decoder import Decoder
from minigpt.inference.opening import Decoding, open_engine, wait_for
from minigpt.machine import compiler, has_python_headers

from .conftest import SWITCHES, tiny
from .test_decoder import expected, made, some_ids

needs_compiler = pytest.mark.skipif(
    not (compiler() and has_python_headers()), reason="needs g++ and Python's headers"
)


def test_what_is_kept_goes_by_all_that_the_step_depends_on(monkeypatch):
    shape = made().config
    first = path_of(shape, "fp32")
    assert path_of(made(dropout=0.3).config, "fp32") == first
    assert path_of(made(n_layer=1).config, "fp32") != first
    assert path_of(shape, "int8") != first
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert path_of(shape, "fp32") != first


def test_nothing_kept_is_no_step():
    assert load_step(Decoder(made(n_embd=16, n_head=2))) is None


def test_what_is_damaged_is_thrown_away():
    decoder = Decoder(made(n_embd=48))
    path = path_of(decoder.config, decoder.precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not a package")
    assert load_step(decoder) is None
    assert not path.exists()


def test_a_compiler_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(UserError, match="compiling the step failed: no message"):
        wait_for(start_compiling(Decoder(made())))


def begun(monkeypatch, *command: str) -> subprocess.Popen[bytes]:
    """Have a command run in the place of the compiler."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    monkeypatch.setattr(compiled, "start_compiling", lambda decoder, *words: process)
    return process


def test_while_it_is_compiled_texts_go_on_and_the_compiler_ends_with_the_program(monkeypatch):
    process = begun(monkeypatch, "sleep", "1000")
    model, ids, said = made(), some_ids(5), []
    decoder = Decoder(model)
    decoder.alone = SoonCompiled(decoder, said.append)
    decoder.prefill(0, ids[:3])
    for place in (3, 4):
        found = decoder.step([ids[place]], [place])
        assert (found[0] - expected(model, ids[: place + 1])).abs().max() < 2e-6
    assert process.poll() is None
    decoder.alone = None
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not said


def test_where_compiling_failed_that_is_said_once_and_texts_go_on(monkeypatch):
    process = begun(monkeypatch, "false")
    model, ids, said = made(n_embd=24, n_head=2), some_ids(5), []
    decoder = Decoder(model)
    decoder.alone = SoonCompiled(decoder, said.append)
    process.wait(timeout=60)
    decoder.prefill(0, ids[:3])
    for place in (3, 4):
        found = decoder.step([ids[place]], [place])
        assert (found[0] - expected(model, ids[: place + 1])).abs().max() < 2e-6
    assert said == ["compiling the step failed; it goes on without"]


# Each takes ten seconds to compile.
@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "apart"),
    [("qwen3", "fp32", 2e-6), ("gpt2", "int8", 0.02), ("own: gate", "bf16", 0.02)],
)
def test_a_compiled_step_is_the_step(name, precision, apart):
    model = made(n_layer=1, **SWITCHES[name])
    decoder, ids = Decoder(model, precision, slots=2), some_ids(12)
    wait_for(start_compiling(decoder))
    step = load_step(decoder)
    assert step is not None
    for start in (1, 5):
        decoder.prefill(0, ids[:start])
        for place in range(start, 12):
            wanted = expected(model, ids[: place + 1])
            found = step(ids[place], place)
            assert found.shape == (1, 29)
            assert (found[0] - wanted).abs().max() <= apart
    # Other weights of the shape need no compiler.
    torch.manual_seed(1)
    other = minigpt.GPT(tiny(n_layer=1, **SWITCHES[name])).eval()
    second = Decoder(other, precision)
    second.prefill(0, ids[:3])
    again = load_step(second)
    assert again is not None
    assert (again(ids[3], 3)[0] - expected(other, ids[:4])).abs().max() <= apart


@needs_compiler
@pytest.mark.slow
def test_texts_by_a_compiled_step_are_the_texts(trained, monkeypatch):
    model, tokenizer = minigpt.load(trained)
    said = []
    decoding = Decoding(device="cpu", dtype="fp32", compile=True)
    engine = open_engine(model, tokenizer, decoding, say=said.append)
    assert "once" in said[0]
    assert engine.slots.alone is not None
    monkeypatch.setattr(
        compiled, "start_compiling", lambda decoder, *words: pytest.fail("it is kept")
    )
    open_engine(model, tokenizer, decoding, say=said.append)
    for seed in range(20):
        settings = minigpt.SampleConfig(max_tokens=60, seed=seed)
        text = engine.submit("the cat", settings)
        list(engine.run(text))
        assert text.text == minigpt.generate(model, tokenizer, "the cat", max_tokens=60, seed=seed)
