import doctest

import pytest

from minigpt.errors import UserError
from minigpt.tokenizer import char


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(char) == (0, 1)


def test_each_character_gets_its_place():
    table = char.CharTable({"a": 0, "b": 1, "é": 2, "🙂": 7})
    assert table.encode("éa🙂b").tolist() == [2, 0, 7, 1]
    assert table.encode("").tolist() == []


def test_unknown_characters_are_named_not_dropped():
    table = char.CharTable({"a": 0})
    with pytest.raises(UserError, match=r"'b' \(U\+0062\), '€' \(U\+20AC\)"):
        table.encode("ab€")
    with pytest.raises(UserError, match="and 21 more"):
        table.encode("abcdefghijklmnopqrstuvwxyz1")
