"""A source in; step by step its tokens in a folder out, each step on the disk before the next.

    survey   how many documents; which are held out      plan.json
    learn    a tokenizer, unless one is given            tokenizer.json
    encode   part after part, on all cores               parts/, shards
    compare  the two parts: what stands in both
    finish                                               manifest.json; plan and parts go

Whoever comes after a kill goes on behind the last step that was done.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from minigpt import machine
from minigpt.config import DataConfig
from minigpt.data import shards, split
from minigpt.data.compare import compare
from minigpt.data.corpora import open_source, reopen
from minigpt.data.decoding import Reading
from minigpt.data.encode import SHARD_TOKENS, PartJob, read_part, write_part
from minigpt.data.formats import Piece
from minigpt.data.learn import learn_bpe, learn_characters
from minigpt.data.shards import MANIFEST, PLAN, SPLITS
from minigpt.data.sources import Source
from minigpt.data.tokens import cached
from minigpt.errors import UserError
from minigpt.files import alone, read_json, replace_json
from minigpt.progress import bar
from minigpt.tokenizer import Tokenizer, find_tokenizer

FORMAT = 2  # of the token folders; a change of what is written here makes old ones unfindable
LEARN_BYTES = 100_000_000  # of the text to train on, evenly spread, that merges are learnt from

_SHARD = re.compile(r"(train|val)-\d{5,}-\d{5,}(-unique)?\.bin")
# What `replacing` and `encode` leave when they are killed.
_UNFINISHED = re.compile(r"\..*\.\d+\.tmp")

Say = Callable[[str], None]


@dataclass
class Preparation:
    """A text on its way to tokens, in a folder.

    Attributes:
        plan: what was decided before the first token: see `begin`.
    """

    folder: Path
    config: DataConfig
    source: Source
    tokenizer: Tokenizer | None
    plan: dict[str, Any]
    workers: int
    is_whole: bool = False
    held: ExitStack = field(default_factory=ExitStack)  # the lock of the folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Let others into the folder; remove the copy of standard input, unless tasks are queued that will read it."""
        self.held.close()
        if kind is not None or not (self.folder / PLAN).exists():
            self.source.discard()

    def job(self, report: Callable[[int, int], None] = lambda size, tokens: None) -> PartJob:
        """Return what `write_part` takes."""
        assert self.tokenizer is not None
        return PartJob(
            self.folder,
            self.source,
            split.from_json(self.plan["split"])[0],
            self.tokenizer,
            limits=limits_of(self.config),
            workers=self.workers,
            shard_tokens=self.plan["shard_tokens"],
            report=report,
        )

    @property
    def places(self) -> list[split.Place]:
        """Where each part begins."""
        return split.from_json(self.plan["split"])[1]

    def encode(self, parts: Iterable[int] | None = None) -> None:
        """Write the shards of these parts (None: of all) that are not there yet, with a moving bar."""
        done = [0, 0]
        with bar("turning text into tokens", self.plan["bytes"]) as report:
            for part in range(self.source.parts) if parts is None else parts:
                before = tuple(done)

                def show(size: int, tokens: int, before: tuple[int, ...] = before) -> None:
                    done[:] = before[0] + size, before[1] + tokens
                    report(done[0], f"{done[1]:,} tokens")

                for _ in write_part(self.job(show), part, self.places[part]):
                    pass

    def finish(self, say: Say) -> None:
        """Compare the two parts, write the manifest, and remove what was only needed on the way.

        Raises:
            UserError: a part is not done.
        """
        assert self.tokenizer is not None
        states = [read_part(self.job(), part) for part in range(self.source.parts)]
        missing = sum(not state.get("done") for state in states)
        if missing:
            raise UserError(
                f"{missing} of {len(states)} parts of {self.folder} are not done; run the same command again"
            )
        listed = [shard for state in states for shard in state["shards"]]
        listed, shared = compare(
            self.folder,
            listed,
            self.tokenizer,
            drop=self.config.drop_duplicates,
            workers=self.workers,
            say=say,
        )
        if not any(shard["split"] == "train" for shard in listed):
            raise UserError(f"{self.source.name} leaves nothing to train on; use more text")
        manifest = {
            "format": FORMAT,
            "fingerprint": self.plan["fingerprint"],
            "source": self.source.name,
            "tokenizer": self.tokenizer.fingerprint(),
            "vocab_size": self.tokenizer.vocab_size,
            "dtype": shards.token_dtype(self.tokenizer.vocab_size).str,
            "split": {name: self.plan["split"][name] for name in ("by", "value")},
            **{name: _totals(listed, name) for name in SPLITS},
            "duplicates": shared,
            "shards": listed,
        }
        replace_json(self.folder / MANIFEST, manifest)
        _tidy(self.folder, manifest)


def begin(
    config: DataConfig,
    say: Say,
    *,
    out: Path | None = None,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Preparation:
    """Return a preparation that is planned and has its tokenizer; arguments as `prepare`."""
    source = open_source(config.source, reading_of(config), together=any(limits_of(config)))
    with ExitStack() as stack:
        stack.callback(source.discard)
        for note in source.notes:
            say(note)
        work = _begun(source, config, say, out, workers or machine.cores(), shard_tokens, stack)
        stack.pop_all()
        return work


def _begun(
    source: Source,
    config: DataConfig,
    say: Say,
    out: Path | None,
    workers: int,
    shard_tokens: int,
    stack: ExitStack,
) -> Preparation:
    given = None if config.tokenizer in ("bpe", "char") else find_tokenizer(config.tokenizer)
    if given is not None and given.kind == "other":
        raise UserError(
            f"the tokenizer {config.tokenizer} puts a space before each text, so texts cannot be cut and put together "
            "again; train with bpe, char, gpt2, or another byte-level BPE"
        )
    documents = config.val_documents
    if (source.streamed or config.stream) and not documents:
        documents = split.STREAM_DOCUMENTS
    fingerprint = _fingerprint(source, config, given, documents)
    folder = cached(fingerprint) if out is None else out
    held = stack.enter_context(ExitStack())
    held.enter_context(
        alone(folder, lambda: say(f"waiting for another process that prepares {folder}"))
    )
    if manifest := _whole(folder, fingerprint, out is not None, say):
        _tidy(folder, manifest)
        return Preparation(folder, config, source, given, {}, workers, True, held)
    plan = _read_plan(folder, fingerprint, shard_tokens)
    if plan is None:
        limits = limits_of(config)
        rule, places, size = split.survey(source, config.val_fraction, documents, limits)
        plan = {
            "fingerprint": fingerprint,
            "config": dataclasses.asdict(config),
            "source": source.describe(),
            "split": split.as_json(rule, places),
            "bytes": size,
            "shard_tokens": shard_tokens,
        }
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(folder / PLAN, plan)
    work = Preparation(folder, config, source, given, plan, workers, held=held)
    work.tokenizer = _tokenizer_of(work, say)
    return work


def go_on(folder: Path, workers: int = 1) -> Preparation:
    """Return the preparation in a folder that another process has begun."""
    plan = read_json(folder / PLAN)
    config = DataConfig(**plan["config"])
    source = reopen(plan["source"], reading_of(config))
    return Preparation(folder, config, source, Tokenizer.load(folder), plan, workers)


def reading_of(config: DataConfig) -> Reading:
    """Return how the files of a source are read."""
    return Reading(field=config.field, errors=config.errors)


def limits_of(config: DataConfig) -> tuple[int, int]:
    """Return the documents and bytes of text that are read at most; 0: all."""
    return config.limit_documents, config.limit_bytes


def _fingerprint(
    source: Source, config: DataConfig, given: Tokenizer | None, documents: int
) -> str:
    """Return the SHA-256 of all that decides which tokens come out; `documents`: held out, 0 for a fraction."""
    made = [config.tokenizer, config.vocab_size if config.tokenizer == "bpe" else None]
    facts = [
        FORMAT,
        source.identity(),
        made if given is None else given.fingerprint(),
        documents or config.val_fraction,
        [config.field, config.errors, config.limit_documents, config.limit_bytes],
        config.drop_duplicates,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _whole(folder: Path, fingerprint: str, check: bool, say: Say) -> dict[str, Any] | None:
    """Return the manifest of these very tokens if they are there, and, where `check` is given, undamaged."""
    manifest = shards.read_manifest(folder)
    if manifest is None:
        return None
    if manifest["fingerprint"] != fingerprint:
        raise UserError(
            f"{folder} holds other tokens (of {manifest['source']}, or with another tokenizer or split); remove it, "
            "or pass another --out"
        )
    broken = shards.damaged(folder, manifest) if check else []
    if broken:
        say(f"{', '.join(broken)} of {folder} is damaged; making the tokens again")
        for name in (MANIFEST, "tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)
        _remove_shards(folder, keep=set())
        return None
    return manifest


def _read_plan(folder: Path, fingerprint: str, shard_tokens: int) -> dict[str, Any] | None:
    if not (folder / PLAN).is_file():
        strange = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        strange = [name for name in strange if not _UNFINISHED.fullmatch(name)]
        if strange:
            raise UserError(
                f"{folder} has other things in it ({', '.join(strange[:3])}); pass an --out of its own"
            )
        return None
    plan = read_json(folder / PLAN)
    if (plan.get("fingerprint"), plan.get("shard_tokens")) != (fingerprint, shard_tokens):
        raise UserError(
            f"{folder} holds the beginning of other tokens (the text has changed, or tokenizer, split, limits or size "
            "of shards); remove it, or pass another --out"
        )
    return plan


def _tidy(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove what was only needed on the way."""
    if not (folder / PLAN).exists():
        return
    _remove_shards(folder, keep={shard["file"] for shard in manifest["shards"]})
    shutil.rmtree(folder / "parts", ignore_errors=True)
    (folder / PLAN).unlink()


def _remove_shards(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        ours = _SHARD.fullmatch(path.name) or _UNFINISHED.fullmatch(path.name)
        if ours and path.name not in keep:
            path.unlink()


def _totals(listed: list[dict[str, Any]], name: str) -> dict[str, int]:
    keys = ("documents", "characters", "bytes", "tokens")
    return {key: sum(s[key] for s in listed if s["split"] == name) for key in keys}


# --------------------------------------------------------------------------------------------------------- tokenizer


def _tokenizer_of(work: Preparation, say: Say) -> Tokenizer:
    """Return the tokenizer in the folder of a preparation; where there is none yet, the given one or a new one."""
    if (work.folder / "tokenizer.json").is_file():
        return Tokenizer.load(work.folder)
    tokenizer = work.tokenizer
    if tokenizer is None:
        say(f"making a {work.config.tokenizer} tokenizer from {work.source.name}")
        tokenizer = _learnt(work, say)
    tokenizer.save(work.folder)
    return tokenizer


def _learnt(work: Preparation, say: Say) -> Tokenizer:
    """Return a new tokenizer: characters from the whole text, BPE from the part to train on."""
    if work.config.tokenizer == "char":
        return learn_characters((text for _, (_, text) in _placed(work)), work.plan["bytes"])
    size = work.plan["bytes"]
    every = max(1, math.ceil((size or 0) / LEARN_BYTES))
    if every > 1:
        say(
            f"its merges are learnt from every {every}th piece of the text: about {LEARN_BYTES // 10**6} MB"
        )
    texts = itertools.islice(_texts_to_train_on(work), 0, None, every)
    return learn_bpe(_up_to(texts, LEARN_BYTES), work.config.vocab_size, say)


def _placed(work: Preparation) -> Iterator[tuple[split.Place, Piece]]:
    """Yield each piece of the text with the place where it begins."""
    for part, place in enumerate(work.places):
        for piece in split.limited(work.source.read(part), place, *limits_of(work.config)):
            yield place, piece
            place = split.after(place, piece)


def _texts_to_train_on(work: Preparation) -> Iterator[str]:
    rule = split.from_json(work.plan["split"])[0]
    for place, piece in _placed(work):
        for share in rule.shares(piece, place):
            if not share.held_out:
                yield share.text


def _up_to(texts: Iterable[str], size: int) -> Iterator[str]:
    for text in texts:
        if size <= 0:
            return
        yield text
        size -= len(text)
