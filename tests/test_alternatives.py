import dataclasses
import doctest
import math

import numpy as np
import pytest
import torch

from minigpt.config import SampleConfig
from minigpt.inference.engine import Engine
from minigpt.inference.picking import Picker
from minigpt.inference.plain import Plain
from minigpt.interop.loading import load_both
from minigpt.serve import alternatives as module
from minigpt.serve.alternatives import Cuts, alternatives

PLAIN = SampleConfig(temperature=1.0, top_k=0)
LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1])).astype(np.float32)


def cuts(text=(), begin=0, bias=None, **settings):
    return Cuts(LOGITS, list(text), begin, dataclasses.replace(PLAIN, **settings), bias)


@pytest.fixture(scope="module")
def loaded(trained):
    return load_both(trained)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(module).failed == 0


def test_nothing_set_cuts_nothing():
    plain = cuts()
    assert plain.steps == []
    assert plain.by_whom == {}
    assert plain.drawn == pytest.approx([0.5, 0.25, 0.15, 0.1])


def test_each_filter_cuts_what_those_before_it_left():
    made = cuts(min_p=0.25, top_k=2, top_p=0.6)
    # min-p: at least 0.125; top-k: two of three; top-p: 0.5 / 0.75 is more than 0.6
    assert made.by_whom == {3: "min_p", 2: "top_k", 1: "top_p"}
    shares = [(step["name"], step["cut"], round(step["share"], 4)) for step in made.steps]
    assert shares == [("min_p", 1, 0.1), ("top_k", 1, round(0.15 / 0.9, 4)), ("top_p", 1, 0.3333)]
    assert made.drawn == pytest.approx([1, 0, 0, 0])


def test_temperature_sharpens_and_greedy_leaves_one():
    sharp = cuts(temperature=0.5)
    (step,) = sharp.steps
    assert step["before"] == pytest.approx(0.5)
    assert step["after"] == pytest.approx(0.25 / (0.25 + 0.0625 + 0.0225 + 0.01))
    for settings in ({"greedy": True}, {"temperature": 0.0}):
        greedy = cuts(**settings)
        assert greedy.drawn == pytest.approx([1, 0, 0, 0])
        assert set(greedy.by_whom.values()) == {"greedy"}


def test_penalties_come_first():
    repeated = cuts(text=[0, 1, 0], no_repeat_ngram=2)
    assert repeated.by_whom == {1: "penalties"}
    assert repeated.drawn == pytest.approx([0.5 / 0.75, 0, 0.15 / 0.75, 0.1 / 0.75])
    likelier = cuts(bias={3: math.log(10)})
    assert likelier.drawn == pytest.approx(np.array([0.5, 0.25, 0.15, 1.0]) / 1.9)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 5, "top_p": 0.8},
        {"min_p": 0.1, "repetition_penalty": 1.4, "presence_penalty": 0.2},
        {"greedy": True},
    ],
)
def test_what_was_drawn_is_possible_at_every_place_even_after_the_context_was_full(
    loaded, settings
):
    model, tokenizer = loaded
    engine = Engine(Plain(model), tokenizer)
    chosen = SampleConfig(max_tokens=70, seed=3, **settings)
    done = engine.submit("the cat ", chosen, probabilities=True, top=3)
    "".join(engine.run(done))
    assert len(done.ids) > model.config.block_size
    for number, picked in enumerate(done.picked):
        place = done.prompt_length + number
        found = alternatives(model, tokenizer, done.ids, done.prompt_length, place, chosen)
        by_id = {one["id"]: one for one in found["candidates"]}
        assert found["token"] == picked.token
        assert by_id[picked.token]["cut"] is None
        assert by_id[picked.token]["drawn"] > 0
        assert math.log(by_id[picked.token]["model"]) == pytest.approx(
            picked.log_probability, abs=1e-4
        )
        first = [(i, pytest.approx(nats, abs=1e-4)) for i, nats in picked.top]
        assert [(one["id"], math.log(one["model"])) for one in found["candidates"][:3]] == first


def test_no_gradient_is_kept(loaded):
    model, tokenizer = loaded
    with torch.enable_grad():
        alternatives(model, tokenizer, [1, 2, 3], 1, 2, PLAIN)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("shift", [-9, 0, 9])
def test_a_temperature_that_is_nearly_0_leaves_what_the_engine_draws(shift):
    settings = dataclasses.replace(PLAIN, temperature=1e-308)
    logits = LOGITS + np.float32(shift)
    made = Cuts(logits, [], 0, settings)
    assert made.drawn.tolist() == [1, 0, 0, 0]
    assert Picker(settings, known=4).pick(logits, [], 0).token == 0
