"""Shapes in; tokens per second of prefill and decode out, ours beside a peer's, one text and sixteen at a time.

Everybody goes on greedily from the same random prompts with the same random weights, on as many threads, each in a
process of its own, in turns; the best round counts, for other processes only ever slow one down.
"""

import dataclasses
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from minigpt.bench.llama_cpp import measure_llama_cpp
from minigpt.bench.rows import Row, row
from minigpt.config import ModelConfig, SampleConfig
from minigpt.errors import UserError
from minigpt.extras import missing, require, version_of
from minigpt.inference.opening import Decoding, open_engine
from minigpt.interop.gguf import write_gguf
from minigpt.interop.loading import load_both
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, bpe_tokenizer

SHAPES = {
    "12m": ModelConfig(vocab_size=8192, block_size=1024, n_layer=6, n_head=6, n_embd=384),
    "124m": ModelConfig(vocab_size=50304, block_size=1024, n_layer=12, n_head=12, n_embd=768),
}
DTYPES = ("fp32", "bf16", "int8")
PEERS = ("hf", "llama.cpp")
GGUF_TYPES: dict[str, Any] = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0"}
BATCHES = (1, 16)
PROMPT_TOKENS = 128
ROUNDS = 2
REPEATS = 3  # in each

Say = Callable[[str], None]
Speeds = tuple[float, float]  # tokens per second of prefill and of decode


@dataclasses.dataclass(frozen=True)
class Work:
    """What one process measures.

    Attributes:
        shape: its name.
        dtype: of the weights.
        batch: texts at a time.
        tokens: new ones of each.
        folder: with the model.
        threads: that compute.
    """

    shape: str
    dtype: str
    batch: int
    tokens: int
    folder: Path
    threads: int

    def prompts(self) -> list[list[int]]:
        """Return random ids."""
        dice = torch.Generator().manual_seed(0)
        return torch.randint(256, (self.batch, PROMPT_TOKENS), generator=dice).tolist()


def bench_sample(
    *,
    shapes: Collection[str] = tuple(SHAPES),
    dtypes: Collection[str] = DTYPES,
    peers: Collection[str] = (),
    tokens: int = 64,
    compiled: bool = True,
    say: Say = lambda line: None,
) -> list[Row]:
    """Return rows of figures.

    Args:
        shapes: of `SHAPES`.
        dtypes: of `DTYPES`.
        peers: "hf" for `transformers`' generate, "llama.cpp" through xllamacpp, on files written here.
        tokens: new ones after each prompt of 128.
        compiled: whether our compiled step is measured too.
        say: called with what is going on.

    Raises:
        UserError: a name that is not known, or a peer that is not there.
    """
    for given, known, option in (
        (shapes, SHAPES, "--shape"),
        (dtypes, DTYPES, "--dtype"),
        (peers, PEERS, "--vs"),
    ):
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"{option} {unknown[0]} is not known; wanted {', '.join(known)}")
    if "hf" in peers:
        require("hf", "--vs hf")
    if "llama.cpp" in peers:
        require("gguf", "--vs llama.cpp")
        if version_of("xllamacpp") is None:
            raise missing("xllamacpp", "--vs llama.cpp", "pip install xllamacpp")
    best: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            write_random_model(
                Path(folder) / shape, SHAPES[shape], dtypes if "llama.cpp" in peers else ()
            )
        for number in range(ROUNDS):
            for shape in shapes:
                for dtype in dtypes:
                    for batch in BATCHES:
                        work = Work(
                            shape,
                            dtype,
                            batch,
                            tokens,
                            Path(folder) / shape,
                            torch.get_num_threads(),
                        )
                        say(f"{shape}, {dtype}, batch {batch}, round {number + 1} of {ROUNDS} …")
                        for who, way in _ways(work, peers, compiled):
                            for part, speed in zip(
                                ("prefill", "decode"), _in_a_process(way, work), strict=True
                            ):
                                name = (f"{part} {shape} {dtype} x {batch}", who)
                                best[name] = max(speed, best.get(name, 0.0))
    return [
        row(what, who, speed, "tokens/s") for (what, who), speed in sorted(best.items(), key=_place)
    ]


def _place(found: tuple[tuple[str, str], float]) -> list[Any]:
    """Return what figures are sorted by: decode first, then as they are asked for."""
    part, shape, dtype, _, batch = found[0][0].split()
    return [
        part,
        list(SHAPES).index(shape),
        DTYPES.index(dtype),
        int(batch),
        found[0][1] != "minigpt",
    ]


def _ways(
    work: Work, peers: Collection[str], compiled: bool
) -> Iterator[tuple[str, Callable[[Work], Speeds]]]:
    """Yield who is measured, and by what."""
    yield "minigpt", ours
    if compiled and work.batch == 1:
        yield "compiled", ours_compiled
    if "hf" in peers and work.dtype != "int8":
        yield "hf", transformers_generate
    if "llama.cpp" in peers:
        yield "llama.cpp", llama_cpp


def ours(work: Work, *, compile: bool = False) -> Speeds:
    """Measure our engine, with all that is done to a token until it is text."""
    torch.set_num_threads(work.threads)
    torch.set_flush_denormal(True)
    model, tokenizer = load_both(work.folder)
    how: dict[str, Any] = {"dtype": work.dtype}
    if work.dtype == "int8":
        how = {"quantize": "int8"}
    decoding = Decoding(device="cpu", compile=compile, **how)
    engine = open_engine(model, tokenizer, decoding, slots=work.batch, say=lambda line: None)
    prefill = decode = 0.0
    for _ in range(REPEATS + 1):
        engine.forget()
        settings = SampleConfig(greedy=True, max_tokens=work.tokens)
        began = time.perf_counter()
        # No end of text, so that everybody draws as many tokens.
        banned = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
        texts = [engine.submit(prompt, settings, banned=banned) for prompt in work.prompts()]
        while engine.waiting:
            engine.step()
        read = time.perf_counter()
        drawn = sum(len(text.picked) for text in texts)
        while engine.live:
            engine.step()
        ended = time.perf_counter()
        decode = max(decode, (work.batch * work.tokens - drawn) / (ended - read))
        # Texts that joined early went on while later prompts were read.
        reading = (read - began) - (drawn - work.batch) * (ended - read) / max(
            1, work.batch * work.tokens - drawn
        )
        prefill = max(prefill, work.batch * PROMPT_TOKENS / max(1e-9, reading))
    return prefill, decode


def ours_compiled(work: Work) -> Speeds:
    """Measure our engine with its compiled step."""
    return ours(work, compile=True)


def transformers_generate(work: Work) -> Speeds:
    """Measure `transformers`: with one token more it has decoded one more."""
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(work.threads)
    torch.set_flush_denormal(True)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[work.dtype]
    model = transformers.AutoModelForCausalLM.from_pretrained(work.folder, dtype=dtype).eval()
    ids = torch.tensor(work.prompts())
    mask = torch.ones_like(ids)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        model.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
        )  # fmt: skip
        return time.perf_counter() - began

    seconds(2)
    first = min(seconds(1) for _ in range(REPEATS))
    whole = min(seconds(work.tokens) for _ in range(REPEATS))
    return ids.numel() / first, work.batch * (work.tokens - 1) / (whole - first)


def llama_cpp(work: Work) -> Speeds:
    """Measure llama.cpp on our own file."""
    path = work.folder / f"{work.dtype}.gguf"
    return measure_llama_cpp(path, work.prompts(), work.tokens, work.threads, REPEATS)


def _in_a_process(way: Callable[[Work], Speeds], work: Work) -> Speeds:
    """Measure in a fresh process: its threads and its memory are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, work).result()


def write_random_model(folder: Path, shape: ModelConfig, dtypes: Collection[str]) -> None:
    """Write a model with random weights, and files of it for llama.cpp."""
    torch.manual_seed(0)
    model, tokenizer = GPT(shape), _tokenizer(shape.vocab_size)
    model.save_pretrained(folder, tokenizer)
    for dtype in dtypes:
        write_gguf(
            folder / f"{dtype}.gguf", model.config, model.state_dict(), tokenizer,
            dtype=GGUF_TYPES[dtype], say=lambda line: None,
        )  # fmt: skip


def _tokenizer(vocab_size: int) -> Tokenizer:
    """Return a tokenizer of so many ids; its merges, of all bytes with all, stand in no text."""
    count = vocab_size - len(bpe_tokenizer([]).pieces)
    return bpe_tokenizer([(i // 256, i % 256) for i in range(count)])
