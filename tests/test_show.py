import doctest
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import UserError
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer, show
from minigpt.tokenizer.show import COLOURS, as_text, view, visible


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(show)
    assert found.attempted > 0
    assert found.failed == 0


def test_figures_worked_out_by_hand():
    # l+o is one piece, é is two bytes in two, the emoji four in four.
    assert view(bpe_tokenizer([(108, 111)]), "lo é🙂\n") == {
        "pieces": ["lo", " ", "<c3>", "<a9>", "<f0>", "<9f>", "<99>", "<82>", "⏎"],
        "ids": [256, 32, 195, 169, 240, 159, 153, 130, 10],
        "tokens": 9,
        "characters": 6,
        "bytes": 10,
        "characters_per_token": 0.667,
        "bytes_per_token": 1.111,
    }


def test_characters_are_shown_whole():
    found = view(char_tokenizer(["\n", "a", "é"]), "aé\n")
    assert (found["pieces"], found["ids"]) == (["a", "é", "⏎"], [1, 2, 0])
    assert (found["characters_per_token"], found["bytes_per_token"]) == (1, 1.333)


def test_no_text_and_unknown_characters_are_refused():
    with pytest.raises(UserError, match="the text is empty"):
        view(bpe_tokenizer([]), "")
    with pytest.raises(UserError, match=r"does not know 'b' \(U\+0062\)"):
        view(char_tokenizer(["a"]), "ab")


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (b"a\r\n\tb", "a␍⏎→b"),
        (b"\0\x1b[31m\x7f", "<U+0000><U+001B>[31m<U+007F>"),
        ("\u0085\u200b\u202e\u2028\u2029\ufeff".encode(), "<U+0085><U+200B><U+202E><U+2028><U+2029><U+FEFF>"),
        ("e\u0301 漢🙂".encode(), "e\u0301 漢🙂"),
        ("漢".encode()[1:], "<bc><a2>"),
        (b" \xf0\x9f", "<20><f0><9f>"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_made_visible(piece, shown):
    assert visible(piece) == shown


@given(piece=st.binary() | st.text().map(str.encode))
def test_nothing_reaches_a_terminal_that_could_command_it(piece):
    assert not {unicodedata.category(c) for c in visible(piece)} & {"Cc", "Cf", "Zl", "Zp", "Cs"}


SUMMARY = "5 tokens for 5 characters, 5 bytes: 1.00 characters, 1.00 bytes per token"


def test_without_colours_there_are_bars_between_pieces():
    text = as_text(view(bpe_tokenizer([]), "[b]\na"), colours=False)
    assert text.plain == f"[|b|]|⏎\n|a\n\n91 98 93 10 97\n\n{SUMMARY}"
    assert not any(span.style for span in text.spans)


def test_with_colours_neighbours_differ_and_there_are_no_bars():
    text = as_text(view(bpe_tokenizer([]), "[b]a\n"), colours=True)
    assert text.plain == f"[b]a⏎\n\n91 98 93 97 10\n\n{SUMMARY}"
    painted = [(text.plain[s.start : s.end], s.style) for s in text.spans]
    assert painted == [
        *zip("[b]a⏎", [*COLOURS, COLOURS[0]], strict=True), ("91 98 93 97 10", "dim"),
    ]  # fmt: skip
