"""Prepared tokens by name in, `Tokens` out: a folder that `prepare` wrote, the cache, or files of other programs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.config import DataConfig
from minigpt.data import shards
from minigpt.data.foreign import foreign_files, open_foreign
from minigpt.data.formats import Piece
from minigpt.data.shards import MANIFEST, PLAN, SPLITS, TokenSequence
from minigpt.errors import UserError
from minigpt.files import cache_folder, place_of
from minigpt.tokenizer import Tokenizer, find_tokenizer


@dataclass(frozen=True)
class Tokens:
    """A text as tokens, ready for training.

    Attributes:
        train, val: (tokens,), on the disk; val is the held-out part.
        facts: fingerprint, source, counts of documents and characters; what `data.json` records.
    """

    tokenizer: Tokenizer
    train: TokenSequence
    val: TokenSequence
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of text, tokenizer and split."""
        return self.facts["fingerprint"]


def open_ready(config: DataConfig) -> Tokens | None:
    """Return the tokens of a source that is tokens already: a prepared folder, or files of another program."""
    prepared = open_folder(config)
    return open_files(config) if prepared is None else prepared


def open_folder(config: DataConfig) -> Tokens | None:
    """Return the tokens of a source that is a folder which `prepare` wrote, or None where it is something else.

    Raises:
        UserError: it is not whole, or was prepared with another tokenizer than the settings name.
    """
    folder = place_of(config.source)
    if folder is None:
        return None
    if shards.is_token_folder(folder, MANIFEST):
        tokens = open_prepared(folder)
        named = config.tokenizer not in ("bpe", "char")
        if named and find_tokenizer(config.tokenizer).fingerprint() != tokens.facts["tokenizer"]:
            raise UserError(
                f"{folder} was prepared with another tokenizer than {config.tokenizer}; leave data.tokenizer out, or "
                f"prepare the text again with --tokenizer {config.tokenizer}"
            )
        return tokens
    if shards.is_token_folder(folder, PLAN):
        raise UserError(
            f"{folder} is not whole; run the same `minigpt prepare` again, and it goes on from where it was"
        )
    return None


def find_files(config: DataConfig) -> list[Path]:
    """Return the files of token ids that a source is, made by another program; none where it is something else.

    Raises:
        UserError: the settings do not name the tokenizer that made them.
    """
    place = place_of(config.source)
    files = [] if place is None else foreign_files(place)
    if files and config.tokenizer in ("bpe", "char"):
        raise UserError(
            f"{config.source} holds token ids, so it takes the tokenizer that made them; pass --data.tokenizer gpt2, "
            "or the path of a tokenizer.json"
        )
    return files


def open_files(config: DataConfig) -> Tokens | None:
    """Return the tokens in files of another program, or None where the source is something else."""
    files = find_files(config)
    if not files:
        return None
    tokenizer = find_tokenizer(config.tokenizer)
    found = open_foreign(
        files,
        vocab_size=tokenizer.vocab_size,
        dtype=config.token_dtype,
        val_fraction=config.val_fraction,
    )
    facts = {
        "fingerprint": found.fingerprint,
        "source": config.source,
        "tokenizer": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
        "train": {"tokens": len(found.train)},
        "val": {"tokens": len(found.val)},
    }
    return Tokens(tokenizer, found.train, found.val, facts)


def find_prepared(fingerprint: str) -> Tokens | None:
    """Return the tokens with this fingerprint from the cache, or None where they are not kept."""
    folder = cached(fingerprint)
    return None if shards.read_manifest(folder) is None else open_prepared(folder)


def cached(fingerprint: str) -> Path:
    """Return where the cache keeps the tokens with this fingerprint."""
    return cache_folder() / "tokens" / fingerprint[:32]


def open_prepared(folder: Path) -> Tokens:
    """Return the tokens in a folder that `prepare` wrote."""
    manifest = shards.read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"{folder} holds no whole prepared tokens; run `minigpt prepare` again, and it goes on from where it was"
        )
    train, val = (
        shards.open_shards(
            folder, [s for s in manifest["shards"] if s["split"] == name], manifest["dtype"]
        )
        for name in SPLITS
    )
    facts = {key: value for key, value in manifest.items() if key != "shards"}
    return Tokens(Tokenizer.load(folder), TokenSequence(train), TokenSequence(val), facts)


def tokens_of_text(pieces: Iterable[Piece], tokenizer: Tokenizer) -> np.ndarray:
    """Return the ids of documents in pieces, with the end-of-text id between one and the next, (tokens,)."""
    dtype = shards.token_dtype(tokenizer.vocab_size)
    parts = [np.empty(0, dtype)]
    for begins, text in _documents(pieces) if tokenizer.kind == "other" else pieces:
        if begins and len(parts) > 1 and tokenizer.eos_id is not None:
            parts.append(np.array([tokenizer.eos_id], dtype))
        parts.append(tokenizer.encode_array(text).astype(dtype))
    return np.concatenate(parts)


def _documents(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield each document in one piece, for tokenizers whose ids depend on where a text is cut."""
    texts: list[str] = []
    for begins, text in pieces:
        if begins and texts:
            yield True, "".join(texts)
            texts = []
        texts.append(text)
    yield True, "".join(texts)
