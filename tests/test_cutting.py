import doctest
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt.data.formats import as_pieces
from minigpt.tokenizer import bpe_tokenizer, cutting
from minigpt.tokenizer.bpe import BPE
from minigpt.tokenizer.cutting import cut_points, pieces_of
from minigpt.tokenizer.patterns import PATTERNS

# Each of these characters with any byte after it: the ids of "a." tell whether a word ends between the two.
BORDERS = [(ord(character), byte) for character in "a1 \n.!'" for byte in range(256)]
# What Unicode has not given out yet may be a letter tomorrow, and the libraries come to know of it at different times.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"])
PLACES = " \n.,;:!?。、，！？；："


# What a fixture has patched stays so from example to example, as it should.
patched_once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(cutting, "PIECE", 16)


def with_places(most: int):
    """Texts in which a word may end after so many characters at the latest."""
    inside = st.text(KNOWN | st.sampled_from("a1'" + PLACES), max_size=most - 2)
    part = st.builds("{}a{}".format, inside, st.sampled_from(PLACES))
    return st.lists(part, max_size=20).map("".join)


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(cutting)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.usefixtures("small_pieces")
def test_cuts_worked_out_by_hand():
    text = "low, lower and the lowest of all newest"
    assert pieces_of(text) == ["low, lower and", " the lowest of", " all newest"]
    assert cut_points(text) == [14, 28]
    assert pieces_of("(1), (2), (3), a. (4), (5)") == ["(1), (2), (3),", " a. (4), (5)"]
    assert pieces_of("12345 67890 1234567890") == ["12345 67890", " 1234567890"]
    assert pieces_of("🙂🙂🙂 🙂🙂🙂 🙂🙂🙂 🙂🙂🙂 🙂🙂") == ["🙂🙂🙂 🙂🙂🙂 🙂🙂🙂 🙂🙂🙂", " 🙂🙂"]
    assert pieces_of("") == [""]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("length", [15, 16, 17, 32, 33, 100])
def test_a_word_without_end_is_cut_at_the_length_of_a_piece(length):
    assert [len(piece) for piece in pieces_of("x" * length)] == [
        min(16, length - start) for start in range(0, length, 16)
    ]


@patched_once
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=with_places(8))
def test_the_pieces_are_the_text_and_their_ids_those_of_the_whole(pattern, text):
    pieces, encoder = pieces_of(text), BPE(BORDERS, pattern=pattern)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 16
    assert [i for piece in pieces for i in encoder.encode(piece)] == encoder.encode(text)


@patched_once
@pytest.mark.usefixtures("small_pieces")
@given(text=with_places(8) | st.text("ab .\n", max_size=100), data=st.data())
def test_cuts_do_not_depend_on_the_blocks_in_which_a_text_arrives(text, data):
    ends = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    blocks = [text[a:b] for a, b in pairwise([0, *ends, len(text)])]
    arrived = as_pieces((number == 0, block) for number, block in enumerate(blocks))
    assert [piece for _, piece in arrived] == (pieces_of(text) if text else [])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("unit", [" ", "\n", "\u3000", "a", "é", "!", "7", "👍"])
def test_a_run_of_300_000_is_encoded_whole(pattern, unit):
    made = bpe_tokenizer([(32, 32), (97, 97)], pattern)
    assert made.decode(made.encode(unit * 300_000)) == unit * 300_000


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_longer_than_a_piece_has_the_ids_of_the_whole(pattern):
    text = "It's 12 o'clock, 時間です。 That is noon!\n\n\t— e\u0301a: " * 8000
    assert len(text) > cutting.PIECE
    assert bpe_tokenizer(BORDERS, pattern).encode(text) == BPE(BORDERS, pattern=pattern).encode(
        text
    )
