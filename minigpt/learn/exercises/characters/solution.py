"""Text in, a number for each character out, and back."""


class Characters:
    """A tokenizer whose tokens are the characters of a text.

    Attributes:
        vocab_size: how many there are.
    """

    def __init__(self, text: str) -> None:
        """Take the alphabet from a text: its distinct characters in the order of their code points."""
        self.alphabet = sorted(set(text))
        self.ids = {character: number for number, character in enumerate(self.alphabet)}
        self.vocab_size = len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        """Return the id of each character.

        Raises:
            ValueError: a character is not in the alphabet; the message names it.
        """
        for character in text:
            if character not in self.ids:
                raise ValueError(f"{character!r} is not in the alphabet")
        return [self.ids[character] for character in text]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        return "".join(self.alphabet[number] for number in ids)
