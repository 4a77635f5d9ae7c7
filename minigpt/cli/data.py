"""The verbs that make tokens of texts: prepare, tokenizer train, tokenizer show."""

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from minigpt import config
from minigpt.cli.app import JSON, TEXT, app, elapsed, finish, refuse_file, say, show, standard_input
from minigpt.cli.settings import NO_PREPARE_OPTIONS, given
from minigpt.errors import UserError
from minigpt.files import expanded


@app.command
def prepare(
    source: Annotated[str, TEXT],
    /,
    *,
    out: Path,
    workers: int | None = None,
    shard_tokens: int | None = None,
    executor: Literal["local", "slurm", "ray"] | None = None,
    tasks: int = 1,
    slurm_partition: str = "",
    slurm_time: str = "24:00:00",
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_PREPARE_OPTIONS,
) -> None:
    """Turn a text into tokens, once, in a folder that `minigpt train --data` takes. Killed, it goes on where it was.

    Example: minigpt prepare books/ --out data/books --tokenizer bpe --vocab-size 8192

    Parameters
    ----------
    source
        A text file, .jsonl, .csv or .parquet (each also .gz or .zst), a folder of them, - (standard input, text),
        hf:OWNER/NAME[:CONFIG], or a corpus by name: python-docs, shakespeare, tinystories, fineweb-edu.
    out
        The folder for the tokens.
    workers
        Threads; default: one for each core.
    shard_tokens
        A shard ends with the portion of text that brings it to so many tokens [default: 16,777,216].
    executor
        Have the parts of the source done as tasks by datatrove: on this machine, by SLURM, or by Ray. Its logs lie
        beside the folder for the tokens, in a folder that ends in -logs.
    tasks
        How many; a task takes every so many-th part (a large file, or small ones up to 64 MB together).
    slurm_partition
        Where to queue.
    slurm_time
        The longest that a task may take.
    """
    chosen = given(options) | {"source": source}
    settings = config.build([("the command line", {"data": chosen})]).data
    for name, value in (
        ("--workers", workers),
        ("--shard-tokens", shard_tokens),
        ("--tasks", tasks),
    ):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; wanted at least 1")
    if executor is None and tasks > 1:
        raise UserError(f"--tasks {tasks} needs --executor local, slurm or ray to run them")
    if out == Path():
        raise UserError("--out is empty or the folder you are in; the tokens need one of their own")
    refuse_file(expanded(out))
    from minigpt import machine
    from minigpt.data.encode import SHARD_TOKENS
    from minigpt.data.executors import Tasks
    from minigpt.data.prepare import prepare_folder

    how = Tasks(executor, tasks, slurm_partition, slurm_time) if executor else None
    made = prepare_folder(
        settings,
        expanded(out),
        say,
        workers=workers,
        shard_tokens=shard_tokens or SHARD_TOKENS,
        tasks=how,
    )
    if made is None:
        say(f"the tasks are queued; {out} is whole when the last of them has ended")
        finish(as_json, {"out": str(out), "queued": True})
        return
    seconds = elapsed()
    train, val = made.facts["train"], made.facts["val"]
    size, tokens = train["bytes"] + val["bytes"], train["tokens"] + val["tokens"]
    show(
        f"{out}: {train['tokens']:,} tokens to train on ({train['documents']:,} documents), "
        f"{val['tokens']:,} held out ({val['documents']:,} documents); {made.tokenizer.vocab_size:,} ids"
    )
    show(
        f"{size / 1e6:.1f} MB of text in {seconds:.1f} s: {size / 1e6 / seconds:.1f} MB/s, "
        f"{tokens / seconds:,.0f} tokens/s; peak memory {machine.peak_memory_bytes() / 1e6:.0f} MB"
    )
    facts = made.facts | {"out": str(out), "seconds": round(seconds, 2)}
    finish(as_json, facts | {"peak_memory_bytes": machine.peak_memory_bytes()})


tokenizer = App(name="tokenizer", help="Train a tokenizer of your own, and look at what one does.")
app.command(tokenizer)


@tokenizer.command(name="train")
def tokenizer_train(
    source: Annotated[str, TEXT],
    /,
    *,
    out: Path,
    vocab_size: int = 4096,
    kind: Literal["bpe", "char"] = "bpe",
    engine: Literal["own", "tokenizers"] = "own",
    limit_bytes: int = 1_000_000_000,
    field: str = "text",
    errors: Literal["strict", "replace"] = "strict",
    as_json: JSON = False,
) -> None:
    """Learn a tokenizer from a text.

    Example: minigpt tokenizer train books/ --out books/tokenizer.json --vocab-size 20000

    Parameters
    ----------
    source
        As for minigpt prepare.
    out
        A folder, or a file called tokenizer.json in one.
    vocab_size
        Ids, the three special tokens included; for --kind bpe.
    kind
        Pieces of words that are learnt, or single characters.
    engine
        Who learns the merges: minigpt itself, or the tokenizers library (other merges where counts are equal).
    limit_bytes
        Bytes of text that are read at most; 0: all.
    field
        Where the text of a .jsonl, .csv or .parquet record stands.
    errors
        Bytes that are not UTF-8 end the reading, or become U+FFFD.
    """
    if vocab_size < 259 or vocab_size > 2**24:
        raise UserError(f"--vocab-size is {vocab_size}; wanted at least 259 and at most {2**24}")
    if limit_bytes < 0:
        raise UserError(f"--limit-bytes is {limit_bytes}; wanted at least 0")
    if out.suffix == ".json" and out.name != "tokenizer.json":
        raise UserError(f"--out is {out}; wanted a folder, or a file called tokenizer.json in one")
    refuse_file(out.parent if out.name == "tokenizer.json" else out)
    from minigpt.data.corpora import open_source
    from minigpt.data.decoding import Reading
    from minigpt.data.learn import train_tokenizer

    text = open_source(source, Reading(field=field, errors=errors), together=limit_bytes > 0)
    for line in text.notes:
        say(line)
    with contextlib.ExitStack() as stack:
        stack.callback(text.discard)
        options: Any = {"kind": kind, "vocab_size": vocab_size, "engine": engine}
        made, facts = train_tokenizer(text, limit_bytes=limit_bytes, say=say, **options)
    folder = out.parent if out.name == "tokenizer.json" else out
    folder.mkdir(parents=True, exist_ok=True)
    made.save(folder, facts)
    by = f" (merges learnt by {'minigpt' if engine == 'own' else engine})" if kind == "bpe" else ""
    seconds = elapsed()
    show(
        f"{folder / 'tokenizer.json'}: {made.vocab_size:,} ids from {facts['bytes'] / 1e6:.1f} MB of {text.name} "
        f"in {seconds:.1f} s{by}"
    )
    finish(
        as_json,
        facts | {"out": str(folder), "vocab_size": made.vocab_size, "seconds": round(seconds, 2)},
    )


@tokenizer.command(name="show")
def tokenizer_show(which: str, text: Annotated[str, TEXT], /, *, as_json: JSON = False) -> None:
    """Show how a tokenizer cuts a text: pieces in colours, ids, characters and bytes per token.

    Example: minigpt tokenizer show runs/demo "Return the number of items."

    Parameters
    ----------
    which
        gpt2, a tokenizer.json, a folder with one (a run, a prepared text), or one with vocab.bpe and encoder.json.
    text
        The text; - reads standard input.
    """
    from rich.console import Console

    from minigpt.tokenizer import find_tokenizer
    from minigpt.tokenizer.show import as_text, view

    found = view(find_tokenizer(which), standard_input() if text == "-" else text)
    console = Console(highlight=False)
    shown = as_text(found, colours=console.is_terminal and not console.no_color)
    console.print(shown, soft_wrap=not console.is_terminal)
    finish(as_json, found)
