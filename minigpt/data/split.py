"""Documents in, each named as one to train on or one held out: a rule that is fixed before a token is made.

fewer than 20 documents   the last share of the characters, which may cut one document in two
more                      whole documents, evenly spread
the first N               where that was asked for, and of a stream, whose length nobody knows
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from minigpt.data.formats import Piece, utf8_size
from minigpt.data.sources import Source
from minigpt.errors import UserError
from minigpt.progress import bar

FEW_DOCUMENTS = 20  # fewer than these, and the held-out part is cut by characters
STREAM_DOCUMENTS = 1000  # held out of a stream


@dataclass(frozen=True)
class Place:
    """Where in the whole text we are: the next document, character and byte (of UTF-8)."""

    document: int = 0
    character: int = 0
    byte: int = 0


@dataclass(frozen=True)
class Share:
    """A piece that lies in one of the two parts.

    Attributes:
        held_out: in which.
        opens: a document begins here, in this part.
        separated: it is not the first one there.
    """

    held_out: bool
    opens: bool
    separated: bool
    text: str


@dataclass(frozen=True)
class Split:
    """The rule.

    Attributes:
        by: "characters" holds out what follows character `value`, "every" the share `value` of all documents, "first"
            the first `value` documents.
    """

    by: Literal["characters", "every", "first"]
    value: float

    def held_out_before(self, document: int) -> int:
        """Return how many of the documents before this one are held out."""
        if self.by == "first":
            return min(document, int(self.value))
        return int(document * self.value + 0.5)

    def shares(self, piece: Piece, place: Place) -> Iterator[Share]:
        """Yield a piece, or its two sides where the cut goes through it. `place` is where it begins."""
        begins, text = piece
        if self.by == "characters":
            left = int(self.value) - place.character
            if left > 0:
                yield Share(False, begins, begins and place.document > 0, text[:left])
            if len(text) > left:
                opens = begins or left >= 0
                yield Share(True, opens, begins and left < 0, text[max(0, left) :])
            return
        document = place.document if begins else place.document - 1
        before = self.held_out_before(document)
        held_out = self.held_out_before(document + 1) > before
        rank = before if held_out else document - before
        yield Share(held_out, begins, begins and rank > 0, text)


def after(place: Place, piece: Piece) -> Place:
    """Return the place behind a piece."""
    begins, text = piece
    return Place(place.document + begins, place.character + len(text), place.byte + utf8_size(text))


def limited(pieces: Iterable[Piece], place: Place, documents: int, size: int) -> Iterator[Piece]:
    """Yield pieces up to the limits, counted from the beginning of the text; 0: no limit."""
    for begins, text in pieces:
        if documents and begins and place.document >= documents:
            return
        if size:
            room = size - place.byte
            if room <= 0:
                return
            if 4 * len(text) > room:
                kept = text.encode(errors="surrogatepass")[:room].decode(errors="ignore")
                if len(kept) < len(text):
                    if kept:
                        yield begins, kept
                    return
        yield begins, text
        place = after(place, (begins, text))


def survey(
    source: Source, fraction: float, documents: int, limits: tuple[int, int]
) -> tuple[Split, list[Place], int | None]:
    """Return the rule of a source, where each of its parts begins, and its bytes where all of it was read for this.

    Args:
        source: is read once; with `documents`, only to the end of the held-out ones.
        fraction: share of the documents to hold out.
        documents: hold out so many instead, the first ones; 0: by fraction.
        limits: documents and bytes to read at most; then the source has one part.

    Raises:
        UserError: there is no text, or none is left to train on.
    """
    place, places, blank = Place(), [], True
    with bar("looking through the text", None) as report:
        for part in range(source.parts):
            places.append(place)
            for piece in limited(source.read(part), place, *limits):
                place = after(place, piece)
                blank = blank and piece[1].isspace()
                report(place.byte)
                if documents and place.document > documents:
                    break
            if documents and place.document > documents:
                break
    # Where counting ended early, later parts lie somewhere behind: more is not needed to tell them from the first.
    places += [place] * (source.parts - len(places))
    if blank:
        raise UserError(f"{source.name} holds no text; pass a source with some")
    if documents:
        if place.document <= documents:
            raise UserError(
                f"{source.name} has {place.document} documents, and the first {documents} are to be held out; "
                "take fewer by data.val_documents (--val-documents), or data.stream = false, which holds out a share"
            )
        return Split("first", documents), places, None
    if place.document >= FEW_DOCUMENTS:
        return Split("every", fraction), places, place.byte
    return (
        Split("characters", math.floor(place.character * (1 - fraction) + 1e-9)),
        places,
        place.byte,
    )


def as_json(split: Split, places: list[Place]) -> dict[str, Any]:
    """Return the rule and the beginnings of the parts as JSON."""
    return {
        "by": split.by,
        "value": split.value,
        "parts": [[p.document, p.character, p.byte] for p in places],
    }


def from_json(content: dict[str, Any]) -> tuple[Split, list[Place]]:
    """Return what `as_json` was given."""
    return Split(content["by"], content["value"]), [Place(*place) for place in content["parts"]]
