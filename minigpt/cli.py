"""The verbs: each parses its options, calls one function, and prints what comes back.

Progress goes to standard error, results to standard output. Exit status: 0 done, 2 bad input, 1 anything else.
"""

import contextlib
import dataclasses
import errno
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from cyclopts import App, CycloptsError, Group, Parameter

from minigpt import __version__, config
from minigpt.config import DataConfig, RunConfig, SampleConfig
from minigpt.errors import UserError

app = App(
    name="minigpt",
    help="From any text to a GPT of your own. Begin with: minigpt demo",
    version=__version__,
    help_format="plaintext",
)
_started = time.monotonic()

JSON = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="Print one JSON object as the last line.",
    ),
]
FLAG = Annotated[bool, Parameter(negative="", show_default=False)]
TEXT = Parameter(allow_leading_hyphen=True)

# What `train` and `plan` have in common beside the settings.
PRESET = Annotated[
    str | None,
    Parameter(
        help="Settings that come with minigpt: demo, shakespeare-cpu, shakespeare-char, gpt2-124m, mqa-512, 1b."
    ),
]
FILES = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--config",
        negative="",
        show_default=False,
        help="A TOML file with settings, run.toml of another run for instance; several times: later ones win.",
    ),
]
DATA = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="Short for --data.source: a text file, a folder of them, - (standard input), a prepared folder, "
        "hf:OWNER/NAME, or a corpus by name: python-docs, shakespeare, tinystories, fineweb-edu.",
    ),
]
MINUTES = Annotated[
    str | None, Parameter(help="Short for --train.minutes: wall time of the whole process.")
]
DEVICE = Annotated[str | None, Parameter(help="Short for --train.device: auto, cpu, cuda or mps.")]


def run(started: float, arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line (None: this process's) and return the exit status."""
    global _started
    _started = started
    if sys.stdout is None:  # closed by who called us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show it shows as "?"
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    except (UserError, CycloptsError) as error:
        _note(f"minigpt: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        # A full disk, a folder without permission; nothing that was whole is lost.
        place = f": {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            place += "; what is whole is kept: make room, and run the same command again"
        _note(f"minigpt: {error.strerror or error}{place}")
        return 1
    return 0


# -------------------------------------------------------------------------------------------------------- settings


def _options(section: Any, without: Sequence[str] = ()) -> Any:
    """Return a dataclass with the fields of a section (but some) as options: None where nothing is given.

    Values stay text until they are checked together with presets and files, so that all problems are said at once.
    """
    hints = get_type_hints(section)
    fields = []
    for item in dataclasses.fields(section):
        if item.name in without:
            continue
        kind: Any = bool if hints[item.name] is bool else str
        choices = get_args(hints[item.name]) if Literal is _origin(hints[item.name]) else ()
        listed = f" One of {', '.join(choices)}." if choices else ""
        parameter = Parameter(
            help=f"{item.metadata['doc']}.{listed} [default: {item.default}]",
            show_default=False,
            allow_leading_hyphen=True,
        )
        fields.append((item.name, Annotated[kind | None, parameter], None))
    return _dataclass(f"{section.__name__}Options", fields)


def _origin(hint: Any) -> Any:
    return getattr(hint, "__origin__", None)


def _all_options() -> Any:
    """Return a dataclass with the options of every section, each section in a group of its own in the help."""
    fields = []
    for place, (name, section) in enumerate(config.SECTIONS.items(), start=1):
        options: Any = _options(section)
        group = Group(f"--{name}.… {section.__doc__}", sort_key=place)
        fields.append((name, Annotated[options, Parameter(group=group)], options()))
    return _dataclass("Options", fields)


def _dataclass(name: str, fields: list[Any]) -> Any:
    made = dataclasses.make_dataclass(name, fields, kw_only=True, frozen=True)
    # As made in this module; cyclopts reads no options from classes of the standard library.
    made.__module__ = __name__
    return made


Options: Any = _all_options()
SampleOptions: Any = _options(SampleConfig)
# What concerns the making of tokens; the rest of [data] concerns their reading.
PrepareOptions: Any = _options(
    DataConfig, without=("source", "documents", "stream", "token_dtype", "seed")
)
NO_OPTIONS, NO_SAMPLE_OPTIONS, NO_PREPARE_OPTIONS = Options(), SampleOptions(), PrepareOptions()


def _given(options: Any) -> dict[str, Any]:
    """Return what was given on the command line, {section: {key: text}} or {key: text}."""
    if options is None:
        return {}
    values = ((f.name, getattr(options, f.name)) for f in dataclasses.fields(options))
    return {
        name: _given(value) if dataclasses.is_dataclass(value) else value
        for name, value in values
        if value is not None
    }


def _settings(
    preset: str | None, files: Sequence[Path], options: Any, short: dict[str, Any]
) -> RunConfig:
    """Return preset, then files, then the command line laid over the defaults."""
    layers = [config.preset_layer(preset)] if preset else []
    layers += [config.file_layer(path) for path in files]
    sections = _given(options)
    for name, value in short.items():
        if value is not None:
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
    return config.build([*layers, ("the command line", sections)])


def _out(out: Path | None, preset: str | None, data: str | None) -> Path:
    if data == "-":
        data = "standard-input"
    if out is not None and out == Path():
        raise UserError("--out is empty or the folder you are in; a run needs a folder of its own")
    return out.expanduser() if out else Path("runs") / (preset or Path(data or "latest").stem)


# ----------------------------------------------------------------------------------------------------------- verbs


@app.command
def demo(
    *, minutes: str = "1", out: Path = Path("runs/demo"), again: FLAG = False, as_json: JSON = False
) -> None:
    """Train a first GPT on the documentation of this Python: offline, on a CPU, in a minute or two.

    Example: minigpt demo --minutes 2

    Parameters
    ----------
    minutes
        Minutes of training; preparing the text takes some seconds more.
    out
        The run directory. A second demo there shows what the first one made.
    again
        Start over.
    """
    from minigpt.demo import demo

    settings = _settings("demo", [], None, {"train.minutes": minutes})
    _end(as_json, demo(settings, out, again=again))


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
    given = _given(options) | {"source": source}
    settings = config.build([("the command line", {"data": given})]).data
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
    _refuse_file(out.expanduser())
    from minigpt import machine
    from minigpt.data.encode import SHARD_TOKENS
    from minigpt.data.executors import Tasks
    from minigpt.data.prepare import prepare_folder

    how = Tasks(executor, tasks, slurm_partition, slurm_time) if executor else None
    made = prepare_folder(
        settings,
        out.expanduser(),
        _note,
        workers=workers,
        shard_tokens=shard_tokens or SHARD_TOKENS,
        tasks=how,
    )
    if made is None:
        _note(f"the tasks are queued; {out} is whole when the last of them has ended")
        _end(as_json, {"out": str(out), "queued": True})
        return
    seconds = time.monotonic() - _started
    train, val = made.facts["train"], made.facts["val"]
    size, tokens = train["bytes"] + val["bytes"], train["tokens"] + val["tokens"]
    _result(
        f"{out}: {train['tokens']:,} tokens to train on ({train['documents']:,} documents), "
        f"{val['tokens']:,} held out ({val['documents']:,} documents); {made.tokenizer.vocab_size:,} ids"
    )
    _result(
        f"{size / 1e6:.1f} MB of text in {seconds:.1f} s: {size / 1e6 / seconds:.1f} MB/s, "
        f"{tokens / seconds:,.0f} tokens/s; peak memory {machine.peak_memory_bytes() / 1e6:.0f} MB"
    )
    facts = made.facts | {"out": str(out), "seconds": round(seconds, 2)}
    _end(as_json, facts | {"peak_memory_bytes": machine.peak_memory_bytes()})


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
    _refuse_file(out.parent if out.name == "tokenizer.json" else out)
    from minigpt.data.corpora import open_source
    from minigpt.data.formats import Reading
    from minigpt.data.learn import train_tokenizer

    text = open_source(source, Reading(field=field, errors=errors), together=limit_bytes > 0)
    for note in text.notes:
        _note(note)
    with contextlib.ExitStack() as stack:
        stack.callback(text.discard)
        options: Any = {"kind": kind, "vocab_size": vocab_size, "engine": engine}
        made, facts = train_tokenizer(text, limit_bytes=limit_bytes, say=_note, **options)
    folder = out.parent if out.name == "tokenizer.json" else out
    folder.mkdir(parents=True, exist_ok=True)
    made.save(folder, facts)
    by = f" (merges learnt by {'minigpt' if engine == 'own' else engine})" if kind == "bpe" else ""
    seconds = time.monotonic() - _started
    _result(
        f"{folder / 'tokenizer.json'}: {made.vocab_size:,} ids from {facts['bytes'] / 1e6:.1f} MB of {text.name} "
        f"in {seconds:.1f} s{by}"
    )
    _end(
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

    found = view(find_tokenizer(which), _standard_input() if text == "-" else text)
    console = Console(highlight=False)
    shown = as_text(found, colours=console.is_terminal and not console.no_color)
    console.print(shown, soft_wrap=not console.is_terminal)
    _end(as_json, found)


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
        data, vocab_size=vocab_size, tokenizer=which, peers=vs, limit_bytes=limit_bytes, say=_note
    )
    _result(measured.as_table(rows))
    _end(as_json, rows)


@app.command
def train(
    *,
    preset: PRESET = None,
    files: FILES = (),
    data: DATA = None,
    out: Path | None = None,
    minutes: MINUTES = None,
    device: DEVICE = None,
    override: FLAG = False,
    again: FLAG = False,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_OPTIONS,
) -> None:
    """Train a GPT on a text, or go on where the run in --out stopped.

    Example: minigpt train --preset shakespeare-cpu --data shakespeare.txt --out runs/bard

    Parameters
    ----------
    out
        The run directory; default runs/ and the name of the preset or of the text.
    override
        Go on with a run although its settings have changed.
    again
        Start over, even if --out holds a run.
    """
    short = {"data.source": data, "train.minutes": minutes, "train.device": device}
    settings = _settings(preset, files, options, short)
    from minigpt.pretrain import train

    place = _out(out, preset, data)
    result = train(settings, place, again=again, override=override, started=_started)
    _end(as_json, {"run": str(result)})


@app.command
def plan(
    *,
    preset: PRESET = None,
    files: FILES = (),
    data: DATA = None,
    minutes: MINUTES = None,
    device: DEVICE = None,
    processes: int = 1,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_OPTIONS,
) -> None:
    """Say what a run with these settings will be, before anything starts: parameters, FLOPs, tokens, bytes, warnings.

    Example: minigpt plan --preset gpt2-124m

    Parameters
    ----------
    processes
        How many share the sequences of each step.
    """
    short = {"data.source": data, "train.minutes": minutes, "train.device": device}
    settings = _settings(preset, files, options, short)
    from minigpt.plan import as_text, plan

    facts = plan(settings, processes=processes)
    _result(as_text(facts))
    _end(as_json, facts)


@app.command
def sample(
    run: Path,
    /,
    *,
    options: Annotated[Any, Parameter(name="*")] = NO_SAMPLE_OPTIONS,
    as_json: JSON = False,
) -> None:
    """Draw text from a trained model, on standard output as it is made.

    Example: minigpt sample runs/demo --prompt "The following" --num-samples 2

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, or a Hugging Face directory.
    """
    from minigpt.interop.loading import load_both
    from minigpt.rundir import RunDir
    from minigpt.sampling import stream

    given = _given(options)
    if "prompt" not in given and (run / "run.toml").is_file():
        given["prompt"] = RunDir(run).config.sample.prompt
    settings = config.build([("the command line", {"sample": given})]).sample
    if settings.prompt == "-":
        settings = dataclasses.replace(settings, prompt=_standard_input())
    if any("\udc80" <= character <= "\udcff" for character in settings.prompt):
        raise UserError(
            "the prompt is not UTF-8; set the terminal to UTF-8, or pass it with --prompt -"
        )
    model, tokenizer = load_both(run)
    length, context = len(tokenizer.encode(settings.prompt)), model.config.block_size
    if length > context:
        _note(f"the prompt has {length} tokens; the model sees the last {context} of them")
    texts = []
    for number in range(settings.num_samples):
        if number:
            sys.stdout.write("\n---\n")
        text = settings.prompt
        sys.stdout.write(text)
        for piece in stream(model, tokenizer, settings.prompt, **settings.drawing(number)):
            sys.stdout.write(piece)
            sys.stdout.flush()
            text += piece
        texts.append(text)
    sys.stdout.write("\n")
    _end(as_json, {"samples": texts})


@app.command
def eval(
    run: Path,
    /,
    *more: Path,
    data: Annotated[str | None, TEXT] = None,
    device: str = "auto",
    as_json: JSON = False,
) -> None:
    """Measure a model on its held-out text: loss, perplexity, bits per byte, beside simple baselines.

    Example: minigpt eval runs/demo

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, or a Hugging Face directory.
    more
        Further ones, to compare.
    data
        Measure on this text instead; for a directory that no run was trained in.
    device
        auto, cpu, cuda or mps.
    """
    from minigpt.data.corpora import open_source, read_pieces
    from minigpt.data.tokens import tokens_of_text
    from minigpt.evaluate.measure import as_table, measure

    with contextlib.ExitStack() as stack:
        text = None
        if data is not None:
            source = open_source(data)
            stack.callback(source.discard)

            def text(tokenizer: Any) -> Any:
                return tokens_of_text(read_pieces(source), tokenizer)

        measured = {str(path): measure(path, text, device) for path in (run, *more)}
    _result(as_table(measured))
    results = list(measured.values())
    _end(as_json, results[0] if len(results) == 1 else results)


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: {folder} is a file; a folder was wanted")


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: byte {error.start}; pass text") from None


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")


def _result(text: str) -> None:
    sys.stdout.write(text + "\n")


def _end(as_json: bool, result: Any) -> None:
    if as_json:
        _result(json.dumps(result))
