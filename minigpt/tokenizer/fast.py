"""A `tokenizer.json` in, `Tokenizer` out: the one that everything else uses.

Ours are byte-level BPE or single characters. One of another kind (SentencePiece's, as Llama 2 and Gemma have it) is
used through the library, for models that come with it; a text to train on is cut into pieces, which it may not be.

The file is the standard one of the `tokenizers` library, so `transformers` and others read it too. Merges come from
`trainer.py`, and the ids are those of `bpe.py`; `tiktoken` computes them, several times faster than `tokenizers`, where
it can: for merges learnt in the order of their ids, on text that is cut by a pattern of `patterns.py`.
"""

import codecs
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import tiktoken
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from minigpt.errors import UserError
from minigpt.files import read_json, replace_json, replace_text
from minigpt.tokenizer.bpe import BPE, Pair
from minigpt.tokenizer.char import CharTable
from minigpt.tokenizer.checks import check_added, check_before, check_content, check_ids, refusing
from minigpt.tokenizer.content import (
    BYTE_NAMES,
    BYTES_BY_NAME,
    kind_of,
    pattern_of,
    pre_tokenizer,
    prefix_of,
)
from minigpt.tokenizer.cutting import pieces_of
from minigpt.tokenizer.patterns import CHAT_TOKENS, END_OF_TEXT, PATTERNS


class Tokenizer:
    """Text to ids and back.

    Attributes:
        kind: "bpe" (byte-level), "char", or "other".
        pieces: the bytes of each id; `len(pieces)` is `vocab_size`.
        specials: special tokens by name.
        eos_id: the id that ends a document, or None.
        prefix: the ids that a model of this tokenizer wants before a text; of ours none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos: str = END_OF_TEXT) -> None:
        self.backend = backend
        self._of_thread = threading.local()
        backend.encode_special_tokens = True  # the name of a special token in a text is just text
        backend.no_truncation()  # a file may ask for these; a text is encoded whole, and nothing else
        backend.no_padding()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        check_ids(
            vocabulary
        )  # first: the library writes its content in a time that grows with the largest id
        content = self._content = json.loads(backend.to_str())
        check_content(content, vocabulary)
        self.specials = {t["content"]: t["id"] for t in content["added_tokens"] if t["special"]}
        self.eos_id = self.specials.get(eos)
        self.prefix = prefix_of(content, vocabulary.values())
        self.pieces = [b""] * (max(vocabulary.values()) + 1)
        added = {token["content"] for token in content["added_tokens"]}
        self.kind, to_bytes = kind_of(content)
        if self.kind == "char":
            self._table = CharTable({n: i for n, i in vocabulary.items() if n not in added})
        try:
            for name, index in vocabulary.items():
                whole = name in self.specials or (name in added and self.kind != "other")
                self.pieces[index] = name.encode() if whole else to_bytes(name)
        except KeyError as error:
            raise UserError(
                f"this tokenizer.json has a piece with {error}, which stands for no byte; "
                "wanted a byte-level BPE or a character tokenizer"
            ) from None
        sample = "a" if self.kind != "char" else next((n for n in vocabulary if n not in added), "")
        ids = self._ids_by_library(sample)
        self._check_prefix(sample, ids)
        self._spaced = self.kind == "other" and self._joined(ids) == " a"

    def _check_prefix(self, sample: str, ids: list[int]) -> None:
        """Refuse a tokenizer that does not put its prefix before a text, whole and right before it."""
        wanted = self.prefix + ids
        with refusing(f"this tokenizer.json cannot encode {sample!r} with its post_processor"):
            found = self.backend.encode(sample).ids
        if found[: len(wanted)] != wanted:
            raise UserError(
                f"this tokenizer.json makes {found} of {sample!r} by its post_processor; wanted {wanted}: the text "
                "once, with special tokens before or after it"
            )

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text: what is put before one, else the one that ends it."""
        return self.prefix[0] if self.prefix else self.eos_id

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises:
            UserError: a character that the tokenizer does not know, or half a surrogate pair.
        """
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """Return the ids of `text`, (tokens,) unsigned or int64; errors as `encode`. Other threads run meanwhile."""
        if self.kind == "char":
            return self._table.encode(text)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ord(text[error.start])
            raise UserError(
                f"character {error.start} of the text is U+{half:04X}, half of a surrogate pair, which "
                "is no Unicode text; remove it"
            ) from None
        encoding = self._threads_encoding()
        if encoding is None:
            return np.array(self._ids_by_library(text), dtype=np.int64)
        parts = [encoding.encode_to_numpy(p, disallowed_special=()) for p in pieces_of(text)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _ids_by_library(self, text: str) -> list[int]:
        with refusing(f"this tokenizer cannot encode the text that begins with {text[:20]!r}"):
            return self.backend.encode(text, add_special_tokens=False).ids

    def _threads_encoding(self) -> tiktoken.Encoding | None:
        """Return this thread's own `tiktoken` encoding: two threads that share one slow each other down to half."""
        if self.bulk is None:
            return None
        if not hasattr(self._of_thread, "encoding"):
            self._of_thread.encoding = tiktoken.Encoding(**self.bulk)
        return self._of_thread.encoding

    @cached_property
    def bulk(self) -> dict[str, Any] | None:
        """What `tiktoken.Encoding` is made from to be the same BPE, or None where it could give other ids."""
        pattern = pattern_of(self._content)
        if self.kind != "bpe" or pattern is None:
            return None
        added = {token["content"] for token in self._content["added_tokens"]}
        vocabulary = {n: i for n, i in self._content["model"]["vocab"].items() if n not in added}
        made = ["".join(merge) for merge in self._content["model"]["merges"]]
        # To tiktoken a lower id is an earlier merge, each piece but the bytes comes from one, and any two neighbours
        # that make up a piece become it, whatever the merges say: so those must lead to it as well.
        if vocabulary.keys() != {*BYTES_BY_NAME, *made}:
            return None
        if any(vocabulary[b] <= vocabulary[a] for a, b in pairwise(made)):
            return None
        if any(len(self.backend.model.tokenize(name)) > 1 for name in made):
            return None
        first = self.eos_id if self.eos_id is not None else len(self.pieces)
        return {
            "name": "minigpt",
            "pat_str": PATTERNS[pattern],
            "mergeable_ranks": {self.pieces[i]: i for i in vocabulary.values()},
            "special_tokens": {END_OF_TEXT: first},
        }

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, special tokens by name; broken UTF-8 becomes U+FFFD."""
        text = self._joined(ids)
        # Of another kind the first piece of a text may bring a space of its own.
        return text.removeprefix(" ") if self._spaced else text

    def _joined(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def stream(self) -> "TextStream":
        """Return a decoder that takes one id at a time and never shows half a character."""
        return TextStream(self.pieces)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the tokenizer's content: equal for equal ids, that of the end of a text among them."""
        return hashlib.sha256(f"{self.backend.to_str()}\n{self.eos_id}".encode()).hexdigest()

    def save(self, folder: Path | str, facts: dict[str, Any] | None = None) -> None:
        """Write `tokenizer.json` and what `transformers` needs beside it into `folder`.

        Args:
            folder: must be there.
            facts: how the tokenizer was made, kept under `minigpt` of `tokenizer_config.json`.
        """
        folder = Path(folder)
        begin, end = (
            None if i is None else self.pieces[i].decode() for i in (self.bos_id, self.eos_id)
        )
        # Without the class, a directory with a GPT-2 or Qwen3 config.json gets that family's tokenizer class, which
        # reads a character tokenizer wrongly.
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": begin,
            "eos_token": end,
            "pad_token": end,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",  # prompts of a batch end together
        } | ({"minigpt": facts} if facts else {})
        replace_json(folder / "tokenizer_config.json", settings)
        # Last: whoever finds it may rely on the other.
        replace_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Return the tokenizer in a folder or in a `tokenizer.json`.

        Raises:
            UserError: there is none, it is damaged, or its ids could be other than those of the library.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError(
                f"there is no tokenizer at {path}; pass a tokenizer.json or a folder that holds one"
            )
        content = read_json(file)
        check_before(content)
        with refusing(f"{file} is not a whole tokenizer.json"):
            backend = tokenizers.Tokenizer.from_file(str(file))
        made = cls(backend, _end_named_in(file.with_name("tokenizer_config.json")))
        check_added(content.get("added_tokens"), backend.get_vocab(with_added_tokens=True))
        return made


class TextStream:
    """Ids in one at a time, text out as soon as its characters are whole."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the text that `token` completes; empty while a character is still open."""
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        """Return what is left; a character that never got whole becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


def bpe_tokenizer(merges: Sequence[Pair], pattern: str = "gpt2") -> Tokenizer:
    """Return the tokenizer of these merges, with the end-of-text and the chat tokens reserved."""
    specials = (END_OF_TEXT, *CHAT_TOKENS)
    oracle = BPE(merges, pattern=pattern)
    names = ["".join(BYTE_NAMES[byte] for byte in piece) for piece in oracle.pieces]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[(names[left], names[right]) for left, right in merges],
        )
    )
    backend.pre_tokenizer = pre_tokenizer(pattern)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return Tokenizer(backend)


def char_tokenizer(characters: Sequence[str], *, ends: bool = True) -> Tokenizer:
    """Return the tokenizer in which each of these characters is a token; end-of-text comes last where a text `ends`."""
    assert len(set(characters)) == len(characters), "a character would have several ids"
    backend = tokenizers.Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)] if ends else [])
    return Tokenizer(backend)


def _end_named_in(file: Path) -> str:
    """Return the name of the token that ends a text from a `tokenizer_config.json`, which need not be there."""
    eos = read_json(file).get("eos_token") if os.path.exists(file) else None
    name = eos.get("content") if isinstance(eos, dict) else END_OF_TEXT if eos is None else eos
    if not isinstance(name, str):
        raise UserError(
            f"{file} has an eos_token without a name; wanted the name of a special token, or null for {END_OF_TEXT}"
        )
    return name
