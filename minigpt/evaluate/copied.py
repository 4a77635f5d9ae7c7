"""A run in; whether it has learnt its text or learnt it by heart, out: by what it copies, and by the two losses.

Its texts go on from places in the held-out part, drawn at temperature 1, from the model's own distribution. Beside them
stands what the held-out text itself says there: a model that has learnt what its text is drawn from shares as much with
the part that it was trained on as that does (McCoy et al., 2023, "RAVEN").

Copies are exact. The text that was trained on passes by in blocks; its sequences are compared by their fingerprints
(Karp and Rabin, 1987, as in `duplicates.py`), and what agrees is compared token by token. Memory: some 40 MB beside the
texts that are looked at, however much was trained on.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from minigpt.config import RunConfig, SampleConfig, TrainConfig
from minigpt.data.duplicates import BASE, INVERSE, mixed, powers
from minigpt.data.shards import TokenSequence
from minigpt.data.tokens import Tokens
from minigpt.errors import UserError
from minigpt.evaluate.likelihood import evaluate
from minigpt.evaluate.measure import run_of, tokens_of
from minigpt.inference.decoder import Decoder
from minigpt.inference.engine import Engine
from minigpt.inference.plain import Plain
from minigpt.interop.loading import load_both
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.progress import bar
from minigpt.rundir import RunDir
from minigpt.runtime import prepare_step, start_runtime
from minigpt.tokenizer import Tokenizer

NGRAM = {"char": 32}  # characters; of any other tokenizer:
WORDS = 8  # tokens: some six words
TEXTS = 16
TEXT_NGRAMS = 16  # n-grams long is each of them
BLOCK = 1 << 18  # tokens that are compared together
LONGEST = 1 << 16  # tokens of all texts; a block and they are one array
TABLE_BITS = 20  # of a fingerprint: a first look that leaves out nearly all that does not occur
LOSS_TOKENS = 1 << 18  # that the losses are taken over, of each part
# Shares of the held-out loss by which that on the text trained on lies lower:
LEARNT, BY_HEART = 0.1, 0.25
COPIES = 0.1  # share of n-grams in common, beyond that of the held-out text


@dataclasses.dataclass(frozen=True)
class Copied:
    """What a text has in common with the one that was trained on.

    Attributes:
        ngrams: how many sequences of n tokens it has.
        copied: how many of them occur there.
        longest: tokens of the longest span that occurs there.
        start: of that span in the text.
    """

    ngrams: int
    copied: int
    longest: int
    start: int


class Generalising(NamedTuple):
    """Whether a model has learnt its text or learnt it by heart.

    Attributes:
        kind: which.
        sentence: why, and what to do.
    """

    kind: Literal["generalising", "between", "memorising"]
    sentence: str


def measure_copied(run: Path | str, device: str = "auto") -> dict[str, Any]:
    """Return what texts of a run copy from the text that it was trained on, its two losses, and what they say.

    Args:
        run: a run directory or one of its checkpoints.
        device: where.

    Raises:
        UserError: no run, its text is gone, or too little of it is held out.
    """
    began, tokens = time.perf_counter(), tokens_of(run)
    model, tokenizer = load_both(run)
    config = RunDir(run_of(run)).config
    dtype = "fp32" if config.train.dtype == "tf32" else config.train.dtype
    settings = TrainConfig(device=device, dtype=dtype)
    step = prepare_step(TrainStep(model), start_runtime(settings), settings)
    trained, held_out = losses(step, tokens, tokenizer, config)
    n = NGRAM.get(tokenizer.kind, WORDS)
    prompts, passages = beginnings(tokens.val, n, model.config.block_size - len(tokenizer.prefix))
    drawn = draw(model, tokenizer, prompts, len(passages[0]))
    found = find_copies(tokens.train, [*drawn, *passages], n, tokenizer.vocab_size)
    ours, theirs = found[: len(drawn)], found[len(drawn) :]
    facts = {"train_loss": trained, "held_out_loss": held_out, "ngram": n}
    facts |= {"share": share(ours), "held_out_share": share(theirs)}
    judged = judge(trained, held_out, share(ours), share(theirs), n)
    samples = [
        {
            "tokens": len(ids), "copied": one.copied, "ngrams": one.ngrams, "longest": one.longest,
            "text": tokenizer.decode(ids[one.start : one.start + one.longest].tolist()),
        }
        for ids, one in zip(drawn, ours, strict=True)
    ]  # fmt: skip
    return facts | {
        "longest": max(one.longest for one in ours),
        "held_out_longest": max(one.longest for one in theirs),
        "samples": samples,
        "verdict": judged.kind,
        "sentence": judged.sentence,
        "seconds": time.perf_counter() - began,
    }


def losses(
    step: TrainStep, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig
) -> tuple[float, float]:
    """Return the loss on the text that was trained on and on the held-out one, in nats per token.

    Of either at most 262,144 tokens are foretold, in windows that are evenly spread.
    """
    separator = tokenizer.eos_id if config.data.documents == "separate" else None
    at_once = max(1, 32_768 // step.model.config.block_size)
    parts = [
        evaluate(
            step, part, tokenizer, max_tokens=LOSS_TOKENS, separator=separator,
            batch_size=min(32, at_once),
        )
        for part in (tokens.train, tokens.val)
    ]  # fmt: skip
    return parts[0].loss, parts[1].loss


def beginnings(
    held_out: TokenSequence, n: int, context: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return prompts out of a text, evenly spread, and how it goes on after each.

    Raises:
        UserError: it is too short.
    """
    before = max(1, min(n, context // 2))
    length = min(n * TEXT_NGRAMS, len(held_out) - before)
    if length < n:
        raise UserError(
            f"the held-out part has {len(held_out)} tokens; {before + n} are needed to tell what is copied, so train "
            "on more text or with a larger data.val_fraction"
        )
    last = len(held_out) - before - length
    count = max(1, min(TEXTS, len(held_out) // (before + length)))
    starts = np.linspace(0, last, count).astype(int).tolist()
    prompts = [held_out[i : i + before] for i in starts]
    return prompts, [held_out[i + before : i + before + length] for i in starts]


def draw(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[np.ndarray], length: int
) -> list[np.ndarray]:
    """Return what the model writes after each prompt, without an end of text, (at most length,); from seeds 0, 1, …"""
    count = len(prompts)
    slots = Decoder(model, slots=count) if type(model) is GPT else Plain(model, count)
    engine = Engine(slots, tokenizer)
    settings = SampleConfig(max_tokens=length, temperature=1.0, top_k=0)
    texts = [
        engine.submit([*tokenizer.prefix, *prompt.tolist()], settings, seed=seed)
        for seed, prompt in enumerate(prompts)
    ]
    with bar("drawing texts", count * length, "tokens") as report:
        while engine.live or engine.waiting:
            engine.step()
            report(sum(len(text.picked) for text in texts))
    drawn = [[picked.token for picked in text.picked] for text in texts]
    ends = [ids[:-1] if ids and ids[-1] == tokenizer.eos_id else ids for ids in drawn]
    return [np.array(ids, np.int64) for ids in ends]


def share(found: Sequence[Copied]) -> float:
    """Return the share of the n-grams of some texts that are copied."""
    return sum(one.copied for one in found) / max(1, sum(one.ngrams for one in found))


def judge(
    trained: float, held_out: float, copies: float, held_out_copies: float, n: int
) -> Generalising:
    """Return what losses (nats per token) and shares of copied n-grams say."""
    gap = (held_out - trained) / held_out
    facts = (
        f"held-out text costs {held_out:.3f} nats per token and the text it was trained on {trained:.3f} "
        f"({gap:.1%} less); of the sequences of {n} tokens that it writes {copies:.1%} stand in that text, of those of "
        f"held-out text {held_out_copies:.1%}"
    )
    more = copies - held_out_copies
    if gap > BY_HEART or more > COPIES:
        advice = "use more text, fewer steps, model.dropout or a smaller model"
        return Generalising("memorising", f"verdict: memorising: {facts}; {advice}")
    if gap > LEARNT:
        return Generalising(
            "between", f"verdict: between learning and memorising: {facts}; more text would help"
        )
    return Generalising("generalising", f"verdict: generalising: {facts}")


# ------------------------------------------------------------------------------------------------------------ copies


class _Prints:
    """Tokens, (tokens,), of which any span has a fingerprint: the same wherever it stands."""

    def __init__(self, tokens: np.ndarray, numbers: np.ndarray) -> None:
        self.tokens = tokens
        self._sums = np.zeros(len(tokens) + 1, np.uint64)
        np.cumsum(numbers[tokens] * powers(BASE)[: len(tokens)], out=self._sums[1:])

    def at(self, places: np.ndarray, length: int) -> np.ndarray:
        """Return the fingerprints of the spans of this length that begin at `places`."""
        return (self._sums[places + length] - self._sums[places]) * powers(INVERSE)[places]

    def all(self, length: int) -> np.ndarray:
        """Return those of all places where one can begin."""
        count = max(0, len(self.tokens) - length + 1)
        return (self._sums[length:] - self._sums[:count]) * powers(INVERSE)[:count]


def find_copies(
    train: TokenSequence, texts: Sequence[np.ndarray], n: int, vocab_size: int
) -> list[Copied]:
    """Return for each text which of its n-grams and how long a span of it stand in the text that was trained on.

    Args:
        train: that text.
        texts: to look for in it, of at most 65,536 tokens in all.
        n: tokens of an n-gram.
        vocab_size: ids are below it.

    Raises:
        UserError: the texts are longer.
    """
    if sum(map(len, texts)) > LONGEST:
        raise UserError(
            f"the texts have {sum(map(len, texts)):,} tokens; at most {LONGEST:,} are looked for at a time, so pass "
            "fewer"
        )
    search = _Search(texts, n, vocab_size)
    search.read(train)
    ngrams = np.maximum(0, search.ends - search.begins - n + 1)
    copied = np.bincount(search.owner[search.starts[search.found]], minlength=len(texts))
    # Spans shorter than an n-gram are looked for only in the texts that have no longer one.
    while n > 1 and (short := np.flatnonzero(search.longest < n)).size:
        n = max(1, n // 2)
        rest = _Search([texts[i] for i in short], n, vocab_size)
        rest.read(train)
        search.longest[short], search.start[short] = rest.longest, rest.start
    every = zip(ngrams, copied, search.longest, search.start, strict=True)
    return [Copied(*map(int, one)) for one in every]


class _Search:
    """Texts that are looked for, and what was found of them so far.

    Attributes:
        begins, ends, owner: of each text its place in all tokens, of each token its text.
        starts: of all n-grams.
        found: which of them occur.
        longest, start: of each text the longest span that occurs and where in the text it begins; 0 below n.
    """

    def __init__(self, texts: Sequence[np.ndarray], n: int, vocab_size: int) -> None:
        self.n, self.numbers = n, mixed(np.arange(vocab_size, dtype=np.uint64))
        lengths = np.array([len(text) for text in texts], np.int64)
        self.ends = lengths.cumsum()
        self.begins = self.ends - lengths
        self.owner = np.repeat(np.arange(len(texts)), lengths)
        self.text = _Prints(np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64), self.numbers)  # fmt: skip
        self.starts = self._all_starts(np.full(len(texts), n))
        self.found = np.zeros(len(self.starts), bool)
        self.longest, self.start = np.zeros((2, len(texts)), np.int64)
        self._known = np.unique(self.text.at(self.starts, n))
        self._table = np.zeros(1 << TABLE_BITS, bool)
        self._table[self._known >> np.uint64(64 - TABLE_BITS)] = True

    def read(self, train: TokenSequence) -> None:
        """Look for the texts in all of what was trained on."""
        if not len(self.starts):
            return
        reach = int((self.ends - self.begins).max())
        for begin in range(0, len(train), BLOCK):
            self._look_in(train[begin : begin + BLOCK + reach - 1])

    def _look_in(self, tokens: np.ndarray) -> None:
        block = _Prints(tokens, self.numbers)
        prints = block.all(self.n)[:BLOCK]
        places = np.flatnonzero(self._table[prints >> np.uint64(64 - TABLE_BITS)])
        at = np.searchsorted(self._known, prints[places]).clip(max=len(self._known) - 1)
        places = places[self._known[at] == prints[places]]
        if not len(places):
            return
        left = np.flatnonzero(~self.found)
        self.found[left] = self._find(block, places, self.starts[left], self.n) >= 0
        growing = np.arange(len(self.longest))
        while len(growing):
            wanted = np.zeros(len(self.longest), np.int64)
            wanted[growing] = np.maximum(self.n, self.longest[growing] + 1)
            for length in np.unique(wanted[growing]):
                starts = self._all_starts(np.where(wanted == length, length, 0))
                at = self._find(block, places, starts, length)
                for start, place in zip(starts[at >= 0], at[at >= 0], strict=True):
                    self._extend(block, int(start), int(place), int(length))
            growing = growing[self.longest[growing] >= wanted[growing]]

    def _all_starts(self, lengths: np.ndarray) -> np.ndarray:
        """Return where spans begin of a length that each text has its own of; 0: none."""
        counts = np.where(lengths > 0, np.maximum(0, self.ends - self.begins - lengths + 1), 0)
        spans = zip(self.begins, counts, strict=True)
        return np.concatenate([np.empty(0, np.int64), *(np.arange(b, b + c) for b, c in spans)])

    def _extend(self, block: _Prints, start: int, place: int, length: int) -> None:
        """Note how far a text and a block agree from two places on, which they do for `length` tokens."""
        owner = self.owner[start]
        a, b = self.text.tokens[start : self.ends[owner]], block.tokens[place:]
        size = min(len(a), len(b))
        differ = np.flatnonzero(a[length:size] != b[length:size])
        reached = length + int(differ[0]) if len(differ) else size
        if reached > self.longest[owner]:
            self.longest[owner], self.start[owner] = reached, start - self.begins[owner]

    def _find(
        self, block: _Prints, places: np.ndarray, starts: np.ndarray, length: int
    ) -> np.ndarray:
        """Return for each start of a span the first of the places where the same tokens stand, or -1."""
        places = places[places + length <= len(block.tokens)]
        found = np.full(len(starts), -1)
        if not len(places) or not len(starts):
            return found
        known, which = np.unique(self.text.at(starts, length), return_inverse=True)
        prints = block.at(places, length)
        at = np.searchsorted(known, prints).clip(max=len(known) - 1)
        hits = np.flatnonzero(known[at] == prints)[::-1]
        first = np.full(len(known), -1)
        first[at[hits]] = places[hits]  # the last one written is the first in the block
        found = first[which]
        for i in np.flatnonzero(found >= 0):
            span = self.text.tokens[starts[i] : starts[i] + length]
            if not np.array_equal(block.tokens[found[i] : found[i] + length], span):
                # Two spans of one fingerprint: the others that have it are looked at as well.
                others = places[hits[at[hits] == which[i]]]
                same = [p for p in others if np.array_equal(block.tokens[p : p + length], span)]
                found[i] = min(same, default=-1)
        return found


def as_text(found: dict[str, Any]) -> str:
    """Return what was found for one run, in lines of plain text."""
    longest = max(found["samples"], key=lambda one: one["longest"])
    return (
        f"{found['sentence']}\nlongest span copied: {longest['longest']} tokens, {longest['text']!r} (of held-out text "
        f"{found['held_out_longest']})"
    )
