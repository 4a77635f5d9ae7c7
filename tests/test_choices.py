from minigpt.inference.picking import Picked
from minigpt.serve.choices import Choice, chat_logprobs, completion_logprobs
from minigpt.serve.worker import Update

from .serving import BYTES, LETTERS


def fed(choice: Choice, *steps: tuple[str, list[int], str | None]) -> list[tuple[str, list[int]]]:
    """Return text and tokens that each step makes known."""
    found = []
    for piece, tokens, finish in steps:
        text, scored = choice.take([Update(0, piece, [Picked(t, -1.0) for t in tokens], finish)])
        found.append((text, [one.picked.token for one in scored]))
    return found


def test_a_token_is_held_back_with_its_text():
    a, b, c = LETTERS.encode("abc")
    choice = Choice(0, LETTERS, frozenset([26]), "")
    assert fed(
        choice, ("a", [a], None), ("", [b], None), ("bc", [c], None), ("", [26], "stop")
    ) == [("a", [a]), ("", []), ("bc", [b, c]), ("", [])]
    assert (choice.text, choice.tokens, choice.finish) == ("abc", 4, "stop")


def test_tokens_of_a_stop_string_are_never_shown():
    a, b, c = LETTERS.encode("abc")
    choice = Choice(0, LETTERS, frozenset(), "")
    assert fed(choice, ("a", [a], None), ("", [b], None), ("", [c], "stop")) == [
        ("a", [a]), ("", []), ("", []),
    ]  # fmt: skip
    assert choice.tokens == 3


def test_the_bytes_of_one_character_come_together():
    tokens = list("é".encode())
    choice = Choice(0, BYTES, frozenset(), "")
    assert fed(choice, ("", tokens[:1], None), ("é", tokens[1:], None)) == [("", []), ("é", tokens)]
    found = chat_logprobs(BYTES, [])
    assert found == {"content": [], "refusal": None}


def test_places_count_from_the_beginning_of_what_is_given_back():
    choice = Choice(0, LETTERS, frozenset(), "xyz")
    _, scored = choice.take([Update(0, "ab", [Picked(0, -0.5), Picked(1, -0.25)], "length")])
    assert completion_logprobs(LETTERS, scored) == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"a": -0.5}, {"b": -0.25}],
        "text_offset": [3, 4],
    }
    assert choice.text == "xyzab"


def test_a_full_context_is_a_length_to_openai():
    choice = Choice(0, LETTERS, frozenset(), "")
    fed(choice, ("", [], "full"))
    assert choice.finish == "length"


def test_bytes_that_are_no_character_are_named_as_bytes():
    update = Update(0, "\ufffd", [Picked(0xFF, -1.0, ((0xFF, -1.0),))], "length")
    _, scored = Choice(0, BYTES, frozenset(), "").take([update])
    found = chat_logprobs(BYTES, scored)["content"][0]
    assert (found["token"], found["bytes"]) == ("bytes:\\xff", [255])
    assert found["top_logprobs"] == [{"token": "bytes:\\xff", "logprob": -1.0, "bytes": [255]}]
