import random

import pytest
import torch

from minigpt.model.transformer import GPT
from minigpt.sampling import choose, draw_tokens, generate, keep_top_k, keep_top_p, stream
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import tiny
from .test_transformer import model

INF = float("inf")
TOKENIZER = char_tokenizer([chr(97 + i) for i in range(26)])


def test_top_k_keeps_exactly_k_of_equals_the_first():
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0])
    assert keep_top_k(logits, 3).tolist() == [-INF, 3.0, 2.0, 3.0, -INF]
    assert keep_top_k(logits, 5).tolist() == logits.tolist()


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.0, [1]), (0.4, [1]), (0.499, [1]), (0.6, [1, 0]), (0.85, [1, 0, 3]), (1.0, [1, 0, 3, 2])],
)
def test_top_p_keeps_the_token_that_crosses(p, kept):
    logits = torch.tensor([0.3, 0.5, 0.05, 0.15]).double().log()
    left = keep_top_p(logits, p)
    assert {i for i in range(4) if left[i] > -INF} == set(kept)


def test_the_draw_shares_out_the_interval_in_the_order_of_the_ids():
    logits = torch.tensor([0.2, 0.3, 0.5]).log()
    chosen = [choose(logits, 1.0, 0, 1.0, draw) for draw in (0.0, 0.19, 0.21, 0.49, 0.51, 0.999999)]
    assert chosen == [0, 0, 1, 1, 2, 2]


def test_frequencies_match_probabilities():
    probabilities = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])
    rng, n = random.Random(0), 20_000
    counts = torch.zeros(5)
    for _ in range(n):
        counts[choose(probabilities.log(), 1.0, 0, 1.0, rng.random())] += 1
    assert counts[2] == 0
    expected = (probabilities * n)[probabilities > 0]
    chi_square = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, one in a thousand


def test_temperature_sharpens_flattens_and_ends_in_greed():
    logits = torch.tensor([0.0, 1.0, 2.0])
    # At temperature 0.5 the odds are squared: e^0 : e^2 : e^4.
    share = 1 / (1 + torch.e**2 + torch.e**4)
    assert choose(logits, 0.5, 0, 1.0, share - 1e-6) == 0
    assert choose(logits, 0.5, 0, 1.0, share + 1e-6) == 1
    assert {choose(logits, 0.0, 0, 1.0, draw) for draw in (0.0, 0.5, 0.99)} == {2}
    assert {choose(logits, 1e-300, 0, 1.0, draw) for draw in (0.0, 0.5, 0.99)} == {2}


def test_filters_work_together():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert {choose(logits, 1.0, 2, 1.0, i / 100) for i in range(100)} == {0, 1}
    assert {choose(logits, 1.0, 3, 0.5, i / 100) for i in range(100)} == {0, 1}


@torch.no_grad()
def uncached(made, ids, count, prefix):
    """Return the greedy continuation without a cache, with the window that `draw_tokens` documents."""
    text, room = list(ids), made.config.block_size - len(prefix)
    begin = max(0, len(ids) - room)
    for _ in range(count):
        if len(text) - begin > room:
            begin = len(text) - made.config.block_size // 2 + len(prefix)
        text.append(int(made(torch.tensor([prefix + text[begin:]]))[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("length", [1, 5, 12, 20])
@pytest.mark.parametrize("prefix", [[], [7], [7, 8]], ids=len)
def test_text_past_the_context_is_that_of_the_model_without_a_cache(position, length, prefix):
    made = model(position=position)
    ids = [i % 29 for i in range(length)]
    pick = lambda logits, position: int(logits.argmax())  # noqa: E731
    drawn = draw_tokens(made, prefix + ids, pick, keep=len(prefix))
    assert [next(drawn) for _ in range(30)] == uncached(made, ids, 30, prefix)


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


def biased(token: int, vocab_size: int = 29) -> GPT:
    """Return a model that always foretells one token."""
    made = GPT(
        tiny(vocab_size=vocab_size, norm="layernorm", bias=True, tie_embeddings=False)
    ).eval()
    torch.nn.init.zeros_(made.head.weight)
    torch.nn.init.zeros_(made.norm.weight)
    torch.nn.init.ones_(made.norm.bias)
    with torch.no_grad():
        made.head.weight[token] = 1.0
    return made


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
    assert list(pieces) == ["", "\ufffd", "\ufffd"]
