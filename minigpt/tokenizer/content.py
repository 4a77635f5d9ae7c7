"""The content of a `tokenizer.json` in; its kind, its prefix, its pattern, and the bytes of its pieces out."""

import json
import re
from collections.abc import Callable, Collection
from itertools import takewhile
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from minigpt.errors import UserError
from minigpt.tokenizer.patterns import PATTERNS


def kind_of(content: dict[str, Any]) -> tuple[str, Callable[[str], bytes]]:
    """Return the kind of tokenizer that a `tokenizer.json` describes, and what turns its pieces into bytes.

    Raises:
        UserError: pieces that do not add up to the text.
    """
    model, decoder = content["model"]["type"], json.dumps(content["decoder"])
    if model == "WordLevel":
        return "char", str.encode
    if model == "BPE" and "ByteLevel" in decoder:
        if "ByteLevel" not in json.dumps([content["pre_tokenizer"], content["normalizer"]]):
            raise UserError(
                "this tokenizer.json has a ByteLevel decoder, but no ByteLevel pre_tokenizer, without which characters "
                "are lost; wanted both"
            )
        return "bpe", _bytes_of
    if model in ("BPE", "Unigram") and ("Metaspace" in decoder or "\\u2581" in decoder):
        return "other", _bytes_of_sentencepiece
    raise UserError(
        f"this tokenizer.json is of type {model} with the decoder {(content['decoder'] or {}).get('type')}; wanted a "
        "byte-level BPE, single characters, or SentencePiece's with ▁ for a space"
    )


def prefix_of(content: dict[str, Any], known: Collection[int]) -> list[int]:
    """Return the ids that a `tokenizer.json` puts before every text; all must be among those `known`."""
    outer = content["post_processor"] or {}
    ids: list[int] = []
    for part in outer.get("processors", [outer]):
        if "cls" in part:  # as BERT and RoBERTa have it: a token and its id
            ids.append(part["cls"][1])
        if "single" in part:
            ids += _prefix_in(part["single"], part["special_tokens"])
    if unknown := [i for i in ids if i not in known]:
        raise UserError(
            f"this tokenizer.json puts the id {unknown[0]} before a text, but has no piece with that id; "
            "wanted the ids of special tokens in its post_processor"
        )
    return ids


def _prefix_in(template: list[dict[str, Any]], specials: dict[str, Any]) -> list[int]:
    """Return the ids of the special tokens with which a template of a post_processor begins."""
    if sum("Sequence" in item for item in template) != 1:
        raise UserError(
            "this tokenizer.json has a post_processor whose template does not hold the text once; wanted it once, "
            "with special tokens before or after it"
        )
    begin = takewhile(lambda item: "SpecialToken" in item, template)
    names = [item["SpecialToken"]["id"] for item in begin]
    if unknown := [name for name in names if name not in specials]:
        raise UserError(
            f"this tokenizer.json has {unknown[0]!r} in the template of its post_processor, but not among the "
            "special_tokens there; wanted each with its ids"
        )
    return [i for name in names for i in specials[name]["ids"]]


# What a model of `tokenizers` may do beyond merging.
_UNUSUAL = (
    "unk_token", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix",
)  # fmt: skip


def pattern_of(content: dict[str, Any]) -> str | None:
    """Return the name of the pattern that a `tokenizer.json` cuts text by, or None for one that is not in PATTERNS."""
    model = content["model"]
    if (
        any(model.get(name) for name in _UNUSUAL)
        or content["normalizer"]
        or any(not t["special"] for t in content["added_tokens"])
    ):
        return None
    for name in PATTERNS:
        sample = tokenizers.Tokenizer(models.BPE())
        sample.pre_tokenizer = pre_tokenizer(name)
        ours = json.loads(sample.to_str())["pre_tokenizer"]
        if _essence(content["pre_tokenizer"]) == _essence(ours):
            return name
    return None


def _essence(part: Any) -> Any:
    """Return a part of a `tokenizer.json` without what changes no id."""
    if isinstance(part, dict):
        return {k: _essence(v) for k, v in part.items() if k != "trim_offsets"}
    return [_essence(v) for v in part] if isinstance(part, list) else part


def pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Return what cuts text by a pattern in the `tokenizers` library."""
    if pattern == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_names() -> list[str]:
    """Return the printable character that stands for each byte in a byte-level `tokenizer.json` (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_NAMES = _byte_names()
BYTES_BY_NAME = {name: byte for byte, name in enumerate(BYTE_NAMES)}


def _bytes_of(name: str) -> bytes:
    return bytes(BYTES_BY_NAME[character] for character in name)


def _bytes_of_sentencepiece(name: str) -> bytes:
    """Return the bytes of a piece in which ▁ is a space and <0x0A> a byte (Kudo and Richardson, 2018)."""
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", name)
    return bytes.fromhex(byte[1]) if byte else name.replace("▁", " ").encode()
