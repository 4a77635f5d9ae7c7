"""The shards of a preparation in; what its two parts have in common, and the shards without it, out."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data import duplicates, shards
from minigpt.data.duplicates import TokenFile
from minigpt.data.shards import SPLITS
from minigpt.files import replacing
from minigpt.progress import bar
from minigpt.tokenizer import Tokenizer

Shard = dict[str, Any]  # its entry in the manifest


def compare(
    folder: Path,
    listed: list[Shard],
    tokenizer: Tokenizer,
    *,
    drop: bool,
    workers: int,
    say: Callable[[str], None],
) -> tuple[list[Shard], dict[str, Any]]:
    """Return the shards as the manifest is to list them, and what the two parts have in common.

    Args:
        folder: where they are.
        listed: their entries.
        tokenizer: of their ids.
        drop: write the shards to train on again, under names of their own, without what is held out.
        workers: threads.
        say: called with what was found.
    """
    dtype = shards.token_dtype(tokenizer.vocab_size)
    train, val = ([s for s in listed if s["split"] == name] for name in SPLITS)
    files, held_out_files = (
        [TokenFile(folder / s["file"], s["tokens"], dtype) for s in part] for part in (train, val)
    )
    with bar("comparing train and held-out part", sum(f.tokens for f in files), "tokens") as report:
        held_out = duplicates.remember(
            held_out_files, tokenizer.kind, tokenizer.vocab_size, tokenizer.eos_id
        )
        found = duplicates.find_all(files, held_out, workers, report)
    seen = np.unique(np.concatenate([f.seen for f in found])) if found else np.empty(0)
    shared = {
        "exact": sum(len(f.exact) for f in found),
        "near": sum(len(f.near) for f in found),
        "held_out_sequences_seen": round(len(seen) / max(1, len(held_out.sequences)), 4),
        "sequence_length": held_out.length,
        "dropped": drop,
    }
    if shared["exact"] or shared["near"] or shared["held_out_sequences_seen"] > 0.01:
        said = f"{shared['exact']:,} documents to train on are also held out word for word, {shared['near']:,} nearly"
        if shared["exact"] or shared["near"]:
            said += (
                "; they are left out"
                if drop
                else "; data.drop_duplicates (--drop-duplicates) leaves them out"
            )
        say(
            f"{said}. {shared['held_out_sequences_seen']:.1%} of the held-out sequences of {held_out.length} tokens "
            "occur in the part to train on"
        )
    if not drop:
        return listed, shared
    with bar("leaving out duplicates", len(found), "shards") as report:
        for number, (shard, file, one) in enumerate(zip(train, files, found, strict=True)):
            spans = np.concatenate([one.exact, one.near])
            if len(spans):
                shard |= _rewritten(shard, file, spans, tokenizer, first=number == 0)
            report(number + 1)
    return listed, shared


def _rewritten(
    shard: Shard, file: TokenFile, spans: np.ndarray, tokenizer: Tokenizer, *, first: bool
) -> Shard:
    """Write a shard without these spans under a name of its own, and return what changes in its entry."""
    kept = duplicates.without(file.read(0, file.tokens), spans)
    if first and len(kept) and spans.min() == 0 and kept[0] == tokenizer.eos_id:
        kept = kept[1:]  # what was the second document is now the first
    path = file.path.with_name(shard["file"].replace(".bin", "-unique.bin"))
    with replacing(path) as temporary:
        kept.tofile(temporary)
    special = set(tokenizer.specials.values())
    pieces = [b"" if i in special else piece for i, piece in enumerate(tokenizer.pieces)]
    sizes = np.array([len(piece) for piece in pieces])
    # A character is counted at its first byte: one that is not 10xxxxxx.
    starts = np.array([sum((byte & 0xC0) != 0x80 for byte in piece) for piece in pieces])
    return {
        "file": path.name,
        "tokens": len(kept),
        "documents": shard["documents"] - len(spans),
        "characters": int(starts[kept].sum()),
        "bytes": int(sizes[kept].sum()),
        "sha256": hashlib.sha256(kept.tobytes()).hexdigest(),
    }
