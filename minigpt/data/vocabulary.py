"""Data settings in, how many ids their tokenizer will have out, before any text is turned into tokens."""

from minigpt.config import DataConfig
from minigpt.data.corpora import is_elsewhere, open_source, read_pieces
from minigpt.data.learn import learn_characters
from minigpt.data.preparation import limits_of, reading_of
from minigpt.data.split import Place, limited
from minigpt.errors import UserError
from minigpt.tokenizer import vocabulary_size


def expected_ids(config: DataConfig) -> int:
    """Return the ids of the tokenizer that a text is to be cut with.

    A new BPE has as many as it may have, `vocab_size`; a text that repeats little gives it fewer. For a char tokenizer
    the text is read.

    Raises:
        UserError: there is no such tokenizer; or the characters are in a text that is not on this machine.
    """
    if config.tokenizer == "bpe":
        return config.vocab_size
    if config.tokenizer != "char":
        return vocabulary_size(config.tokenizer)
    if is_elsewhere(config.source):
        raise UserError(
            f"a char tokenizer has the characters of {config.source}, which would have to be fetched first; pass "
            "--model.vocab-size, or a local copy as --data"
        )
    limits = limits_of(config)
    source = open_source(config.source, reading_of(config), together=any(limits))
    pieces = limited(read_pieces(source), Place(), *limits)
    ids = learn_characters((text for _, text in pieces), source.size).vocab_size
    if ids == 1:  # the end of text
        raise UserError(f"{source.name} holds no text; pass a source with some")
    return ids
