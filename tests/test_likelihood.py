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
