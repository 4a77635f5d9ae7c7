"""A source in; a tokenizer and the tokens of its train and held-out part out, made once and then found in the cache."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.config import DataConfig
from minigpt.data import shards
from minigpt.data.corpora import Corpus, read_corpus
from minigpt.errors import UserError
from minigpt.files import cache_folder
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.bpe import count_words
from minigpt.tokenizer.char import alphabet
from minigpt.tokenizer.patterns import CHAT_TOKENS
from minigpt.tokenizer.trainer import train_merges

FEW_DOCUMENTS = 20  # fewer than these, and the held-out part is cut by characters
FORMAT = 1  # of the cached tokens; a change of what is written here makes old ones unfindable


@dataclass(frozen=True)
class Tokens:
    """A text as tokens, ready for training.

    Attributes:
        train: (tokens,), memory-mapped.
        val: (tokens,), memory-mapped; the held-out part.
        facts: fingerprint, source, counts of documents and characters; what `data.json` records.
    """

    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of text, tokenizer and split."""
        return self.facts["fingerprint"]


def prepare(config: DataConfig, say: Callable[[str], None] = lambda line: None) -> Tokens:
    """Return the tokens of `config.source`, from the cache where the same text was prepared before.

    Args:
        config: source, tokenizer and split.
        say: called with a sentence about each step that takes time or that a person should know.

    Raises:
        UserError: nothing to read, not text, or a tokenizer that is not there or does not know the text.
    """
    corpus = read_corpus(config.source)
    for note in corpus.notes:
        say(note)
    given = None if config.tokenizer in ("bpe", "char") else Tokenizer.load(config.tokenizer)
    fingerprint = _fingerprint(corpus, config, given)
    if found := find_prepared(fingerprint):
        return found
    folder = _cached(fingerprint)
    _write(folder, corpus, config, given, fingerprint, say)
    return open_prepared(folder)


def find_prepared(fingerprint: str) -> Tokens | None:
    """Return the tokens with this fingerprint from the cache, or None where they are not kept."""
    folder = _cached(fingerprint)
    return None if shards.read_manifest(folder) is None else open_prepared(folder)


def _cached(fingerprint: str) -> Path:
    return cache_folder() / "tokens" / fingerprint[:32]


def open_prepared(folder: Path) -> Tokens:
    """Return the tokens in a folder that `prepare` wrote."""
    manifest = shards.read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} holds no prepared tokens (there is no manifest.json)")
    train, val = shards.open_tokens(folder, manifest)
    return Tokens(Tokenizer.load(folder), train, val, manifest)


def split_documents(documents: list[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """Return the documents to train on and those held out.

    From 20 documents on whole documents are held out, evenly spread; of fewer, the last `val_fraction` of all
    characters, which may cut one document in two.
    """
    if len(documents) >= FEW_DOCUMENTS:
        held_out = [
            int((i + 1) * val_fraction + 0.5) > int(i * val_fraction + 0.5)
            for i in range(len(documents))
        ]
        train = [d for d, out in zip(documents, held_out, strict=True) if not out]
        return train, [d for d, out in zip(documents, held_out, strict=True) if out]
    ends = list(accumulate(map(len, documents)))
    cut = math.floor(ends[-1] * (1 - val_fraction) + 1e-9)
    starts = [0, *ends[:-1]]
    train = [d[: max(0, cut - start)] for d, start in zip(documents, starts, strict=True)]
    val = [d[max(0, cut - start) :] for d, start in zip(documents, starts, strict=True)]
    return [d for d in train if d], [d for d in val if d]


def make_tokenizer(
    kind: str, vocab_size: int, documents: list[str], train: list[str], say: Callable[[str], None]
) -> Tokenizer:
    """Return a new tokenizer: characters from the whole text, BPE from the part to train on."""
    if kind == "char":
        return char_tokenizer(alphabet(documents))
    words = count_words(train)
    merges = train_merges(words, vocab_size - 256 - len(CHAT_TOKENS) - 1)
    tokenizer = bpe_tokenizer(merges)
    if tokenizer.vocab_size < vocab_size:
        say(
            f"the text repeats too little for {vocab_size:,} tokens: the tokenizer has "
            f"{tokenizer.vocab_size:,}"
        )
    return tokenizer


def _write(
    folder: Path,
    corpus: Corpus,
    config: DataConfig,
    given: Tokenizer | None,
    fingerprint: str,
    say: Callable[[str], None],
) -> None:
    train, val = split_documents(corpus.documents, config.val_fraction)
    if given is None:
        say(f"making a {config.tokenizer} tokenizer from {corpus.name}")
    tokenizer = given or make_tokenizer(
        config.tokenizer, config.vocab_size, corpus.documents, train, say
    )
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "source": corpus.name,
        "tokenizer": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
    }
    say(f"turning {corpus.name} into tokens")
    for split, documents in zip(shards.SPLITS, (train, val), strict=True):
        facts[split] = {
            "documents": len(documents),
            "characters": sum(map(len, documents)),
            "bytes": sum(len(document.encode()) for document in documents),
            "tokens": shards.write_tokens(
                folder, split, joined(documents, tokenizer), tokenizer.vocab_size
            ),
        }
    tokenizer.save(folder)
    shards.write_manifest(folder, tokenizer.vocab_size, facts)


def joined(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yield the ids of the documents with the end-of-text id between one and the next."""
    for index, document in enumerate(documents):
        if index and tokenizer.eos_id is not None:
            yield np.array([tokenizer.eos_id])
        yield tokenizer.encode_array(document)


def _fingerprint(corpus: Corpus, config: DataConfig, given: Tokenizer | None) -> str:
    digest = hashlib.sha256()
    for document in corpus.documents:
        content = document.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    made = (config.tokenizer, config.vocab_size if config.tokenizer == "bpe" else None)
    tokenizer = made if given is None else given.fingerprint()
    digest.update(json.dumps([FORMAT, tokenizer, config.val_fraction]).encode())
    return digest.hexdigest()
