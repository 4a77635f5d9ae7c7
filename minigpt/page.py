"""A body of HTML in, a whole page in the style of the house out; and the text of others made fit to stand in one."""

import html
import unicodedata
from importlib import resources
from string import Template

DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def fill_page(title: str, body: str) -> str:
    """Return a whole page with the style of the house around a body of HTML."""
    parts = {"style": template("house.css"), "script": template("captions.js")}
    return Template(template("page.html")).substitute(parts, title=safe(title), body=body)


def template(name: str) -> str:
    """Return one of the files that the pages of the house are made from."""
    return (resources.files("minigpt") / "templates" / name).read_text(encoding="utf-8")


def visible(text: str) -> str:
    """Return a text in which what has no shape has one: control characters as pictures, turns of direction as �.

    >>> visible("a\\x00b\\tc\\x1b[0m")
    'a␀b\\tc␛[0m'
    """
    return "".join(_shape(character) for character in text)


def _shape(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    if character in DIRECTIONS or unicodedata.category(character) in ("Cc", "Cs", "Cn"):
        return "\ufffd"
    return character


def safe(text: object) -> str:
    """Return a text of others as HTML that shows it and does nothing else."""
    return html.escape(visible(str(text)))
