"""Text to token ids and back. Never imports torch."""

from minigpt.tokenizer.fast import TextStream, Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.named import find_tokenizer, vocabulary_size

__all__ = [
    "TextStream",
    "Tokenizer",
    "bpe_tokenizer",
    "char_tokenizer",
    "find_tokenizer",
    "vocabulary_size",
]
