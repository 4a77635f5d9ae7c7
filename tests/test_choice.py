import numpy as np
import pytest
import torch

from minigpt.errors import UserError
from minigpt.evaluate import choice
from minigpt.evaluate.choice import answer, as_table, encode_pair, measure_tasks, row_of, score
from minigpt.evaluate.tasks import Item, Task, item_of
from minigpt.inference.decoder import Decoder
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import SWITCHES
from .test_transformer import model

TOKENIZER = bpe_tokenizer([(97, 32), (98, 97), (99, 97), (116, 32)])
CONTEXTS = ["a cat ", "the dog ran under the tree and", "ba", "", "the mat that was under the dog"]
CHOICES = ["sat on a mat", "ran", "t", "is on the cat", "ran on"]


def items() -> list[Item]:
    made = [{"context": c, "choices": CHOICES[: 2 + i % 4], "answer": 0} for i, c in enumerate(CONTEXTS)]  # fmt: skip
    return [item_of(record, f"line {i}") for i, record in enumerate(made, 1)]


def tiny_model(name: str = "llama", **switches):
    shape = {"vocab_size": TOKENIZER.vocab_size, "block_size": 32} | switches
    return model(**(SWITCHES[name] | shape)).eval()


@torch.no_grad()
def slowly(ours, context: str, rest: str) -> float:
    """Return the log-likelihood of one text after another, token by token."""
    before, after = encode_pair(TOKENIZER, context, rest)
    ids, total = before + after, 0.0
    for place in range(len(before), len(ids)):
        # As lm_eval cuts what is too long: all tokens of the choice are foretold from the same window.
        seen = ids[max(0, len(ids) - 1 - ours.config.block_size) : place]
        total += ours(torch.tensor([seen]))[0, -1].log_softmax(-1)[ids[place]].item()
    return total


@pytest.mark.parametrize("name", SWITCHES)
def test_rows_with_a_common_stem_score_as_each_text_alone(name):
    ours = tiny_model(name)
    found, whole = score(Decoder(ours), TOKENIZER, items()), score(ours, TOKENIZER, items())
    for item, a, b in zip(items(), found, whole, strict=True):
        wanted = [slowly(ours, *pair) for pair in item.pairs]
        np.testing.assert_allclose(a, wanted, atol=2e-5)
        np.testing.assert_allclose(b, wanted, atol=2e-5)


def test_what_is_too_long_loses_its_beginning():
    ours = tiny_model(block_size=14)
    pairs = [encode_pair(TOKENIZER, *pair) for item in items() for pair in item.pairs]
    assert any(len(before) + len(after) > 15 for before, after in pairs)
    for item, found in zip(items(), score(Decoder(ours), TOKENIZER, items()), strict=True):
        np.testing.assert_allclose(found, [slowly(ours, *pair) for pair in item.pairs], atol=2e-5)


def test_batches_do_not_change_a_score(monkeypatch):
    reader = Decoder(tiny_model())
    together = score(reader, TOKENIZER, items())
    monkeypatch.setattr(choice, "TOKENS_AT_ONCE", {"cpu": 1})
    for a, b in zip(together, score(reader, TOKENIZER, items()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_common_stem_is_read_once():
    texts = [choice.Scored([1, 2, 3, i], [i, 9]) for i in (4, 5)]
    row = row_of([*texts, choice.Scored([1, 2, 3, 4], [4, 8])])
    assert row.ids == [1, 2, 3, 4, 5]
    assert row.places == [0, 1, 2, 3, 3]
    assert row.branches == [0, 0, 0, 1, 2]
    assert row.asked == [[2, 3], [2, 4], [2, 3]]
    # Cut from the left, texts have no beginning in common.
    assert row_of([choice.Scored([1, 2], [2]), choice.Scored([2, 1], [1])]).places == [0, 1, 0, 1]


def test_spaces_at_the_end_of_a_context_belong_to_the_choice():
    assert encode_pair(TOKENIZER, "a ", "b") == encode_pair(TOKENIZER, "a", " b")
    assert encode_pair(TOKENIZER, "b", " a ") == (TOKENIZER.encode("b"), TOKENIZER.encode(" a "))
    assert encode_pair(TOKENIZER, "", "b") == ([TOKENIZER.eos_id], TOKENIZER.encode("b"))


def test_what_two_texts_melt_into_is_cut_by_the_number_of_tokens():
    """As in lm_eval: the context keeps its own tokens, and the choice what the whole has after as many."""
    ba, b, a = (TOKENIZER.encode(text) for text in ("ba", "b", "a"))
    assert encode_pair(TOKENIZER, "ab", "ab") == (a + b, TOKENIZER.encode("abab")[2:])
    assert TOKENIZER.encode("abab")[:2] == a + ba != a + b


def test_accuracy_counts_the_likeliest_and_the_likeliest_by_its_length(monkeypatch):
    made = [Item((("a", " b"), ("a", " bcd")), (1, 3), right, "here") for right in (0, 0, 0, 1)]
    monkeypatch.setattr(choice, "score", lambda *_: [np.array([-2.0, -3.0])] * 4)
    found = answer(Decoder(tiny_model()), TOKENIZER, Task("t", made))
    assert (found.items, found.acc, found.acc_norm, found.chance) == (4, 0.75, 0.25, 0.5)
    assert found.acc_stderr == found.acc_norm_stderr == pytest.approx(0.25)


def test_choices_that_cannot_be_read_are_refused():
    ours = tiny_model()
    long = item_of({"context": "a", "choices": ["b", "c" * 40], "answer": 0}, "line 7")
    with pytest.raises(UserError, match="line 7 has a choice of 41 tokens, but the model sees 32"):
        score(ours, TOKENIZER, [long])
    melting = Item((("b", "a"), ("b", "c")), (1, 1), 0, "line 2")
    with pytest.raises(UserError, match="line 2: the choice 'a' melts into the last token"):
        score(ours, TOKENIZER, [melting])
    letters = char_tokenizer("abc q", ends=False)
    with pytest.raises(UserError, match=r"line 3: .*'é'"):
        score(ours, letters, [Item((("a", " é"), ("a", " b")), (1, 1), 0, "line 3")])
    with pytest.raises(UserError, match="line 4 has no context, and the tokenizer has no token"):
        score(ours, letters, [Item((("", " a"), ("", " b")), (1, 1), 0, "line 4")])


def test_weights_that_are_not_numbers_are_refused():
    ours = tiny_model()
    torch.nn.init.constant_(ours.norm.weight, float("nan"))
    with pytest.raises(UserError, match="line 1 has the log-likelihood nan"):
        answer(Decoder(ours), TOKENIZER, Task("t", items()))


def test_a_run_prefers_what_it_was_trained_on(trained, tmp_path):
    records = [
        {"context": "the cat sat on", "choices": [a, b], "answer": a}
        for a in ("the mat", "a dog", "under the tree")
        for b in ("zzz qqq", "#!?", "xylophone")
    ]
    made = [item_of(r, f"line {i}") for i, r in enumerate(records, 1)]
    found = measure_tasks(trained, [Task("mine", made)])["mine"]
    assert found["items"] == 9
    assert found["acc"] == 1.0
    assert found["acc_stderr"] == 0.0
    assert measure_tasks(trained, [Task("mine", made)], precision="bf16")["mine"]["acc"] == 1.0


def test_a_single_item_has_no_standard_error():
    found = answer(Decoder(tiny_model()), TOKENIZER, Task("t", items()[:1]))
    assert found.acc_stderr is None
    lines = as_table("runs/a", {"t": vars(found)}).splitlines()
    assert lines[0].split() == [
        "runs/a",
        "items",
        "accuracy",
        "by",
        "length",
        "guessing",
        "seconds",
    ]
    assert lines[1].split()[:2] == ["t", "1"]
    assert "±" not in lines[1]
