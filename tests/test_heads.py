import math

import pytest
import torch

from minigpt.config import ModelConfig
from minigpt.inside import heads
from minigpt.inside.trace import trace
from minigpt.model.transformer import GPT
from minigpt.tokenizer import char_tokenizer

from .conftest import SWITCHES, tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
TOKENIZER = char_tokenizer(LETTERS[:28])  # 29 ids
VOCAB, PLACES = 29, 32


def handmade() -> GPT:
    """Return a model whose heads are set by hand.

    Layer 0: previous token, first token, current token. Layer 1: induction by way of what the first head of layer 0 has
    written down, earlier occurrences of the same token by way of the same, and a head that looks everywhere alike.
    """
    shape = ModelConfig(
        vocab_size=VOCAB, block_size=PLACES, n_layer=2, n_head=3, head_dim=PLACES, n_embd=2 * VOCAB + PLACES,
        position="learned", tie_embeddings=False,
    )  # fmt: skip
    model = GPT(shape)
    token, place, copy = slice(0, VOCAB), slice(VOCAB, VOCAB + PLACES), slice(VOCAB + PLACES, None)
    sharp, tokens, places = 10.0, torch.eye(VOCAB), torch.eye(PLACES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        model.embedding.weight[:, token] = tokens
        model.position_embedding.weight[:, place] = places
        first, second = (block.attention for block in model.blocks)
        previous, sink, current = (slice(head * PLACES, (head + 1) * PLACES) for head in range(3))
        for head in (previous, sink, current):
            first.key.weight[head, place] = places
        first.query.weight[previous, place] = sharp * places.roll(-1, dims=0)
        first.query.weight[sink, place][0] = sharp
        first.query.weight[current, place] = sharp * places
        first.value.weight[previous, token][:VOCAB] = tokens
        first.output.weight[copy, previous] = torch.eye(VOCAB, PLACES)
        second.query.weight[previous, token][:VOCAB] = 3 * sharp * tokens
        second.key.weight[previous, copy][:VOCAB] = tokens
    return model


MADE = [[["previous"], ["first"], ["current"]], [["induction"], [], []]]


def test_heads_set_by_hand_are_named_and_the_others_are_not():
    probe = heads.run_probe(handmade(), TOKENIZER)
    assert probe.names() == MADE
    found = probe.scores
    assert found["previous"][0, 0] > 0.99
    assert found["first"][0, 1] > 0.99
    assert found["current"][0, 2] > 0.99
    assert found["induction"][1, 0] > 0.9


def test_they_do_the_same_on_a_text():
    ids = TOKENIZER.encode("the cat the cat the cat")
    found = heads.scores(trace(handmade(), ids).weights, torch.tensor(ids))
    assert found["previous"][0, 0] > 0.99
    assert found["first"][0, 1] > 0.99
    assert found["induction"][1, 0] > 0.8


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("block_size", [8, 12, 64])
def test_no_head_of_a_random_model_is_named(switches, block_size):
    for seed in range(4):
        torch.manual_seed(seed)
        probe = heads.run_probe(GPT(tiny(block_size=block_size, **switches)), TOKENIZER)
        assert probe.names() == [[[]] * 4] * 2
        assert max(of.max() for of in probe.scores.values()) < 0.45


IDS = torch.tensor([1, 2, 3, 1, 2, 4])


def one_hot(*columns: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(columns), len(columns)).float()


@pytest.mark.parametrize(
    ("pattern", "columns"),
    [
        ("previous", (0, 0, 1, 2, 3, 4)),
        ("first", (0, 0, 0, 0, 0, 0)),
        ("current", (0, 1, 2, 3, 4, 5)),
        ("same", (0, 1, 1, 0, 1, 3)),  # 3: the 1 of place 0, 4: the 2 of place 1
        ("induction", (0, 1, 1, 1, 2, 3)),  # 3: what came after the first 1, 4: after the first 2
    ],
)
def test_a_map_of_one_pattern_scores_one_on_it_and_less_on_the_others(pattern, columns):
    found = heads.scores(one_hot(*columns), IDS)
    assert found.keys() == heads.PATTERNS.keys()
    assert found[pattern] == 1
    assert all(score < 1 for name, score in found.items() if name != pattern)


def test_attention_is_shared_out_over_all_places_of_a_pattern():
    ids = torch.tensor([1, 2, 1, 3, 1])
    weights = torch.zeros(5, 5)
    weights[4] = torch.tensor([0.1, 0.2, 0.15, 0.4, 0.15])
    weights[2] = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0])
    found = heads.scores(weights, ids)
    assert found["induction"].item() == pytest.approx((0.6 + 0.3) / 2)  # row 4: after both 1s
    assert found["same"].item() == pytest.approx((0.25 + 0.5) / 2)


def test_a_text_without_a_repetition_has_no_place_for_induction():
    found = heads.scores(heads.uniform(4), torch.tensor([1, 2, 3, 4]))
    assert found.keys() == {"previous", "first", "current"}


def test_a_head_is_named_where_more_than_half_of_the_rest_goes_to_a_pattern():
    scores = {name: torch.tensor([[0.59, 0.61, 0.7]]) for name in ("first", "current")}
    scores["induction"] = torch.tensor([[0.0, 0.5, 0.9]])
    probe = heads.Probe(scores, {"first": 0.2, "current": 0.3, "induction": 0.1})
    assert probe.names() == [[[], ["first"], ["induction", "first", "current"]]]


def test_entropy_is_that_of_the_rows():
    assert heads.entropy(one_hot(0, 0, 1, 2)) == 0
    uniform = heads.entropy(heads.uniform(4)).item()
    assert uniform == pytest.approx((1 + math.log2(3) + 2) / 3)
    assert heads.entropy(torch.ones(2, 1, 1)).tolist() == [0, 0]


def test_a_probe_is_different_tokens_twice_over_behind_the_prefix():
    rows = heads.probe_ids(GPT(tiny()), TOKENIZER)
    assert rows.shape == (21, 12)
    for row in rows.tolist():
        assert row[:6] == row[6:]
        assert len(set(row)) == 6
        assert TOKENIZER.eos_id not in row


@pytest.mark.parametrize("switches", [{"block_size": 7}, {"vocab_size": 4}])
def test_without_room_for_a_probe_there_is_none(switches):
    letters = LETTERS[: switches.get("vocab_size", 29) - 1]
    assert heads.run_probe(GPT(tiny(**switches)), char_tokenizer(letters)) is None
