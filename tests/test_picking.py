import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minigpt.config import SampleConfig
from minigpt.errors import UserError
from minigpt.inference.picking import Picked, Picker
from minigpt.sampling import choose, draw_at

INF = float("inf")
PLAIN = SampleConfig(temperature=1.0, top_k=0)


def row(*logits):
    return np.array(logits, dtype=np.float32)


def logs(*probabilities):
    return np.log(np.array(probabilities)).astype(np.float32)


def picker(known, bias=None, banned=(), top=0, wants_probability=False, **settings):
    return Picker(
        dataclasses.replace(PLAIN, **settings),
        known=known,
        bias=bias or {},
        banned=banned,
        top=top,
        wants_probability=wants_probability,
    )


def drawn(logits, text=(), begin=0, times=300, **settings):
    """Return the tokens that are drawn with so many seeds."""
    bias, banned = settings.pop("bias", {}), settings.pop("banned", ())
    made = dataclasses.replace(PLAIN, **settings)
    pickers = (
        Picker(made, seed=i, known=len(logits), bias=bias, banned=banned) for i in range(times)
    )
    return {picker.pick(logits, text, begin).token for picker in pickers}


def chi_square(counts, probabilities):
    """Return the statistic of tokens drawn against their probabilities; nothing else may have been drawn."""
    counts, probabilities = np.array(counts), np.array(probabilities)
    assert counts[probabilities == 0].sum() == 0
    expected = (probabilities * counts.sum())[probabilities > 0]
    return float(((counts[probabilities > 0] - expected) ** 2 / expected).sum())


# ---------------------------------------------------------------------------------------------- one token


def test_the_draw_is_that_of_the_seed_and_the_number_of_the_new_token():
    logits = np.zeros(1000, dtype=np.float32)  # the token is the draw, in thousandths
    for seed, prompt_length, new in itertools.product((0, 7), (0, 1, 5), (0, 1, 30)):
        made = Picker(PLAIN, seed=seed, known=1000)
        found = made.pick(logits, list(range(prompt_length + new)), prompt_length).token
        assert found == int(1000 * draw_at(seed, new))


def test_the_seed_is_that_of_the_settings_where_none_is_given():
    logits = np.zeros(1000, dtype=np.float32)
    settings = dataclasses.replace(PLAIN, seed=7)
    for seed, wanted in ((None, 7), (0, 0), (9, 9)):
        made = Picker(settings, seed=seed, known=1000)
        assert made.pick(logits, [1], 1).token == int(1000 * draw_at(wanted, 0))


def test_only_known_tokens_are_drawn():
    assert drawn(row(0, 0, 50, 50), banned=[2, 3]) == {0, 1}
    made = Picker(PLAIN, known=2, top=4)
    found = [made.pick(row(0, 0, 50, 50), [0] * n, 0) for n in range(50)]
    assert {picked.token for picked in found} == {0, 1}
    assert found[0].log_probability == pytest.approx(math.log(0.5))
    assert [token for token, _ in found[0].top] == [0, 1]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"greedy": True}], ids=str)
def test_without_temperature_the_likeliest_after_the_penalties_is_taken(settings):
    assert drawn(row(1, 3, 3, 2), times=20, **settings) == {1}
    assert drawn(row(1, 3, 3, 2), times=20, bias={3: 1.5}, **settings) == {3}
    assert drawn(row(1, 3, 2.9, 2), [1], times=20, repetition_penalty=1.5, **settings) == {2}
    assert drawn(row(1, 3, 2, 2), times=20, min_p=0.1, top_k=2, top_p=0.1, **settings) == {1}


def test_with_every_filter_off_a_token_is_what_choose_says():
    rng = np.random.default_rng(0)
    for number in range(200):
        logits = rng.standard_normal(50).astype(np.float32)
        settings = SampleConfig(top_k=int(rng.integers(0, 60)), top_p=float(rng.random()))
        wanted = choose(logits, 0.8, settings.top_k, settings.top_p, draw_at(3, number))
        text = [1] * (2 + number)
        assert Picker(settings, seed=3, known=50).pick(logits, text, 2) == Picked(wanted, *ANY)


class Anything:
    """Equals everything, so that nan may stand in what is compared."""

    def __eq__(self, other):
        return True

    __hash__ = None


ANY = (Anything(), ())


def test_what_is_picked_from_stays_as_it_is():
    logits, text = row(3, 2, 1, 0), [0, 1, 0, 1]
    logits.setflags(write=False)
    made = picker(
        4, {2: 1.0}, [3], 2, repetition_penalty=1.2, no_repeat_ngram=3, ngram_penalty=0.1, min_p=0.01,
        presence_penalty=0.1, frequency_penalty=0.1, top_k=3, top_p=0.9,
    )  # fmt: skip
    assert made.pick(logits, text, 1).token in (1, 2)
    assert text == [0, 1, 0, 1]


def test_a_text_may_be_an_array():
    settings = {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "no_repeat_ngram": 3}
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits, text = rng.standard_normal(4).astype(np.float32), rng.integers(0, 4, size=9)
        made = picker(4, ngram_penalty=0.5, **settings)
        assert made.pick(logits, text, 5).token == made.pick(logits, text.tolist(), 5).token


# ------------------------------------------------------------------------------------- what is told


def test_the_log_probability_is_the_models_own():
    settings = {"temperature": 0.3, "top_k": 1, "presence_penalty": 2.0}
    made = picker(3, {1: -9.0}, [0], wants_probability=True, **settings)
    picked = made.pick(logs(0.5, 0.3, 0.2), [2, 2], 2)
    assert picked.token == 2
    assert picked.log_probability == pytest.approx(math.log(0.2), abs=1e-6)
    assert picked.top == ()


def test_the_likeliest_are_told_in_order_and_of_equals_the_first():
    logits = row(1, 3, 2, 3, 2, 0)
    made = picker(6, banned=[1], top=4, temperature=0.0)
    picked = made.pick(logits, [], 0)
    assert picked.token == 3
    assert [token for token, _ in picked.top] == [1, 3, 2, 4]
    wanted = torch.from_numpy(logits).double().log_softmax(0)
    assert [nats for _, nats in picked.top] == pytest.approx(wanted[[1, 3, 2, 4]].tolist())
    assert picked.log_probability == pytest.approx(float(wanted[3]))
    assert [token for token, _ in picker(6, top=3).pick(logits, [], 0).top] == [1, 3, 2]
    assert len(picker(6, top=20).pick(logits, [], 0).top) == 6


def test_what_is_not_asked_for_is_not_worked_out():
    picked = picker(2).pick(row(1, 0), [], 0)
    assert math.isnan(picked.log_probability)
    assert picked.top == ()


# ------------------------------------------------------------------------------------------ refusals


def test_what_can_never_be_drawn_is_refused_at_once():
    with pytest.raises(ValueError, match="all 2 tokens are banned"):
        picker(2, banned=[1, 0, 1])
    for token in (-1, 2):
        with pytest.raises(ValueError, match=f"token {token} is not known; ids go from 0 to 1"):
            picker(2, banned=[0, token])
        with pytest.raises(ValueError, match=f"token {token} is not known"):
            picker(2, {token: 1.0})
    for nats in (math.nan, INF, -INF, 2e6):
        with pytest.raises(ValueError, match="the bias of token 1 is"):
            picker(2, {1: nats})


def test_a_ban_of_all_that_is_possible_is_told_when_it_is_met():
    with pytest.raises(ValueError, match="every token is banned"):
        picker(3, banned=[1]).pick(row(-INF, 0, -INF), [], 0)


@pytest.mark.parametrize("logits", [(math.nan, 0, 1), (-INF, -INF, -INF), (0, INF, 0)])
def test_a_damaged_model_is_told_whatever_is_filtered(logits):
    text = [0, 2, 2]
    settings = [
        {}, {"temperature": 0.0}, {"min_p": 0.1}, {"no_repeat_ngram": 2}, {"repetition_penalty": 1.1},
        {"ngram_penalty": 1.0}, {"frequency_penalty": 1.0}, {"banned": [2]}, {"bias": {2: 1.0}}, {"top": 2},
    ]  # fmt: skip
    for some in settings:
        with pytest.raises(UserError, match="its weights are damaged"):
            picker(3, **some).pick(row(*logits), text, 0)


# ------------------------------------------------------------------------------------------ the order


def test_a_bias_comes_before_the_repetition_penalty():
    # -1 + 5 = 4, halved 2; the other way round -2 + 5 = 3.
    assert drawn(row(-1, 2.5), [0], bias={0: 5.0}, repetition_penalty=2.0, greedy=True) == {1}


def test_a_bias_does_not_lift_a_ban():
    assert drawn(row(0, 0), bias={0: 100.0}, banned=[0]) == {1}


def test_bans_come_before_no_repeat():
    # Once all others are banned, the repeated token is the last one, and may come again.
    assert drawn(row(0, 0, 0), [0, 0], banned=[1, 2], no_repeat_ngram=2) == {0}
    assert drawn(row(0, 0, 0), [0, 0], banned=[1], no_repeat_ngram=2) == {2}


def test_the_repetition_penalty_comes_before_presence():
    # 4 / 2 - 1 = 1; the other way round (4 - 1) / 2 = 1.5.
    settings = {"repetition_penalty": 2.0, "presence_penalty": 1.0, "greedy": True}
    assert drawn(row(4, 1.25), [0], **settings) == {1}


def test_the_repetition_penalty_comes_before_that_for_passages():
    # 4 / 2 - 1 = 1; the other way round (4 - 1) / 2 = 1.5.
    settings = {"repetition_penalty": 2.0, "ngram_penalty": 1.0, "greedy": True}
    assert drawn(row(4, 1.25), [0, 0], **settings) == {1}


def test_penalties_are_in_nats_before_the_temperature():
    # The first is 2 nats ahead and loses 1; at temperature 0.01 the last nat still decides.
    for settings in ({"presence_penalty": 1.0}, {"frequency_penalty": 0.5}, {"ngram_penalty": 1.0}):
        assert drawn(row(2, 0), [0, 0], temperature=0.01, **settings) == {0}
        assert drawn(row(2, 1.5), [0, 0], temperature=0.01, **settings) == {1}


def test_min_p_measures_what_the_penalties_left():
    # Before the penalty the second has a tenth of the first's probability, after it as much.
    logits = logs(10 / 11, 1 / 11)
    settings = {"min_p": 0.5, "presence_penalty": math.log(10)}
    assert drawn(logits, [0], **settings) == {0, 1}
    assert drawn(logits, [0], 1, **settings) == {0}


def test_temperature_comes_before_min_p():
    logits = logs(0.8, 0.2)  # at temperature 2 the odds are 2 : 1
    assert drawn(logits, min_p=0.4, temperature=1.0) == {0}
    assert drawn(logits, min_p=0.4, temperature=2.0) == {0, 1}


def test_min_p_comes_before_top_p():
    # 0.6 of the likeliest leaves 0.4 and 0.3, of which the first has more than half.
    logits = logs(0.4, 0.3, 0.2, 0.1)
    assert drawn(logits, min_p=0.6, top_p=0.5) == {0}
    assert drawn(logits, top_p=0.5) == drawn(logits, min_p=0.6) == {0, 1}


def test_top_k_comes_before_top_p():
    logits = logs(0.4, 0.3, 0.2, 0.1)
    assert drawn(logits, top_k=2, top_p=0.5) == {0}
    assert drawn(logits, top_p=0.5) == drawn(logits, top_k=2) == {0, 1}


def test_temperature_comes_before_top_p():
    logits = logs(0.5, 0.3, 0.2)  # at temperature 0.5 25 : 9 : 4
    assert drawn(logits, top_p=0.6, temperature=1.0) == {0, 1}
    assert drawn(logits, top_p=0.6, temperature=0.5) == {0}


def test_the_prompt_counts_for_repetition_but_not_for_presence():
    logits = row(1, 0.9, 0.8)
    for settings in ({"presence_penalty": 1.0}, {"frequency_penalty": 1.0}):
        assert drawn(logits, [0, 1], 2, greedy=True, **settings) == {0}
        assert drawn(logits, [0, 1], 1, greedy=True, **settings) == {0}
        assert drawn(logits, [1, 0], 1, greedy=True, **settings) == {1}
    assert drawn(logits, [0, 1], 2, greedy=True, repetition_penalty=2.0) == {2}
    assert drawn(logits, [0, 1, 0], 3, greedy=True, no_repeat_ngram=2) == {0}
    assert drawn(logits, [0, 0], 2, greedy=True, no_repeat_ngram=2) == {1}
    assert drawn(logits, [0, 0], 2, greedy=True, ngram_penalty=0.15) == {1}


# ------------------------------------------------------------------------------- whole distributions


def expected(logits, text, begin, settings, bias, banned):
    """Return the probabilities of all tokens, written out step by step in Python."""
    left = {i: float(x) + bias.get(i, 0.0) for i, x in enumerate(logits) if i not in banned}
    for i in left.keys() & set(text):
        factor = settings.repetition_penalty
        left[i] = left[i] * factor if left[i] < 0 else left[i] / factor
    for i in left.keys() & set(text[begin:]):
        left[i] -= settings.presence_penalty + settings.frequency_penalty * text[begin:].count(i)
    size = settings.no_repeat_ngram
    passages = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
    new = {i for i in left if (*text[len(text) - size + 1 :], i) not in passages}
    left = {i: left[i] for i in (new if size and new else left)}
    for i in left:
        repeated = [
            n
            for n in range(1, len(text))
            if any(text[at : at + n + 1] == [*text[-n:], i] for at in range(len(text) - n))
        ]
        left[i] -= settings.ngram_penalty * max(repeated, default=0)
    highest = max(left.values())
    shares = {i: math.exp((x - highest) / settings.temperature) for i, x in left.items()}
    shares = {i: share for i, share in shares.items() if share >= settings.min_p}
    order = sorted(shares, key=lambda i: (-shares[i], i))[: settings.top_k or None]
    total, kept, reached = sum(shares[i] for i in order), [], 0.0
    for i in order:
        kept.append(i)
        reached += shares[i] / total
        if reached >= settings.top_p < 1:
            break
    total = sum(shares[i] for i in kept)
    return [shares[i] / total if i in kept else 0.0 for i in range(len(logits))]


def random_settings(rng):
    def on(value, off):
        return value if rng.random() < 0.5 else off

    return SampleConfig(
        temperature=float(rng.uniform(0.3, 2.0)),
        top_k=on(int(rng.integers(1, 9)), 0),
        top_p=on(float(rng.uniform(0.1, 0.99)), 1.0),
        min_p=on(float(rng.uniform(0.01, 0.5)), 0.0),
        repetition_penalty=on(float(rng.uniform(0.7, 2.0)), 1.0),
        no_repeat_ngram=on(int(rng.integers(1, 5)), 0),
        ngram_penalty=on(float(rng.uniform(-0.5, 1.0)), 0.0),
        presence_penalty=on(float(rng.uniform(-1.0, 1.0)), 0.0),
        frequency_penalty=on(float(rng.uniform(-0.5, 0.5)), 0.0),
    )


def test_a_token_is_that_of_the_steps_written_out():
    rng, compared = np.random.default_rng(5), 0
    for _ in range(1500):
        logits = (2 * rng.standard_normal(8)).astype(np.float32)
        text = rng.integers(0, 4, size=rng.integers(0, 20)).tolist()
        begin, settings = int(rng.integers(0, len(text) + 1)), random_settings(rng)
        bias = {int(i): float(rng.normal()) for i in rng.integers(0, 8, size=rng.integers(0, 3))}
        banned = rng.integers(0, 8, size=rng.integers(0, 5)).tolist()
        seed = int(rng.integers(0, 2**31))
        upper = np.cumsum(expected(logits, text, begin, settings, bias, banned))
        draw = draw_at(seed, len(text) - begin)
        if np.abs(upper - draw).min() < 1e-4:  # float32 may fall on the other side
            continue
        made = Picker(settings, seed=seed, known=8, bias=bias, banned=banned)
        assert made.pick(logits, text, begin).token == int(np.searchsorted(upper, draw)), settings
        compared += 1
    assert compared > 1450


@pytest.mark.parametrize("vary", ["number", "seed"])
def test_frequencies_are_the_probabilities(vary):
    probabilities = [0.05, 0.4, 0.25, 0.3]
    counts, logits = [0] * 4, logs(*probabilities)
    made = Picker(PLAIN, seed=11, known=4)
    for i in range(10_000):
        if vary == "seed":
            made = Picker(PLAIN, seed=i, known=4)
        counts[made.pick(logits, range(i if vary == "number" else 0), 0).token] += 1
    assert chi_square(counts, probabilities) < 16.3  # 3 degrees of freedom, one in a thousand


def test_frequencies_are_the_probabilities_with_every_filter():
    settings = SampleConfig(
        temperature=1.5, top_k=5, top_p=0.85, min_p=0.05, repetition_penalty=1.3, no_repeat_ngram=3,
        ngram_penalty=0.4, presence_penalty=0.3, frequency_penalty=0.2,
    )  # fmt: skip
    logits, text = row(2.0, 1.0, -0.5, 1.5, 0.5, 1.0, -3.0, 2.5), [0, 1, 2, 5, 1, 3, 0, 1]
    bias, banned = {2: 3.0}, [7]
    probabilities = expected(logits, text, 4, settings, bias, banned)
    assert sum(probability > 0 for probability in probabilities) == 4
    counts = [0] * 8
    for seed in range(8000):
        made = Picker(settings, seed=seed, known=8, bias=bias, banned=banned)
        counts[made.pick(logits, text, 4).token] += 1
    assert chi_square(counts, probabilities) < 16.3  # 3 degrees of freedom, one in a thousand


def test_tokens_are_those_of_the_processors_of_transformers():
    rng = np.random.default_rng(6)
    for _ in range(300):
        logits = (2 * rng.standard_normal(40)).astype(np.float32)
        text = rng.integers(0, 5, size=rng.integers(1, 30)).tolist()
        penalty, size = float(rng.uniform(1, 2)), int(rng.integers(1, 5))
        temperature, k = float(rng.uniform(0.3, 2)), int(rng.integers(1, 40))
        min_p, p = float(rng.uniform(0, 0.3)), float(rng.uniform(0.05, 0.95))
        processors = LogitsProcessorList([
            RepetitionPenaltyLogitsProcessor(penalty), NoRepeatNGramLogitsProcessor(size),
            TemperatureLogitsWarper(temperature), MinPLogitsWarper(min_p), TopKLogitsWarper(k), TopPLogitsWarper(p),
        ])  # fmt: skip
        scores = processors(torch.tensor([text]), torch.from_numpy(logits)[None].clone())[0]
        upper = scores.double().softmax(0).cumsum(0).numpy()
        made = picker(
            40, repetition_penalty=penalty, no_repeat_ngram=size, temperature=temperature, min_p=min_p, top_k=k,
            top_p=p,
        )  # fmt: skip
        for number in range(len(text)):
            draw = draw_at(0, number)
            assert np.abs(upper - draw).min() > 1e-6
            found = made.pick(logits, text, len(text) - number).token
            assert found == int(np.searchsorted(upper, draw))
