"""A tokenizer and a text in; how it is cut, to be looked at, out."""

import unicodedata
from typing import Any

from minigpt.errors import UserError
from minigpt.tokenizer.fast import Tokenizer

COLOURS = [f"black on bright_{colour}" for colour in ("cyan", "yellow", "green", "magenta")]
_UNSEEN = ("Cc", "Cf", "Zl", "Zp")  # categories of characters that show nothing


def view(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """Return {"pieces", "ids", "tokens", "characters", "bytes", "characters_per_token", "bytes_per_token"}.

    Raises:
        UserError: there is no text, or it has a character that a character tokenizer does not know.
    """
    ids = tokenizer.encode(text)
    if not ids:
        raise UserError("the text is empty; pass some text, or - for standard input")
    size = len(text.encode())
    return {
        "pieces": [visible(tokenizer.pieces[i]) for i in ids],
        "ids": ids,
        "tokens": len(ids),
        "characters": len(text),
        "bytes": size,
        "characters_per_token": round(len(text) / len(ids), 3),
        "bytes_per_token": round(size / len(ids), 3),
    }


def visible(piece: bytes) -> str:
    r"""Return a piece with what cannot be seen made visible; a part of a character as its bytes.

    >>> visible(b" tab\t"), visible(b"\n"), visible("é".encode()[:1])
    (' tab→', '⏎', '<c3>')
    """
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in piece)
    shown = text.replace("\n", "⏎").replace("\t", "→").replace("\r", "␍")
    return "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in _UNSEEN else c for c in shown)


def as_text(found: dict[str, Any], *, colours: bool) -> Any:
    """Return a view for a terminal: the pieces in colours, or with bars between them, then ids and figures."""
    from rich.text import Text

    text = Text()
    for number, piece in enumerate(found["pieces"]):
        if colours:
            text.append(piece, style=COLOURS[number % len(COLOURS)])
        else:
            text.append(("|" if number else "") + piece)
        if piece.endswith("⏎"):
            text.append("\n")
    text.append("\n\n" if not text.plain.endswith("\n") else "\n")
    text.append(" ".join(map(str, found["ids"])), style="dim" if colours else "")
    text.append(
        f"\n\n{found['tokens']:,} tokens for {found['characters']:,} characters, {found['bytes']:,} bytes: "
        f"{found['characters_per_token']:.2f} characters, {found['bytes_per_token']:.2f} bytes per token"
    )
    return text
