"""A text in; seconds of training and megabytes per second of encoding out, ours beside the libraries' of the field.

Everybody encodes the same documents with the same merges on the same cores, in turns; the best of three is taken, for
other processes only ever slow one down. Their ids are compared, too.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from minigpt import machine
from minigpt.bench.rows import Row, row
from minigpt.data.corpora import open_source, read_pieces
from minigpt.data.decoding import Reading
from minigpt.data.split import Place, limited
from minigpt.errors import UserError
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, find_tokenizer
from minigpt.tokenizer.trainer import count_pieces, library_merges, train_merges

PEERS = ("tokenizers", "tiktoken")
ROUNDS = 3
PORTION = 1 << 16  # characters of a document at most, so that every core has some

Say = Callable[[str], None]


def bench_tokenizer(
    source: str,
    *,
    vocab_size: int = 4096,
    tokenizer: str | None = None,
    peers: Iterable[str] = (),
    limit_bytes: int = 0,
    say: Say = lambda line: None,
) -> list[Row]:
    """Return rows of figures.

    Args:
        source: the text, as for training.
        vocab_size: of the tokenizer that is trained; ignored where one is given.
        tokenizer: encode with this one and train none.
        peers: of "tokenizers" and "tiktoken".
        limit_bytes: of text; 0: all.
        say: called with what is going on.

    Raises:
        UserError: a peer that is not known, or two that give other ids.
    """
    if vocab_size < 259:
        raise UserError(f"--vocab-size is {vocab_size}; wanted at least 259")
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise UserError(f"--vs {unknown[0]} is not known; peers: {', '.join(PEERS)}")
    read = limited(read_pieces(open_source(source, Reading(), together=True)), Place(), 0, limit_bytes)  # fmt: skip
    texts = [t[i : i + PORTION] for _, t in read for i in range(0, len(t), PORTION)]
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise UserError(f"{source} holds no text; pass a source with some")
    cores = machine.cores()
    say(f"{size / 1e6:.1f} MB of {source}, {len(texts):,} documents, {cores} cores")
    rows: list[Row] = []
    if tokenizer is None:
        made, trained = _train(texts, vocab_size, "tokenizers" in peers, say)
        rows += trained
    else:
        made = find_tokenizer(tokenizer)
    rows += _encode(texts, size, made, peers, cores, say)
    rows.append(_whole_command(texts, size, made, say))
    return rows


def _train(
    texts: list[str], vocab_size: int, with_library: bool, say: Say
) -> tuple[Tokenizer, list[Row]]:
    count = vocab_size - 259
    say(f"training {vocab_size:,} tokens …")
    started = time.perf_counter()
    words = count_pieces(texts)
    merges = train_merges(words, count)
    rows = [row("training", "minigpt", time.perf_counter() - started, "s")]
    if with_library:
        started = time.perf_counter()
        library_merges(texts, count)
        rows.append(row("training", "tokenizers", time.perf_counter() - started, "s"))
    return bpe_tokenizer(merges), rows


def _encode(
    texts: list[str], size: int, made: Tokenizer, peers: Iterable[str], cores: int, say: Say
) -> list[Row]:
    ways: dict[str, Callable[[], list[Any]]] = {}
    pool = ThreadPoolExecutor(cores)
    ways["minigpt"] = lambda: list(pool.map(made.encode_array, texts))
    if "tokenizers" in peers:
        ways["tokenizers"] = lambda: [
            e.ids for e in made.backend.encode_batch(texts, add_special_tokens=False)
        ]
    if "tiktoken" in peers:
        theirs = _plain_tiktoken(made)
        ways["tiktoken"] = lambda: theirs.encode_ordinary_batch(texts, num_threads=cores)
    best = dict.fromkeys(ways, float("inf"))
    ids: dict[str, np.ndarray] = {}
    for number in range(ROUNDS):
        say(f"encoding, round {number + 1} of {ROUNDS} …")
        for who, way in ways.items():
            started = time.perf_counter()
            found = way()
            best[who] = min(best[who], time.perf_counter() - started)
            if who not in ids:
                ids[who] = np.concatenate([np.asarray(part, np.int64) for part in found])
    pool.shutdown()
    for who, found in ids.items():
        if not np.array_equal(found, ids["minigpt"]):
            raise UserError(f"{who} gives other ids than minigpt for this text; tell us, please")
    return [row("encoding", who, size / 1e6 / seconds, "MB/s") for who, seconds in best.items()]


def _plain_tiktoken(made: Tokenizer) -> tiktoken.Encoding:
    """Return tiktoken as a user of it alone would set it up."""
    if made.bulk is None:
        raise UserError("tiktoken cannot be given the merges of this tokenizer; leave --vs tiktoken out")  # fmt: skip
    return tiktoken.Encoding(**made.bulk)


def _whole_command(texts: list[str], size: int, made: Tokenizer, say: Say) -> Row:
    """Time `minigpt prepare` from a file to shards: start of the process, reading, splitting, hashing, writing."""
    say("the whole command, minigpt prepare …")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "text.txt").open("w", encoding="utf-8") as file:
            file.writelines(texts)
        made.save(folder)
        command = [sys.executable, "-m", "minigpt", "prepare", str(folder / "text.txt")]
        options = ["--out", str(folder / "out"), "--tokenizer", str(folder / "tokenizer.json")]
        started = time.perf_counter()
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"minigpt prepare failed: {done.stderr.strip()}")
    return row("minigpt prepare, file to shards", "minigpt", size / 1e6 / seconds, "MB/s")
