import pytest
import regex

from minigpt.tokenizer.patterns import PATTERNS


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("gpt2", ["I", "'ll", " pay", " 1234", "  ", " EUR", "!!", "\n", "\n", "ok"]),
        ("qwen2", ["I", "'ll", " pay", " ", "1", "2", "3", "4", "  ", " EUR", "!!\n\n", "ok"]),
    ],
)
def test_words_are_cut_as_published(pattern, words):
    assert regex.findall(PATTERNS[pattern], "I'll pay 1234   EUR!!\n\nok") == words
