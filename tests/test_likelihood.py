import math

import numpy as np
import pytest
import torch

from minigpt.errors import UserError
from minigpt.evaluate.likelihood import Scale, evaluate
from minigpt.loss import TrainStep
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .test_transformer import model

TOKENIZER = char_tokenizer([chr(97 + i) for i in range(26)])


def step():
    return TrainStep(model())


@torch.no_grad()
@pytest.mark.parametrize("length", [2, 12, 13, 14, 100])
def test_every_token_but_the_first_is_foretold_once(length):
    tokens = np.random.default_rng(0).integers(0, 26, length)
    found = evaluate(step(), tokens, TOKENIZER, batch_size=3)
    nats = 0.0
    for start in range(0, length - 1, 12):
        window = torch.tensor(tokens[start : start + 13])[None]
        chances = model()(window[:, :-1]).log_softmax(-1)
        nats -= chances.gather(-1, window[:, 1:, None]).sum().item()
    assert found.tokens == length - 1
    assert found.loss == pytest.approx(nats / (length - 1), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_char == pytest.approx(found.loss / math.log(2))


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 5, 7, 12])
@pytest.mark.parametrize("length", [2, 13, 14, 19, 40])
def test_strided_windows_are_what_a_loop_over_logits_gives(length, stride):
    """Each token is foretold once, by the first window that reaches it; errors are by stretches of twelve."""
    tokens = np.random.default_rng(1).integers(0, 26, length)
    found = evaluate(step(), tokens, TOKENIZER, batch_size=3, stride=stride)
    nats, ours = [], model()
    for place in range(1, length):
        # The first window ends at 12; each further one a stride later.
        start = 0 if place <= 12 else stride * -(-(place - 12) // stride)
        before = torch.tensor(tokens[start:place])[None]
        nats.append(-ours(before)[0, -1].log_softmax(-1)[tokens[place]].item())
    assert found.tokens == length - 1
    assert found.loss == pytest.approx(np.mean(nats), rel=1e-5)
    sums = [sum(nats[i : i + 12]) for i in range(0, length - 1, 12)]
    counts = [len(nats[i : i + 12]) for i in range(0, length - 1, 12)]
    assert found.windows.nats == pytest.approx(sums, rel=1e-5)
    if len(sums) == 1:
        assert found.loss_stderr is None
        return
    mean, pieces = np.mean(nats), len(sums)
    left = [(a - mean * b) / (length - 1) for a, b in zip(sums, counts, strict=True)]
    wanted = math.sqrt(pieces / (pieces - 1) * sum(x * x for x in left))
    assert found.loss_stderr == pytest.approx(wanted, rel=1e-4)
    assert found.bits_per_byte_stderr == pytest.approx(wanted / math.log(2), rel=1e-4)


def test_a_stride_of_the_context_is_none_and_others_are_refused():
    tokens = np.random.default_rng(1).integers(0, 26, 50)
    plain = evaluate(step(), tokens, TOKENIZER)
    assert evaluate(step(), tokens, TOKENIZER, stride=12).loss == plain.loss
    for stride in (0, -1, 13):
        with pytest.raises(UserError, match=f"--stride is {stride}, but windows are 12 tokens"):
            evaluate(step(), tokens, TOKENIZER, stride=stride)


def test_a_token_falls_to_the_slice_of_the_text_in_which_its_bytes_begin(monkeypatch):
    monkeypatch.setattr("minigpt.evaluate.likelihood.SLICE_BYTES", 4)
    made = bpe_tokenizer([(97, 98), (256, 99)])  # ab, abc
    tokens = np.array(made.encode("xabcabcxxxé"))
    assert [len(made.pieces[i]) for i in tokens] == [1, 3, 3, 1, 1, 1, 1, 1]
    small = TrainStep(model(vocab_size=made.vocab_size))
    found = evaluate(small, tokens, made)
    # They begin at 1 | 4, 7 | 8, 9, 10, 11, the first one is not foretold.
    assert found.slices.tokens.tolist() == [1, 2, 4]
    assert found.slices.bytes.tolist() == [3, 4, 4]
    assert found.text_bytes == len("xabcabcxxxé".encode())
    assert found.slices.nats.sum() == pytest.approx(found.loss * 7)


def test_a_part_is_always_the_same_and_spread_over_all():
    tokens = np.random.default_rng(0).integers(0, 26, 1000)
    parts = [evaluate(step(), tokens, TOKENIZER, max_tokens=120) for _ in range(2)]
    assert parts[0].loss == parts[1].loss
    assert parts[0].tokens == 9 * 12 + 3  # ten windows, the last of which is short
    assert evaluate(step(), tokens, TOKENIZER, max_tokens=10**9).tokens == 999


def test_a_model_in_training_goes_on_in_training():
    training = step().train()
    evaluate(training, np.arange(20), TOKENIZER)
    assert training.training
    assert training.model.training


def test_bytes_and_characters_are_those_of_the_text():
    text = "é🙂 plain"
    made = bpe_tokenizer([])
    scale = Scale(made, np.array([*made.encode(text), made.eos_id]))
    assert (scale.bytes, scale.chars) == (len(text.encode()), len(text))
    assert scale.bits_per_byte(math.log(2) * 12) == 1.0
    assert scale.bits_per_char(math.log(2) * 8) == 1.0
    chars = char_tokenizer(sorted(set(text)))
    assert Scale(chars, chars.encode_array(text)).bytes == len(text.encode())


def test_nothing_to_foretell_is_refused():
    with pytest.raises(UserError, match="comes to 1 tokens; at least 2 are needed"):
        evaluate(step(), np.array([1]), TOKENIZER)


@torch.no_grad()
@pytest.mark.parametrize("context", [5, 12])
def test_each_window_begins_with_what_the_tokenizer_puts_before_a_text(context):
    tokenizer = char_tokenizer([chr(97 + i) for i in range(26)])
    tokenizer.prefix = [7, 8]
    tokens = np.random.default_rng(0).integers(0, 26, 30)
    found = evaluate(step(), tokens, tokenizer, batch_size=3, context=context)
    nats = 0.0
    for start in range(0, 29, context - 2):
        window = torch.tensor([7, 8, *tokens[start : start + context - 1]])[None]
        chances = model()(window[:, :-1]).log_softmax(-1)
        nats -= chances.gather(-1, window[:, 1:, None])[0, 2:].sum().item()
    assert found.tokens == 29
    assert found.loss == pytest.approx(nats / 29, rel=1e-5)
