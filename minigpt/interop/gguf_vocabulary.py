"""A tokenizer in, what a GGUF file says of it out: the pieces under llama.cpp's rules, so that its ids are ours.

llama.cpp knows how text is cut by name only, reads characters as one-character pieces of SentencePiece, and takes a
token for the end of a text even where a file names none.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from minigpt.errors import UserError
from minigpt.interop.gguf_sentencepiece import (
    BYTE,
    INSTEAD,
    SPACE,
    adds_space,
    check_sentencepiece,
    scores_of,
)
from minigpt.tokenizer import Tokenizer
from minigpt.tokenizer.patterns import PATTERNS

# Kinds of tokens, as llama.cpp counts them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, OF_BYTE = 1, 2, 3, 4, 5, 6
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The expressions by which text is cut, one after the other -> llama.cpp's name of them.
SPLITS = {
    (PATTERNS["gpt2"],): "gpt-2",
    (PATTERNS["qwen2"],): "qwen2",
    (_LLAMA_3,): "llama-bpe",
    (r"\p{N}", PATTERNS["gpt2"]): "smollm",
}
# The one split under which llama.cpp takes a word that is a piece without merging.
_WHOLE_WORDS_FIRST = "llama-bpe"


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer; equal ones give equal ids.

    Attributes:
        model: gpt2 for byte-level BPE, llama for pieces of SentencePiece.
        pre: llama.cpp's name of how text is cut before merging.
        tokens: each id's piece, as llama.cpp writes it.
        token_type: each id's kind.
        merges: of byte-level BPE, two pieces with a space between them, in the order in which they were learnt.
        scores: of pieces of SentencePiece, the higher the earlier a piece is made.
        bos_token_id: what begins a text; of a tokenizer that puts nothing before one, what ends it.
        eos_token_id, padding_token_id: what ends a text.
        unknown_token_id: what stands for the unknown, where there is such a piece.
        add_bos_token, add_space_prefix: what llama.cpp puts before a text, as the tokenizer does.
        add_eos_token: whether it puts something after it: never.
    """

    model: str
    pre: str
    tokens: list[str]
    token_type: list[int]
    merges: list[str]
    scores: list[float]
    bos_token_id: int
    eos_token_id: int
    padding_token_id: int
    unknown_token_id: int | None
    add_bos_token: bool
    add_space_prefix: bool
    add_eos_token: bool = False

    def settings(self) -> dict[str, Any]:
        """Return {key of the file: value}; what the model does not have is left out."""
        made = {f"tokenizer.ggml.{f.name}": getattr(self, f.name) for f in fields(self)}
        return {key: value for key, value in made.items() if value not in _NOTHING}


# What a file leaves out, and what that means.
_LEFT_OUT: dict[str, Any] = {"pre": "", "merges": [], "scores": [], "unknown_token_id": None}
_NOTHING = tuple(_LEFT_OUT.values())


@dataclass(frozen=True)
class _Rules:
    """How a tokenizer makes ids of a text.

    Attributes:
        model, pre, add_space_prefix: as in `Vocabulary`.
        merges: pairs of pieces in the order in which they are joined.
        names: the piece of each id, as llama.cpp writes it.
        unknown: the piece that stands for the unknown.
    """

    model: str
    pre: str
    merges: list[list[str]]
    names: dict[int, str]
    unknown: str | None = None
    add_space_prefix: bool = False


def vocabulary_of(tokenizer: Tokenizer, rows: int, say: Callable[[str], None]) -> Vocabulary:
    """Return a tokenizer as llama.cpp has it, with unused tokens for the rows that the model has beyond it.

    Args:
        tokenizer: of the model.
        rows: of the model's embedding.
        say: is told once of what llama.cpp does otherwise with rare text.

    Raises:
        UserError: llama.cpp would give other ids, and why.
    """
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the model was built for {rows}; "
            "pass the run directory that both came from"
        )
    content = json.loads(tokenizer.backend.to_str())
    if tokenizer.kind != "char":
        _check_added(content)
    rules = _RULES[tokenizer.kind](content, say)
    added = {token["id"]: token for token in content["added_tokens"]}
    tokens, kinds = [], []
    for token in range(rows):
        name = added[token]["content"] if token in added else rules.names.get(token)
        special = token in added and (added[token]["special"] or tokenizer.kind == "char")
        tokens.append(f"[PAD{token}]" if name is None else name)
        kinds.append(_kind_of(name, rules, token in added, special))
    if twice := [name for name, count in Counter(tokens).items() if count > 1]:
        raise UserError(f"the tokenizer has the piece {twice[0]!r} twice; GGUF wants each once")
    byte_level, end = rules.model == "gpt2", _end(tokenizer, kinds)
    return Vocabulary(
        model=rules.model,
        pre=rules.pre,
        tokens=tokens,
        token_type=kinds,
        merges=[" ".join(pair) for pair in rules.merges] if byte_level else [],
        scores=[] if byte_level else scores_of(tokens, rules.merges),
        bos_token_id=_begin(tokenizer, end),
        eos_token_id=end,
        padding_token_id=end,
        unknown_token_id=kinds.index(UNKNOWN) if UNKNOWN in kinds else None,
        add_bos_token=bool(tokenizer.prefix),
        add_space_prefix=rules.add_space_prefix,
    )


def vocabulary_in(settings: dict[str, Any]) -> Vocabulary:
    """Return what the settings of a GGUF file say of its tokenizer.

    Raises:
        UserError: they say too little, or it is of a kind that this program does not write.
    """
    found = {
        f.name: settings.get(f"tokenizer.ggml.{f.name}", _LEFT_OUT.get(f.name))
        for f in fields(Vocabulary)
    }
    missing = [n for n, value in found.items() if value is None and n not in _LEFT_OUT]
    if missing:
        raise UserError(f"it has no {', '.join(f'tokenizer.ggml.{name}' for name in missing)}")
    return Vocabulary(**found)


def _check_added(content: dict[str, Any]) -> None:
    """Refuse added tokens that are found otherwise than letter by letter in the text as it came."""
    changes = content["normalizer"] is not None and content["normalizer"] != {"type": "NFC"}
    for token in content["added_tokens"]:
        odd = [flag for flag in ("lstrip", "rstrip", "single_word") if token[flag]]
        odd += ["normalized"] * (token["normalized"] and changes)
        if odd and not token["special"]:
            raise UserError(
                f"the tokenizer looks for {token['content']!r} with {odd[0]}, which llama.cpp does not know; {INSTEAD}"
            )


def _kind_of(name: str | None, rules: _Rules, added: bool, special: bool) -> int:
    if name is None:
        return UNUSED
    if name == rules.unknown:
        return UNKNOWN
    if added:
        return CONTROL if special else USER_DEFINED
    return OF_BYTE if rules.model == "llama" and BYTE.fullmatch(name) else NORMAL


def _byte_level(content: dict[str, Any], say: Callable[[str], None]) -> _Rules:
    """Return the rules of a byte-level BPE."""
    model, normalizer = content["model"], content["normalizer"]
    if normalizer == {"type": "NFC"}:
        say(
            "llama.cpp does not compose characters first (NFC), as this tokenizer does: decomposed text gets other ids"
        )
    elif normalizer:
        raise UserError(
            f"the tokenizer changes text by {normalizer['type']} first, which llama.cpp does not; {INSTEAD}"
        )
    pre = SPLITS.get(tuple(_expressions(content["pre_tokenizer"])))
    if pre is None:
        raise UserError(
            "the tokenizer cuts text by a pattern that llama.cpp has under none of the names "
            f"{', '.join(SPLITS.values())}; {INSTEAD}"
        )
    odd = [name for name in _UNUSUAL if model.get(name)]
    odd += ["ignore_merges"] * (model.get("ignore_merges", False) != (pre == _WHOLE_WORDS_FIRST))
    if odd:
        raise UserError(
            f"the tokenizer has {odd[0]} = {model.get(odd[0])!r}, and llama.cpp has not under {pre}; {INSTEAD}"
        )
    if not model["merges"]:
        raise UserError(
            "the tokenizer has no merges, and llama.cpp wants some; train one with more ids"
        )
    return _Rules("gpt2", pre, model["merges"], _names(model))


_UNUSUAL = ("unk_token", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")


def _characters(content: dict[str, Any], say: Callable[[str], None]) -> _Rules:
    """Return the rules of a character tokenizer."""
    names = _names(content["model"])
    for bad, why in (
        (SPACE, "as which llama.cpp writes a space"),
        ("\0", "where llama.cpp ends a text"),
    ):
        if bad in names.values():
            raise UserError(
                f"the character tokenizer has the character U+{ord(bad):04X}, {why}; {INSTEAD}"
            )
    spaced = {token: SPACE if c == " " else c for token, c in names.items()}
    return _Rules("llama", "", [], spaced)


def _sentencepiece(content: dict[str, Any], say: Callable[[str], None]) -> _Rules:
    """Return the rules of a BPE of SentencePiece."""
    check_sentencepiece(content)
    spaced, model = adds_space(content, say), content["model"]
    return _Rules("llama", "", model["merges"], _names(model), model["unk_token"], spaced)


_RULES: dict[str, Callable[[dict[str, Any], Callable[[str], None]], _Rules]] = {
    "bpe": _byte_level,
    "char": _characters,
    "other": _sentencepiece,
}


def _names(model: dict[str, Any]) -> dict[int, str]:
    return {token: name for name, token in model["vocab"].items()}


def _expressions(part: dict[str, Any] | None) -> list[str]:
    """Return the expressions by which this part of a `tokenizer.json` cuts text, one after the other."""
    match part:
        case {"type": "Sequence", "pretokenizers": parts}:
            return [expression for inner in parts for expression in _expressions(inner)]
        case {
            "type": "Split",
            "pattern": {"Regex": expression},
            "behavior": "Isolated",
            "invert": False,
        }:
            return [expression]
        case {"type": "Digits", "individual_digits": True}:
            return [r"\p{N}"]
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": cuts}:
            return [PATTERNS["gpt2"]] if cuts else []
    return [json.dumps(part)]  # no name of llama.cpp stands for it


def _end(tokenizer: Tokenizer, kinds: list[int]) -> int:
    """Return the id that ends a text: without one, llama.cpp would take an ordinary token for it."""
    if tokenizer.eos_id is not None:
        return tokenizer.eos_id
    if UNUSED in kinds:
        return kinds.index(UNUSED)
    raise UserError(
        "the tokenizer has no token that ends a text, and llama.cpp would take an ordinary one for it; "
        f"{INSTEAD}"
    )


def _begin(tokenizer: Tokenizer, end: int) -> int:
    """Return the id that begins a text: the one that the tokenizer puts there, else what ends one."""
    if len(tokenizer.prefix) > 1:
        raise UserError(
            f"the tokenizer puts {len(tokenizer.prefix)} ids before a text, and llama.cpp at most one; {INSTEAD}"
        )
    return tokenizer.prefix[0] if tokenizer.prefix else end
