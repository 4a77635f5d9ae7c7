"""A character tokenizer: the order of its ids, round trips, and what it refuses."""

from minigpt.learn.forms import with_article
from minigpt.learn.rules import Mistake, check


@check()
def size(module):
    """the vocabulary is the distinct characters"""
    return module.Characters("to be or not to be").vocab_size


@check()
def encoded(module):
    """ids follow the order of code points, from 0"""
    return list(module.Characters("to be").encode("to be"))


@check()
def decoded(module):
    """ids become text again"""
    return module.Characters("hello, World").decode([4, 5, 6, 6, 7])


@check()
def round_trip(module):
    """any text over the alphabet comes back as it was"""
    text = "Zwölf Boxkämpfer\n\tjagen  Viktor 🦊 e\u0301!\r\n "
    tokenizer = module.Characters(text)
    return [tokenizer.decode(tokenizer.encode(some)) for some in (text, "", " ", "r\n", text[::-1])]


@check()
def as_large_as_needed(module):
    """the largest id is the vocabulary's size less one"""
    text = "the quick brown fox"
    tokenizer = module.Characters(text)
    return tokenizer.vocab_size - max(tokenizer.encode(text))


@check()
def refuses(module):
    """an unknown character is refused with a ValueError that names it"""
    tokenizer = module.Characters("abc")
    encode = type(tokenizer).encode
    try:
        made = encode(tokenizer, "abßc")
    except ValueError as error:
        named = any(name in str(error) for name in ("ß", ascii("ß")[1:-1], "00DF"))
        return f"a ValueError that {'names' if named else 'does not name'} 'ß'"
    except Exception as error:
        return with_article(type(error).__name__)
    return f"encoded as {list(made)}"


MISTAKES = [
    Mistake(
        "order of appearance",
        """The ids follow the order in which characters first appear. Here the order of code points is asked for, which is
        the same for every text with the same characters: sorted(set(text)).""",
        {"sorted(set(text))": "list(dict.fromkeys(text))"},
    ),
    Mistake(
        "order of a set",
        """The ids do not follow the code points. A set of strings has another order in each start of Python, and a model
        that is loaded tomorrow would read gibberish: sort it.""",
        {"sorted(set(text))": "sorted(set(text), reverse=True)"},
    ),
    Mistake(
        "from one",
        """The ids begin at 1. They begin at 0 and end at V - 1, for the embedding has rows 0 to V - 1.""",
        {
            "enumerate(self.alphabet)": "enumerate(self.alphabet, 1)",
            "self.alphabet[number] for": "self.alphabet[number - 1] for",
        },
        {"enumerate(self.alphabet)": "enumerate(self.alphabet, 1)"},
    ),
    Mistake(
        "code points",
        """The ids are the code points themselves. They are to have no gaps: the place of the character in the sorted
        alphabet.""",
        {
            "[self.ids[character] for character in text]": "[ord(character) for character in text]",
            "self.alphabet[number] for": "chr(number) for",
        },
    ),
    Mistake(
        "repeated",
        """Characters that appear more than once are counted more than once. The alphabet holds each one once: set(text).""",
        {"sorted(set(text))": "sorted(text)"},
    ),
    Mistake(
        "skipped",
        """A character that is not in the alphabet is left out without a word. Whoever trains on that trains on another text
        than he believes: raise a ValueError that names it.""",
        {
            '                raise ValueError(f"{character!r} is not in the alphabet")': "                pass",
            "[self.ids[character] for character in text]": "[self.ids[c] for c in text if c in self.ids]",
        },
    ),
    Mistake(
        "another for it",
        """A character that is not in the alphabet is given the id of another one. Refuse it with a ValueError that names
        it.""",
        {
            '                raise ValueError(f"{character!r} is not in the alphabet")': "                pass",
            "[self.ids[character] for character in text]": "[self.ids.get(c, 0) for c in text]",
        },
    ),
    Mistake(
        "another error",
        """Another error than a ValueError comes out, such as the dictionary's own KeyError, or that of an assert, which
        python -O leaves out. Whoever calls encode is promised a ValueError with a sentence.""",
        {"            if character not in self.ids:\n": "            if False:\n"},
        {"raise ValueError(": "raise AssertionError("},
        {"raise ValueError(": "raise IndexError("},
        {"raise ValueError(": "raise Exception("},
    ),
    Mistake(
        "size is a method",
        """vocab_size is a method here, and a number is wanted that is there without a call: set it in __init__, or put
        @property before the method.""",
        {
            "        self.vocab_size = len(self.alphabet)\n": "",
            "    def decode(": "    def vocab_size(self):\n        return len(self.alphabet)\n\n    def decode(",
        },
    ),
    Mistake(
        "nameless",
        """The error does not say which character it was, so nobody can mend the text.""",
        {"{character!r} is not": "a character is not"},
    ),
    Mistake(
        "joined with spaces",
        """decode puts spaces between the characters. Join with nothing: "".join(…).""",
        {'"".join': '" ".join'},
    ),
    Mistake(
        "lower case",
        """The text is changed to lower case. A tokenizer gives back exactly what it was given.""",
        {
            "sorted(set(text))": "sorted(set(text.lower()))",
            "[self.ids[character] for character in text]": "[self.ids[c] for c in text.lower()]",
            "for character in text:": "for character in text.lower():",
        },
    ),
    Mistake(
        "stripped",
        """Spaces or line ends at the ends of the text are lost. A tokenizer gives back exactly what it was given.""",
        {
            "[self.ids[character] for character in text]": "[self.ids[character] for character in text.strip()]"
        },
    ),
]
