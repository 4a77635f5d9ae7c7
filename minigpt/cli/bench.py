"""The verbs that measure minigpt beside its peers: bench tokenizer."""

from typing import Annotated

from cyclopts import App, Parameter

from minigpt.cli.app import JSON, TEXT, app, finish, say, show

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
    from minigpt.bench import tokenizer as measured

    rows = measured.bench_tokenizer(
        data, vocab_size=vocab_size, tokenizer=which, peers=vs, limit_bytes=limit_bytes, say=say
    )
    show(measured.as_table(rows))
    finish(as_json, rows)
