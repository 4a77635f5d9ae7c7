import random

import pytest

from minigpt.inference.stopping import StoppingText, open_at_end
from minigpt.tokenizer import bpe_tokenizer

BYTES = bpe_tokenizer([])


def pieces(text: str, stops: list[str]) -> tuple[list[str], bool]:
    """Return the pieces of a text that comes byte by byte, up to a stop string, and whether there was one."""
    stream, found = StoppingText(BYTES.stream(), stops), []
    for token in BYTES.encode(text):
        found.append(stream.push(token))
        if stream.stopped:
            return found, True
    found.append(stream.finish())
    return found, stream.stopped


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("ababac", ["abac"], "ab"),
        ("one", ["two"], "one"),
        ("one tw", ["two"], "one tw"),
        ("two", ["two"], ""),
        ("a🙂b", ["🙂"], "a"),
        ("a🙃b", ["🙂"], "a🙃b"),
        ("\n\nUser:", ["\nUser:", "\n\n\n"], "\n"),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text, stops, left):
    found, stopped = pieces(text, stops)
    assert "".join(found) == left
    assert stopped == (left != text)


def test_nothing_is_held_back_that_cannot_be_a_stop_string():
    assert pieces("abc", [])[0] == ["a", "b", "c", ""]
    assert pieces("abxc", ["bc"])[0] == ["a", "", "bx", "c", ""]


def test_any_text_with_any_stops_ends_where_the_whole_would_be_cut():
    dice = random.Random(0)
    for _ in range(2000):
        text = "".join(dice.choices("ab", k=dice.randrange(12)))
        stops = [
            "".join(dice.choices("ab", k=dice.randint(1, 4))) for _ in range(dice.randint(1, 3))
        ]
        places = [text.find(stop) for stop in stops if stop in text]
        # The first to be whole ends the text; of those that get whole together, the longest.
        whole = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
        found, stopped = pieces(text, stops)
        assert stopped == bool(places)
        if stopped:
            ending = [len(stop) for stop in stops if text[:whole].endswith(stop)]
            assert "".join(found) == text[: whole - max(ending)]
        else:
            assert "".join(found) == text


def test_what_may_be_the_beginning_of_a_stop_string():
    assert open_at_end("", "stop") == 0
    assert open_at_end("st", "stop") == 2
    assert open_at_end("sts", "stop") == 1
    assert open_at_end("xsto", "stop") == 3
