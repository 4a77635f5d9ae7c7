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
from minigpt.tokenizer import Tokenizer
from minigpt.tokenizer.patterns import PATTERNS

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens, as llama.cpp counts them
SPACE = "▁"  # U+2581, which stands for a space in SentencePiece
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
_WHOLE_WORDS_FIRST = (
    "llama-bpe"  # the one split under which llama.cpp takes a word that is a piece without merging
)


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer; equal ones give equal ids.

    Attributes:
        model: gpt2 for byte-level BPE, llama for pieces of SentencePiece.
        pre: llama.cpp's name of how text is cut before merging.
        tokens: each id's piece, as llama.cpp writes it.
        token_type: each id's kind.
        merges: two pieces with a space between them, in the order in which they were learnt.
        bos_token_id, eos_token_id, padding_token_id: here always one and the same.
        add_bos_token, add_eos_token, add_space_prefix: what llama.cpp adds to a text by itself: nothing.
    """

    model: str
    pre: str
    tokens: list[str]
    token_type: list[int]
    merges: list[str]
    bos_token_id: int
    eos_token_id: int
    padding_token_id: int
    add_bos_token: bool = False
    add_eos_token: bool = False
    add_space_prefix: bool = False

    def settings(self) -> dict[str, Any]:
        """Return {key of the file: value}; what the model does not have is left out."""
        made = {f"tokenizer.ggml.{f.name}": getattr(self, f.name) for f in fields(self)}
        if self.model == "llama":
            made["tokenizer.ggml.scores"] = [0.0] * len(self.tokens)
        return {key: value for key, value in made.items() if value not in ("", [])}


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
    model, pre, merges, names = _KINDS[tokenizer.kind](content, say)
    added = {token["id"]: token for token in content["added_tokens"]}
    tokens, kinds = [], []
    for token in range(rows):
        if token in added:
            special = added[token]["special"] or tokenizer.kind == "char"
            tokens.append(added[token]["content"])
            kinds.append(CONTROL if special else USER_DEFINED)
        else:
            tokens.append(names.get(token, f"[PAD{token}]"))
            kinds.append(NORMAL if token in names else UNUSED)
    if twice := [name for name, count in Counter(tokens).items() if count > 1]:
        raise UserError(f"the tokenizer has the piece {twice[0]!r} twice; GGUF wants each once")
    end = _end(tokenizer, kinds)
    return Vocabulary(model, pre, tokens, kinds, merges, end, end, end)


def vocabulary_in(settings: dict[str, Any]) -> Vocabulary:
    """Return what the settings of a GGUF file say of its tokenizer.

    Raises:
        UserError: they say too little, or it is of a kind that this program does not write.
    """
    empty: dict[str, Any] = {"pre": "", "merges": []}
    found = {
        f.name: settings.get(f"tokenizer.ggml.{f.name}", empty.get(f.name))
        for f in fields(Vocabulary)
    }
    if missing := [f"tokenizer.ggml.{name}" for name, value in found.items() if value is None]:
        raise UserError(f"it has no {', '.join(missing)}")
    return Vocabulary(**found)


_Kind = tuple[str, str, list[str], dict[int, str]]


def _byte_level(content: dict[str, Any], say: Callable[[str], None]) -> _Kind:
    """Return model, name of the split, merges and {id: piece} of a byte-level BPE."""
    model, normalizer = content["model"], content["normalizer"]
    if normalizer == {"type": "NFC"}:
        say(
            "llama.cpp does not compose characters first (NFC), as this tokenizer does: decomposed text gets other ids"
        )
    elif normalizer:
        raise UserError(
            f"the tokenizer changes text by {normalizer['type']} first, which llama.cpp does not; {_INSTEAD}"
        )
    pre = SPLITS.get(tuple(_expressions(content["pre_tokenizer"])))
    if pre is None:
        raise UserError(
            "the tokenizer cuts text by a pattern that llama.cpp has under none of the names "
            f"{', '.join(SPLITS.values())}; {_INSTEAD}"
        )
    odd = [name for name in _UNUSUAL if model.get(name)]
    odd += ["ignore_merges"] * (model.get("ignore_merges", False) != (pre == _WHOLE_WORDS_FIRST))
    if odd:
        raise UserError(
            f"the tokenizer has {odd[0]} = {model.get(odd[0])!r}, and llama.cpp has not under {pre}; {_INSTEAD}"
        )
    if not model["merges"]:
        raise UserError(
            "the tokenizer has no merges, and llama.cpp wants some; train one with more ids"
        )
    return "gpt2", pre, [" ".join(pair) for pair in model["merges"]], _names(model)


_UNUSUAL = (
    "dropout",
    "unk_token",
    "byte_fallback",
    "continuing_subword_prefix",
    "end_of_word_suffix",
)


def _characters(content: dict[str, Any], say: Callable[[str], None]) -> _Kind:
    """Return model, name of the split, merges and {id: piece} of a character tokenizer."""
    names = _names(content["model"])
    for bad, why in (
        (SPACE, "as which llama.cpp writes a space"),
        ("\0", "where llama.cpp ends a text"),
    ):
        if bad in names.values():
            raise UserError(
                f"the character tokenizer has the character U+{ord(bad):04X}, {why}; {_INSTEAD}"
            )
    return "llama", "", [], {token: SPACE if c == " " else c for token, c in names.items()}


_KINDS: dict[str, Callable[[dict[str, Any], Callable[[str], None]], _Kind]] = {
    "bpe": _byte_level,
    "char": _characters,
}
_INSTEAD = "export it with --to hf instead"


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
        f"{_INSTEAD}"
    )
