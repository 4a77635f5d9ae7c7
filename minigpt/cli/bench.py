"""The verbs that measure minigpt beside its peers: bench tokenizer, bench train, bench sample, bench serve."""

from typing import Annotated, Any

from cyclopts import App, Parameter

from minigpt.cli.app import FLAG, JSON, TEXT, app, finish, say, show
from minigpt.cli.settings import DEVICE, FILES, NO_OPTIONS, PRESET, settings_of
from minigpt.errors import UserError
from minigpt.extras import require

bench = App(name="bench", help="Measure minigpt beside its peers, in one run on this machine.")
app.command(bench)


@bench.command(name="tokenizer")
def bench_tokenizer(
    *,
    data: Annotated[str, TEXT] = "python-docs",
    vs: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    vocab_size: int = 4096,
    which: Annotated[str | None, Parameter(name="--tokenizer")] = None,
    limit_bytes: int = 0,
    as_json: JSON = False,
) -> None:
    """Time the training of a tokenizer, the encoding of a text, and the whole of minigpt prepare.

    Example: minigpt bench tokenizer --vs tokenizers --vs tiktoken --data books/

    Parameters
    ----------
    data
        The text, as for minigpt prepare; it is held in memory.
    vs
        A peer: tokenizers or tiktoken; several times for both.
    vocab_size
        Ids of the tokenizer that is trained.
    which
        Encode with this tokenizer (gpt2, or a path) and train none.
    limit_bytes
        Bytes of text that are read at most; 0: all.
    """
    from minigpt.bench.rows import as_table
    from minigpt.bench.tokenizer import bench_tokenizer

    rows = bench_tokenizer(
        data, vocab_size=vocab_size, tokenizer=which, peers=vs, limit_bytes=limit_bytes, say=say
    )
    show(as_table(rows))
    finish(as_json, rows)


@bench.command(name="train")
def bench_train(
    *,
    preset: PRESET = None,
    files: FILES = (),
    device: DEVICE = None,
    vs: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    seconds: float = 5.0,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_OPTIONS,
) -> None:
    """Time a step of training: milliseconds, tokens per second, share of what the machine can do, memory.

    Example: minigpt bench train --preset shakespeare-cpu --vs hf

    Parameters
    ----------
    vs
        A peer: hf, a GPT-2 of transformers of the same size, trained by a plain loop.
    seconds
        Of each of three rounds.
    """
    settings = settings_of(preset, files, options, {"train.device": device})
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds is {seconds}; wanted more than 0 and at most 3600")
    from minigpt.bench.rows import as_table
    from minigpt.bench.train import bench_train

    rows = bench_train(settings, peers=vs, seconds=seconds, say=say)
    show(as_table(rows))
    finish(as_json, rows)


@bench.command(name="sample")
def bench_sample(
    *,
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ("12m", "124m"),
    dtype: Annotated[tuple[str, ...], Parameter(negative="")] = ("fp32", "bf16", "int8"),
    vs: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    tokens: int = 64,
    eager_only: FLAG = False,
    as_json: JSON = False,
) -> None:
    """Time generation: tokens per second of prefill and decode, one text and sixteen at a time.

    Example: minigpt bench sample --vs hf --vs llama.cpp --shape 12m

    Parameters
    ----------
    shape
        12m or 124m; several times for both.
    dtype
        fp32, bf16 or int8; several times for more.
    vs
        A peer: hf (transformers' generate) or llama.cpp (through xllamacpp); several times for both.
    tokens
        New tokens after each prompt of 128.
    eager_only
        Leave the compiled step out, which takes half a minute to make for each shape and dtype the first time.
    """
    if not 8 <= tokens <= 512:
        raise UserError(f"--tokens is {tokens}; wanted at least 8 and at most 512")
    from minigpt.bench.rows import as_table
    from minigpt.bench.sample import bench_sample

    rows = bench_sample(
        shapes=shape, dtypes=dtype, peers=vs, tokens=tokens, compiled=not eager_only, say=say
    )
    show(as_table(rows))
    finish(as_json, rows)


@bench.command(name="serve")
def bench_serve(
    *,
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ("tiny", "12m"),
    clients: Annotated[tuple[int, ...], Parameter(negative="")] = (1, 64),
    tokens: int = 64,
    requests: int = 4,
    slots: int = 16,
    whole: FLAG = False,
    as_json: JSON = False,
) -> None:
    """Time the server over HTTP: tokens per second of all clients together, and the time to a first token.

    Example: minigpt bench serve --shape 12m --clients 1 --clients 64

    Parameters
    ----------
    shape
        tiny or 12m; several times for both.
    clients
        How many at once; several times for several counts.
    tokens
        New tokens of each request.
    requests
        Of each client, one after the other.
    slots
        Texts that the server writes at a time.
    whole
        Ask for answers in one piece, not as they are made.
    """
    for name, value, most in (
        ("tokens", tokens, 400), ("requests", requests, 1000), ("slots", slots, 1024), ("clients", min(clients), 256),
        ("clients", max(clients), 256),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise UserError(f"--{name} is {value}; wanted at least 1 and at most {most}")
    require("serve", "minigpt bench serve")
    from minigpt.bench.rows import as_table
    from minigpt.bench.serve import bench_serve

    rows = bench_serve(
        shapes=shape, clients=clients, tokens=tokens, requests=requests, slots=slots, stream=not whole, say=say
    )  # fmt: skip
    show(as_table(rows))
    finish(as_json, rows)
