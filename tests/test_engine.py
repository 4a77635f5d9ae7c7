import dataclasses
import functools
import itertools
import random

import numpy as np
import pytest
import torch

import minigpt
from minigpt.config import SampleConfig
from minigpt.errors import UserError
from minigpt.inference import decoder as decoder_module
from minigpt.inference.decoder import Decoder
from minigpt.inference.engine import Completion, Engine
from minigpt.inference.picking import Picker
from minigpt.inference.plain import Plain
from minigpt.inference.text import generate, stream
from minigpt.model.transformer import GPT
from minigpt.sampling import draw_at
from minigpt.tokenizer import char_tokenizer

from .conftest import tiny
from .test_sampling import TOKENIZER, biased

# Two kernels may round differently; texts may part only where it is as close as this.
CLOSE = 1e-5
SETTINGS = {
    "greedy": {"greedy": True},
    "default": {},
    "wild": {"temperature": 1.5, "top_k": 0, "top_p": 0.9, "min_p": 0.01},
    "penalties": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram": 4,
        "ngram_penalty": 0.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.1,
    },
}
WORDS = ["the cat", "a dog ran", "", "on the mat and then", "tree " * 30, "naïve 🙂 dog", "\n"]


@pytest.fixture(scope="module")
def loaded(trained):
    return minigpt.load(trained)


def requests(count: int, **changes) -> list[tuple[str, SampleConfig]]:
    """Return prompts with settings, lengths and seeds that differ."""
    dice = random.Random(0)
    made = []
    for seed in range(count):
        settings = SETTINGS[dice.choice(list(SETTINGS))]
        wanted = SampleConfig(max_tokens=dice.randint(1, 60), seed=seed, **(settings | changes))
        made.append((dice.choice(WORDS), wanted))
    return made


@pytest.fixture(scope="module")
def oracle(loaded):
    """Return a function that gives what `uncached` yields for a prompt and settings, worked out once."""
    return functools.cache(lambda *asked: list(uncached(*loaded, *asked)))


def finished(engine: Engine, submitted: list[Completion]) -> list[Completion]:
    while engine.live or engine.waiting:
        engine.step()
    return submitted


@torch.no_grad()
def uncached(model: GPT, tokenizer, prompt: str, settings: SampleConfig):
    """Yield the logits and the token at each place, each time from the whole window; the oracle of all that is fast."""
    ids = [*tokenizer.prefix, *tokenizer.encode(prompt)] or [tokenizer.eos_id]
    picker, text, size = (
        Picker(settings, known=tokenizer.vocab_size),
        list(ids),
        model.config.block_size,
    )
    begin = max(0, len(text) - size)
    for _ in range(settings.max_tokens):
        if len(text) - begin > size:
            begin = len(text) - max(1, size // 2)
        logits = model(torch.tensor([text[begin:]]))[0, -1].numpy()
        token = picker.pick(logits, text, len(ids)).token
        yield logits, text[len(ids) :], token
        text.append(token)
        if token == tokenizer.eos_id:
            return


def is_close_call(
    logits: np.ndarray, drawn: list[int], prompt: list[int], settings: SampleConfig
) -> bool:
    """Return whether logits that differ by no more than `CLOSE` may lead to another token."""
    dice = np.random.default_rng(0)
    picker = Picker(settings, known=len(logits))
    text = [*prompt, *drawn]
    picked = {
        picker.pick(
            (logits + dice.uniform(-CLOSE, CLOSE, len(logits))).astype(np.float32),
            text,
            len(prompt),
        ).token
        for _ in range(200)
    }
    return len(picked) > 1


def partings(oracle, tokenizer, texts: list[Completion], asked: list) -> int:
    """Return how many texts part from the oracle's; fail where one does so that is no close call."""
    parted = 0
    for text, (prompt, settings) in zip(texts, asked, strict=True):
        ids = [one.token for one in text.picked]
        wanted = oracle(prompt, settings)
        tokens = [token for *_, token in wanted]
        if ids == tokens:
            continue
        at = next(i for i, (a, b) in enumerate(itertools.zip_longest(ids, tokens)) if a != b)
        logits, drawn, _ = wanted[at]
        assert is_close_call(logits, drawn, tokenizer.encode(prompt), settings), (prompt, settings)
        parted += 1
    return parted


@pytest.mark.parametrize(
    ("kind", "slots"), [(Decoder, 1), (Decoder, 2), (Decoder, 5), (Decoder, 16), (Plain, 1), (Plain, 5)]
)  # fmt: skip
def test_a_text_is_the_same_in_any_batch_and_without_a_cache(loaded, oracle, kind, slots):
    model, tokenizer = loaded
    engine = Engine(kind(model, slots=slots), tokenizer)
    asked = requests(30)
    texts = finished(engine, [engine.submit(*request) for request in asked])
    parted = partings(oracle, tokenizer, texts, asked)
    print(f"{parted} of {len(asked)} texts parted at a close call")
    assert parted <= 2


def test_a_text_is_the_same_whenever_others_join_leave_and_are_cancelled(loaded):
    model, tokenizer = loaded
    alone = [
        finished(engine := Engine(Decoder(model), tokenizer), [engine.submit(*request)])[0].text
        for request in requests(20)
    ]
    dice, engine = random.Random(1), Engine(Decoder(model, slots=4), tokenizer)
    waiting, submitted, crowd = requests(20), [], []
    while waiting or engine.live or engine.waiting:
        if waiting and dice.random() < 0.3:
            submitted.append(engine.submit(*waiting.pop(0)))
        if len(crowd) < 40 and dice.random() < 0.3:
            crowd.append(
                engine.submit("the dog", SampleConfig(max_tokens=50, seed=dice.randrange(99)))
            )
        if crowd and dice.random() < 0.2:
            engine.cancel(dice.choice(crowd))
        engine.step()
    assert [one.text for one in submitted] == alone
    assert {one.finish for one in crowd} > {"cancelled"}


def test_streamed_text_is_the_whole_text(loaded):
    model, tokenizer = loaded
    for prompt, settings in requests(10):
        given = dataclasses.asdict(settings)
        for name in ("prompt", "num_samples"):
            given.pop(name)
        engine = Engine(Decoder(model), tokenizer)
        text = finished(engine, [engine.submit(prompt, settings)])[0].text
        assert "".join(stream(model, tokenizer, prompt, **given)) == text
        assert generate(model, tokenizer, prompt, **given) == text


def test_a_request_that_arrives_gets_its_first_token_in_the_next_step(loaded):
    model, tokenizer = loaded
    engine = Engine(Decoder(model, slots=2), tokenizer)
    first = engine.submit("the cat", SampleConfig(max_tokens=40))
    for _ in range(5):
        engine.step()
    second = engine.submit("a dog", SampleConfig(max_tokens=3))
    engine.step()
    assert (len(first.picked), len(second.picked)) == (6, 1)
    assert first.finish is None


def test_one_that_ends_makes_place_for_one_that_waits(loaded):
    model, tokenizer = loaded
    engine = Engine(Decoder(model, slots=2), tokenizer)
    texts = [engine.submit("the", SampleConfig(max_tokens=n)) for n in (3, 9, 4)]
    for _ in range(4):
        engine.step()
    assert [len(text.picked) for text in texts] == [3, 3, 1]
    assert texts[0].finish == "length"


class Counting(Decoder):
    """Counts the tokens of prompts that are read."""

    read = 0

    def prefill(self, slot, ids, start=0):
        self.read += len(ids)
        return super().prefill(slot, ids, start)


def test_what_prompts_have_in_common_is_read_once(loaded):
    model, tokenizer = loaded
    decoder = Counting(model, slots=8)
    engine, prompt = Engine(decoder, tokenizer), "the cat sat under the tree and then"
    ids = tokenizer.encode(prompt)
    texts = [engine.submit(prompt, SampleConfig(max_tokens=5), seed=seed) for seed in range(8)]
    finished(engine, texts)
    assert decoder.read == len(ids) + 7  # of the others the last alone, for its logits
    assert len({text.text for text in texts}) > 4
    for seed, text in enumerate(texts):
        assert text.text == generate(model, tokenizer, prompt, max_tokens=5, seed=seed)
    decoder.read = 0
    longer = engine.submit([*ids, texts[0].picked[0].token, 65, 66], SampleConfig(max_tokens=2))
    finished(engine, [longer])
    assert decoder.read <= 2
    engine.forget()
    decoder.read = 0
    finished(engine, [engine.submit(prompt, SampleConfig(max_tokens=2))])
    assert decoder.read == len(ids)


@pytest.mark.parametrize("length", [0, 1, 47, 48, 49, 480])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_prompts_of_any_length_go_on(loaded, oracle, length, packed):
    model, tokenizer = loaded
    prompt = ("the cat sat on a mat " * 60)[:length]
    ids = tokenizer.encode(prompt)
    settings = SampleConfig(max_tokens=70, greedy=True)
    engine = Engine(Decoder(model) if packed else Plain(model), tokenizer)
    (text,) = finished(engine, [engine.submit(prompt, settings)])
    assert not partings(oracle, tokenizer, [text], [(prompt, settings)])
    assert text.slid == (len(ids) + 69 > 48)


def test_a_full_context_may_end_the_text(loaded):
    model, tokenizer = loaded
    for prompt, drawn in (("the cat", 45), ("the " * 60, 1)):
        engine = Engine(Decoder(model), tokenizer)
        settings = SampleConfig(max_tokens=100, on_full="stop")
        (text,) = finished(engine, [engine.submit(prompt, settings)])
        assert text.finish == "full"
        begun = min(48, len(tokenizer.encode(prompt)))
        assert len(text.picked) == 48 - begun + 1
        assert abs(len(text.picked) - drawn) <= 3


def test_a_text_ends_at_an_end_of_text_a_stop_string_or_its_length():
    ends = Engine(Decoder(biased(26)), TOKENIZER)
    (text,) = finished(ends, [ends.submit("ab", SampleConfig())])
    assert (text.text, text.finish, len(text.picked)) == ("", "stop", 1)
    engine = Engine(Decoder(biased(3)), TOKENIZER)
    (text,) = finished(engine, [engine.submit("ab", SampleConfig(max_tokens=4))])
    assert (text.text, text.finish) == ("dddd", "length")
    (text,) = finished(engine, [engine.submit("ab", SampleConfig(stop=("ddd",)))])
    assert (text.text, text.finish, len(text.picked)) == ("", "stop", 3)
    (text,) = finished(engine, [engine.submit("ab", SampleConfig(max_tokens=3, stop=("dddx",)))])
    assert (text.text, text.finish) == ("ddd", "length")
    (text,) = finished(engine, [engine.submit("ab", SampleConfig(max_tokens=9), ends=[3])])
    assert (text.text, text.finish) == ("", "stop")


def test_texts_in_a_room_that_grows_are_the_texts(loaded, oracle, monkeypatch):
    monkeypatch.setattr(decoder_module, "FIRST_ROOM", 4)
    monkeypatch.setattr(decoder_module, "READ_AT_ONCE", 3)
    asked = requests(20)
    engine = Engine(Decoder(loaded[0], slots=3), loaded[1])
    texts = finished(engine, [engine.submit(*request) for request in asked])
    assert not partings(oracle, loaded[1], texts, asked)


@pytest.mark.parametrize("size", [1, 2])
def test_a_prefix_that_leaves_no_room_is_refused(size):
    model, tokenizer = GPT(tiny(block_size=size)), char_tokenizer([chr(97 + i) for i in range(28)])
    tokenizer.prefix = [7] * size
    with pytest.raises(
        UserError, match=f"puts {size} tokens before a text and the model sees {size}"
    ):
        Engine(Plain(model), tokenizer)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 3])
def test_the_shortest_contexts_work(size, slots):
    torch.manual_seed(0)
    model = GPT(tiny(block_size=size)).eval()
    engine = Engine(Decoder(model, slots=slots), TOKENIZER)
    asked = [(text, SampleConfig(max_tokens=9, greedy=True)) for text in ("", "a", "ab", "abcabc")]
    texts = finished(engine, [engine.submit(*request) for request in asked])
    alone = functools.partial(uncached, model, TOKENIZER)
    assert not partings(lambda *one: list(alone(*one)), TOKENIZER, texts, asked)


def test_bias_and_bans_reach_the_draw():
    engine = Engine(Decoder(biased(3)), TOKENIZER)
    settings = SampleConfig(max_tokens=3, greedy=True)
    (text,) = finished(engine, [engine.submit("ab", settings, banned=[3], bias={5: 100.0})])
    assert text.text == "fff"


def test_probabilities_are_those_of_the_model(loaded):
    model, tokenizer = loaded
    engine = Engine(Decoder(model), tokenizer)
    settings = SampleConfig(max_tokens=8, temperature=2.0, repetition_penalty=2.0)
    (text,) = finished(engine, [engine.submit("the cat", settings, top=3)])
    with torch.no_grad():
        logits = model(torch.tensor([text.ids[:-1]]))[0].log_softmax(dim=-1)
    for place, picked in enumerate(text.picked, start=text.prompt_length - 1):
        assert picked.log_probability == pytest.approx(logits[place, picked.token].item(), abs=1e-4)
        found = [token for token, _ in picked.top]
        assert found == logits[place].topk(3).indices.tolist()


def test_a_cancelled_text_is_not_written_on_and_its_place_is_free(loaded):
    model, tokenizer = loaded
    engine = Engine(Decoder(model, slots=1), tokenizer)
    first, second = (engine.submit("the", SampleConfig(max_tokens=30)) for _ in range(2))
    engine.step()
    engine.cancel(first)
    assert not engine.live
    engine.step()
    assert (len(first.picked), first.finish, len(second.picked)) == (1, "cancelled", 1)
    engine.cancel(second)
    third = engine.submit("the", SampleConfig(max_tokens=30))
    engine.cancel(third)
    assert not engine.waiting
    assert engine.step() == []
    engine.cancel(third)


def test_a_text_that_nobody_reads_on_is_cancelled(loaded):
    model, tokenizer = loaded
    engine = Engine(Decoder(model), tokenizer)
    text = engine.submit("the", SampleConfig(max_tokens=30))
    pieces = engine.run(text)
    next(pieces)
    pieces.close()
    assert text.finish == "cancelled"
    assert not engine.live


def test_draws_are_shared_out_evenly():
    draws = np.array([draw_at(seed, place) for seed in range(50) for place in range(200)])
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # 19 degrees of freedom, one in a thousand
