"""A `tokenizer.json` of SentencePiece's kind in, what llama.cpp needs for the same ids out: scores and added spaces.

The file lists the pairs of pieces that are joined, the first in the list first. llama.cpp joins any two neighbours
whose text is a piece, the best score first. Joined alone, the text of a piece passes through one last pair only, and so
it does in any longer text, as long as nothing is joined across its ends. Hence the two agree if the score of each piece
is the place of its last pair, and no piece is left in two parts.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from minigpt.errors import UserError

SPACE = "▁"  # U+2581, which stands for a space in SentencePiece
INSTEAD = "export it with --to hf instead"
BYTE = re.compile("<0x[0-9A-F]{2}>")
_ALL_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_PREPENDED = {"type": "Prepend", "prepend": SPACE}
_REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_UNUSUAL = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")


def scores_of(texts: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """Return a score for each piece: the earlier its parts are joined the higher, 0 where they never are.

    Args:
        texts: of the pieces, special ones among them.
        merges: pairs of pieces in the order in which they are joined.

    Raises:
        UserError: llama.cpp would join what the merges keep apart.

    >>> scores_of(["a", "b", "c", "ab", "bc", "abc"], [("b", "c"), ("a", "b"), ("a", "bc")])
    [0.0, 0.0, 0.0, -2.0, -1.0, -3.0]
    """
    ranks = {(left, right): rank for rank, (left, right) in enumerate(merges, 1)}
    scores = []
    for text in texts:
        parts, rank = _join(text, ranks)
        if len(parts) == 2:
            raise UserError(
                f"the tokenizer never joins {parts[0]!r} and {parts[1]!r}, and llama.cpp would, because {text!r} is a "
                f"piece, too; {INSTEAD}"
            )
        scores.append(float(-rank) if len(parts) == 1 else 0.0)
    return scores


def _join(text: str, ranks: dict[tuple[str, str], int]) -> tuple[list[str], int]:
    """Return the parts of `text` when all merges are done, and the rank of the last one, 0 without any."""
    parts, last = [*text], 0
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, math.inf), i) for i, pair in enumerate(pairwise(parts)))
        if rank == math.inf:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        last = int(rank)
    return parts, last


def check_sentencepiece(content: dict[str, Any]) -> None:
    """Refuse a model that does more than join pieces and fall back to bytes.

    Raises:
        UserError: what it does, or lacks.
    """
    model = content["model"]
    if model["type"] != "BPE":
        raise UserError(
            f"the tokenizer is of type {model['type']}, of SentencePiece's only BPE goes into GGUF here; {INSTEAD}"
        )
    if odd := [name for name in _UNUSUAL if model.get(name)]:
        raise UserError(
            f"the tokenizer has {odd[0]} = {model[odd[0]]!r}, and llama.cpp has not; {INSTEAD}"
        )
    if not model["byte_fallback"] or not model["vocab"].keys() >= _ALL_BYTES:
        raise UserError(
            "the tokenizer has no pieces <0x00> to <0xFF> for the unknown, which llama.cpp takes for granted; "
            f"{INSTEAD}"
        )
    if any(BYTE.fullmatch(piece) for pair in model["merges"] for piece in pair):
        raise UserError(f"the tokenizer joins bytes like <0x0A>, and llama.cpp does not; {INSTEAD}")


def adds_space(content: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Return whether a space is put before a text.

    Args:
        content: of the `tokenizer.json`.
        say: is told where llama.cpp puts one and the tokenizer does not.

    Raises:
        UserError: it changes or cuts text in a way that llama.cpp does not.
    """
    changes = _steps(content["normalizer"], "normalizers")
    match changes, _steps(content["pre_tokenizer"], "pretokenizers"):
        case [_, _], [] if _PREPENDED in changes and _REPLACED in changes:
            return True
        case [one], [] if one == _REPLACED:
            return False
        case [], [
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cuts}
        ]:
            _check_cuts(content, cuts)
            return _is_prepended(content, scheme, say)
    raise UserError(
        "the tokenizer changes and cuts text otherwise than SentencePiece as llama.cpp has it "
        f"({_shown(content['normalizer'])}, {_shown(content['pre_tokenizer'])}); {INSTEAD}"
    )


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, one after the other."""
    if part is None:
        return []
    return [step for p in part[inner] for step in _steps(p, inner)] if inner in part else [part]


def _check_cuts(content: dict[str, Any], cuts: bool) -> None:
    """Refuse pieces that reach over a cut before a space: llama.cpp cuts nothing."""
    made = ("".join(pair) for pair in content["model"]["merges"])
    if cuts and (over := next((piece for piece in made if SPACE in piece[1:]), None)):
        raise UserError(
            f"the tokenizer cuts text at spaces, so {over!r} never comes of it, and in llama.cpp it would; {INSTEAD}"
        )


def _is_prepended(content: dict[str, Any], scheme: str, say: Callable[[str], None]) -> bool:
    if scheme == "never":
        return False
    if any(not token["special"] for token in content["added_tokens"]):
        raise UserError(
            f"the tokenizer has added tokens and puts a space before what follows one by the rule {scheme!r}, "
            f"which llama.cpp does not know; {INSTEAD}"
        )
    say(
        "llama.cpp puts a space before every text, this tokenizer not before one that begins with a space: such "
        "text gets other ids"
    )
    return True


def _shown(part: dict[str, Any] | None) -> str:
    return json.dumps(part, ensure_ascii=False)[:120]
