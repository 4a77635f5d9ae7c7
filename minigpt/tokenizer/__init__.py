"""Text to token ids and back. Never imports torch."""

from minigpt.tokenizer.fast import TextStream, Tokenizer, bpe_tokenizer, char_tokenizer

__all__ = ["TextStream", "Tokenizer", "bpe_tokenizer", "char_tokenizer"]
