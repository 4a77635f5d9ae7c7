"""Texts in, a new tokenizer out, with a moving bar: characters, or merges learnt by `trainer.py` or the library."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from minigpt.data.corpora import read_pieces
from minigpt.data.formats import Piece, utf8_size
from minigpt.data.sources import Source
from minigpt.data.split import Place, after, limited
from minigpt.errors import UserError
from minigpt.progress import Report, bar
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.patterns import CHAT_TOKENS
from minigpt.tokenizer.trainer import count_pieces, library_merges, train_merges

Say = Callable[[str], None]
Engine = Literal["own", "tokenizers"]


def train_tokenizer(
    source: Source,
    *,
    kind: Literal["bpe", "char"] = "bpe",
    vocab_size: int = 4096,
    engine: Engine = "own",
    limit_bytes: int = 0,
    say: Say = lambda line: None,
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return a tokenizer learnt from a source, and how it was made: engine, source, bytes read.

    Args:
        source: with one part where there is a limit.
        kind: characters or byte-level BPE.
        vocab_size: ids of a BPE, special tokens included.
        engine: as `learn_bpe`.
        limit_bytes: of text, read at most; 0: all.
        say: called with what a person should know.
    """
    pieces = read_pieces(source)
    read = end = Place()  # of what was read, and of what was taken of it

    def counted() -> Iterator[Piece]:
        nonlocal read
        for piece in pieces:
            read = after(read, piece)
            yield piece

    def texts() -> Iterator[str]:
        nonlocal end
        for piece in limited(counted(), end, 0, limit_bytes):
            yield piece[1]
            end = after(end, piece)

    characters = kind == "char"
    tokenizer = (
        learn_characters(texts())
        if characters
        else learn_bpe(texts(), vocab_size, say, engine=engine)
    )
    if end.byte == 0:
        raise UserError(f"{source.name} holds no text; pass a source with some")
    if read.byte > end.byte or next(pieces, None):
        say(f"read the first {end.byte:,} bytes of {source.name} (--limit-bytes {limit_bytes})")
    facts = {"kind": kind, "source": source.name, "bytes": end.byte}
    return tokenizer, facts | ({"engine": engine} if kind == "bpe" else {})


def learn_characters(texts: Iterable[str], size: int | None = None) -> Tokenizer:
    """Return a tokenizer of every character of the texts; `size`: their bytes, for the bar."""
    characters: set[str] = set()
    with bar("collecting characters", size) as report:
        for text in _counted(texts, report):
            characters.update(text)
    return char_tokenizer(sorted(characters))


def learn_bpe(
    texts: Iterable[str],
    vocab_size: int,
    say: Say,
    *,
    engine: Engine = "own",
    size: int | None = None,
) -> Tokenizer:
    """Return a BPE tokenizer with up to `vocab_size` ids, learnt from the texts.

    Args:
        texts: of any number; read once.
        vocab_size: special tokens included.
        say: called with what a person should know.
        engine: who learns the merges: `trainer.py`, or the `tokenizers` library.
        size: bytes of the texts, for the bar.
    """
    count = vocab_size - 256 - len(CHAT_TOKENS) - 1
    with bar("counting words", size) as report:
        if engine == "tokenizers":
            merges = library_merges(_counted(texts, report), count)
        else:
            words = count_pieces(_counted(texts, report))
    if engine == "own":
        with bar("learning merges", count, "merges") as report:
            merges = train_merges(words, count, report)
    tokenizer = bpe_tokenizer(merges)
    if tokenizer.vocab_size < vocab_size:
        say(
            f"the text repeats too little for {vocab_size:,} tokens: the tokenizer has "
            f"{tokenizer.vocab_size:,}"
        )
    return tokenizer


def _counted(texts: Iterable[str], report: Report) -> Iterator[str]:
    done = 0
    for text in texts:
        yield text
        done += utf8_size(text)
        report(done)
