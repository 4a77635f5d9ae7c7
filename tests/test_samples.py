import math

import minigpt
from minigpt.config import SampleConfig
from minigpt.inference.decoder import Decoder
from minigpt.inference.engine import Engine
from minigpt.inference.samples import Samples


def test_texts_are_handed_over_in_order_though_written_beside_each_other(trained):
    model, tokenizer = minigpt.load(trained)
    settings = SampleConfig(prompt="the cat", num_samples=5, max_tokens=12, seed=3)
    samples = Samples(Engine(Decoder(model, slots=2), tokenizer), settings)
    pieces = list(samples.pieces())
    numbers = [piece.number for piece in pieces]
    assert numbers == sorted(numbers)
    for number in range(5):
        text = "".join(piece.text for piece in pieces if piece.number == number)
        alone = minigpt.generate(model, tokenizer, "the cat", max_tokens=12, seed=3 + number)
        assert text == alone == samples.completions[number].text


def test_the_first_text_is_shown_while_it_is_written(trained):
    model, tokenizer = minigpt.load(trained)
    settings = SampleConfig(prompt="the", num_samples=2, max_tokens=9)
    samples = Samples(Engine(Decoder(model, slots=2), tokenizer), settings)
    next(samples.pieces())
    assert samples.completions[0].finish is None


def test_the_facts_are_ids_texts_probabilities_and_speed(trained):
    model, tokenizer = minigpt.load(trained)
    settings = SampleConfig(prompt="the 🙂", num_samples=2, max_tokens=7, temperature=1.5, top_k=0)
    samples = Samples(Engine(Decoder(model), tokenizer), settings, probabilities=True)
    list(samples.pieces())
    facts = samples.facts()
    assert facts["prompt_tokens"] == len(tokenizer.encode("the 🙂"))
    assert facts["tokens"] == sum(len(sample["ids"]) for sample in facts["samples"]) > 7
    assert facts["tokens_per_second"] > 0
    for seed, sample in enumerate(facts["samples"]):
        assert sample["seed"] == seed
        assert sample["text"] == "the 🙂" + sample["completion"]
        assert (
            tokenizer.decode([i for i in sample["ids"] if i != tokenizer.eos_id])
            == sample["completion"]
        )
        assert len(sample["log_probabilities"]) == len(sample["ids"])
        assert all(-math.inf < nats <= 0 for nats in sample["log_probabilities"])
        assert sample["finish"] in ("length", "stop")


def test_ever_so_many_texts_are_begun_as_there_is_place_for_them(trained):
    model, tokenizer = minigpt.load(trained)
    settings = SampleConfig(prompt="the", num_samples=10**6, max_tokens=2)
    samples = Samples(Engine(Decoder(model, slots=2), tokenizer), settings)
    pieces = samples.pieces()
    while next(pieces).number < 5:
        pass
    assert len(samples.completions) <= 9
