"""What a `tokenizer.json` holds in, nothing out: what would give other ids or texts than the library is refused.

The library takes much that it then reads in a way of its own, and panics over some of the rest.
"""

import base64
import binascii
import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from minigpt.errors import UserError, first_line

LARGEST_ID = (
    2**24 - 1
)  # a table of all ids then takes 128 MiB; the largest known vocabularies have some 2**18
# What cuts a text into single characters; the dot leaves several newlines in one piece.
_EVERY_CHARACTER = (r"[\s\S]", "(?m:.)", "(?m).")
_BUT_NEWLINES = "."


@contextlib.contextmanager
def refusing(sentence: str) -> Generator[None]:
    """Turn what the library raises in the block into a UserError that begins with this sentence.

    It raises the bare `Exception`; over damaged content it panics, which Python does not count among those.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{sentence}: {first_line(error)}") from None


def check_before(content: dict[str, Any]) -> None:
    """Refuse the content of a file over which the library panics, or ends the whole process.

    Raises:
        UserError: pieces in the middle of a word that begin with a mark, or a damaged table of characters, which is
            base64 of the length of a trie in bytes, the trie, and UTF-8 text.
    """
    model = content.get("model")
    if mark := model.get("continuing_subword_prefix") if isinstance(model, dict) else None:
        raise UserError(
            f"this tokenizer.json has continuing_subword_prefix = {_shown(str(mark))}; wanted null, as a byte-level "
            "BPE and SentencePiece's have it"
        )
    for table in _values_of(content.get("normalizer"), "precompiled_charsmap"):
        try:
            raw = base64.b64decode(table, validate=True)
            length = int.from_bytes(raw[:4], "little")
            raw[4 + length :].decode()
            whole = 4 <= length <= len(raw) - 4
        except (TypeError, ValueError, binascii.Error):
            whole = False
        if not whole:
            raise UserError(
                "this tokenizer.json has a normalizer with a damaged precompiled_charsmap; take the file "
                "again from where it came"
            )


def check_added(tokens: Any, ids: Mapping[str, int]) -> None:
    """Refuse added tokens that have another id in the file than the library, which numbers them anew, gives them.

    Args:
        tokens: the `added_tokens` of the file.
        ids: those that the library has.
    """
    for token in tokens or ():
        name, wanted = token["content"], token["id"]
        if ids.get(name) != wanted:
            raise UserError(
                f"this tokenizer.json gives the added token {_shown(name)} the id {wanted}, but the "
                f"tokenizers library reads it as {ids.get(name)}; wanted the id in its vocabulary, "
                "else the next after the last"
            )


def check_content(content: dict[str, Any], ids: Mapping[str, int]) -> None:
    """Refuse a tokenizer that gives a text other ids each time, or that is a list of more than single characters.

    Args:
        content: a whole `tokenizer.json`, as the library writes it.
        ids: of all pieces, added ones included.

    Raises:
        UserError: the first thing that is wrong.
    """
    if dropout := content["model"].get("dropout"):
        raise UserError(
            f"this tokenizer.json has dropout = {dropout}, which gives a text other ids each time; wanted a "
            "tokenizer that is certain: set dropout to null in it"
        )
    if content["model"]["type"] == "Unigram":
        name, times = Counter(name for name, _ in content["model"]["vocab"]).most_common(1)[0]
        if times > 1:
            raise UserError(
                f"this tokenizer.json has the piece {_shown(name)} twice; wanted one id for each piece"
            )
    added = {token["content"]: token["special"] for token in content["added_tokens"]}
    if content["model"]["type"] == "WordLevel":
        _check_characters(content, ids.keys() - added.keys())
        if plain := [name for name, special in added.items() if not special]:
            raise UserError(
                f"this character tokenizer has the added token {_shown(plain[0])}, which is not special; wanted "
                "single characters, and special tokens only beside them"
            )


def check_ids(ids: Mapping[str, int]) -> None:
    """Refuse pieces, added ones included, whose ids are not one for each piece, or are too large for a table."""
    if not ids:
        raise UserError("this tokenizer.json has no pieces; wanted one that can write a text")
    name, largest = max(ids.items(), key=lambda item: item[1])
    if largest > LARGEST_ID:
        raise UserError(
            f"this tokenizer.json gives the piece {_shown(name)} the id {largest:,}; wanted ids of at most "
            f"{LARGEST_ID:,}: number its {len(ids):,} pieces from 0"
        )
    id_, times = Counter(ids.values()).most_common(1)[0]
    if times > 1:
        first, second, *_ = (_shown(name) for name, i in ids.items() if i == id_)
        raise UserError(
            f"this tokenizer.json gives {first} and {second} the same id {id_}; wanted one id for each piece"
        )


def _check_characters(content: dict[str, Any], names: set[str]) -> None:
    """Refuse a list of whole texts that is not one of single characters, for a table over those stands for it."""
    if any(len(name) != 1 for name in names):
        raise UserError(
            "this tokenizer.json knows whole words only; wanted one that can write every text"
        )
    if content["normalizer"]:
        raise UserError(
            "this character tokenizer changes text by the normalizer "
            f"{content['normalizer'].get('type')} first; wanted none: put such changes into the text"
        )
    cut = content["pre_tokenizer"] or {}
    pattern = (cut.get("pattern") or {}).get("Regex")
    single = pattern in _EVERY_CHARACTER or (pattern == _BUT_NEWLINES and "\n" not in names)
    wanted = {"type": "Split", "behavior": "Isolated", "invert": False}
    if not single or any(cut.get(key) != value for key, value in wanted.items()):
        raise UserError(
            f"this character tokenizer cuts text by the pre_tokenizer {cut.get('type')} into other than single "
            r"characters; wanted a Split by the Regex [\s\S], Isolated"
        )


def _values_of(part: Any, key: str) -> Iterator[Any]:
    """Yield every value that has this key anywhere in a part of a `tokenizer.json`."""
    parts = [part]  # no recursion: a file may be nested as deeply as Python reads
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            yield from [part[key]] if key in part else []
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _shown(name: str) -> str:
    """Return a name from a file as it may be printed: quoted, without control characters, and not endless."""
    return repr(name if len(name) <= 40 else f"{name[:40]}…")
