import pytest
import torch

from minigpt.config import SampleConfig
from minigpt.errors import UserError
from minigpt.inference.decoder import Decoder
from minigpt.inference.engine import Engine
from minigpt.inference.plain import Plain
from minigpt.inference.text import generate, stream, texts
from minigpt.sampling import draw_tokens
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .test_sampling import TOKENIZER, biased
from .test_transformer import model


def test_what_a_tokenizer_puts_before_a_text_is_seen_from_the_first_window_to_the_last():
    made, tokenizer = biased(3), char_tokenizer([chr(97 + i) for i in range(26)])
    tokenizer.prefix = [7]
    seen = []
    made.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].tolist()))
    assert generate(made, tokenizer, "b" * 20, max_tokens=40) == "d" * 40
    windows = [ids for ids in seen if len(ids) > 1]
    assert len(windows) > 4
    assert all(ids[0] == 7 and ids[1:] for ids in windows)
    generate(made, tokenizer, "", max_tokens=1)
    assert seen[-1] == [7]


def test_the_same_seed_draws_the_same_text():
    made = model()
    texts = [
        generate(made, TOKENIZER, "ab", max_tokens=30, temperature=2.0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_stream_is_the_text_in_pieces_and_leaves_the_model_as_it_was():
    made = model().train()
    pieces = list(stream(made, TOKENIZER, "ab", max_tokens=20))
    assert made.training
    assert len(pieces) > 1
    assert "".join(pieces) == generate(made, TOKENIZER, "ab", max_tokens=20)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    generate(made, TOKENIZER, "ab", max_tokens=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_end_of_text_ends_it():
    assert generate(biased(26), TOKENIZER, "ab") == ""
    assert generate(biased(3), TOKENIZER, "ab", max_tokens=4) == "dddd"


def test_padded_ids_are_never_drawn():
    assert set(generate(biased(28), TOKENIZER, "ab", max_tokens=9, temperature=0)) == {"a"}


def test_an_empty_prompt_begins_a_document():
    assert len(generate(biased(3), TOKENIZER, "", max_tokens=5)) == 5


def test_a_character_that_never_gets_whole_is_shown_at_the_end():
    made = biased("🙂".encode()[0], vocab_size=259)
    pieces = stream(made, bpe_tokenizer([]), "a", max_tokens=2, temperature=0)
    assert list(pieces) == ["", "\ufffd\ufffd"]


def test_texts_are_drawn_from_following_seeds_each_with_its_prompt():
    made, settings = model(), SampleConfig(num_samples=3, seed=5, max_tokens=9, temperature=2.0)
    wanted = [
        "ab" + generate(made, TOKENIZER, "ab", max_tokens=9, temperature=2.0, seed=seed)
        for seed in (5, 6, 7)
    ]
    assert texts(made, TOKENIZER, "ab", settings) == wanted
    assert len(set(wanted)) == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_tokens": 0}, "sample.max_tokens is 0; wanted at least 1"),
        ({"temprature": 1.0}, "unknown setting sample.temprature .did you mean 'temperature'"),
        ({"top_p": 2.0}, "sample.top_p is 2.0"),
        ({"stop": ["a", ""]}, "sample.stop is empty text"),
        ({"stop": 3}, "sample.stop is 3; wanted a list of texts"),
        ({"on_full": "halt"}, "sample.on_full is 'halt'; wanted one of slide, stop"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_drawn(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        generate(model(), TOKENIZER, "ab", **settings)
    with pytest.raises(UserError, match="does not know 'A'"):
        generate(model(), TOKENIZER, "AB")


def test_one_stop_string_need_not_stand_in_a_list():
    assert generate(biased(3), TOKENIZER, "ab", max_tokens=9, stop="ddd") == ""


@pytest.mark.parametrize("prefix", [[], [7], [7, 8]], ids=len)
@pytest.mark.parametrize("length", [1, 11, 12, 40])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_the_engine_slides_its_window_as_the_plain_loop_does(prefix, length, packed):
    made, tokenizer = model(), char_tokenizer([chr(97 + i) for i in range(28)])
    tokenizer.prefix = prefix
    engine = Engine(Decoder(made) if packed else Plain(made), tokenizer)
    prompt = "abc" * length
    text = engine.submit(prompt[:length], SampleConfig(max_tokens=30, greedy=True))
    list(engine.run(text))
    known = tokenizer.vocab_size
    pick = lambda logits, position: int(logits[:known].argmax())  # noqa: E731
    ids = prefix + tokenizer.encode(prompt[:length])
    drawn = draw_tokens(made, ids, pick, keep=len(prefix))
    assert [one.token for one in text.picked] == [next(drawn) for _ in text.picked]
