"""The verbs: each parses its options, calls one function, and prints what comes back.

Progress goes to standard error, results to standard output. Exit status: 0 done, 2 bad input, 1 anything else.
"""

import dataclasses
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
from minigpt.config import RunConfig, SampleConfig
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
        _note(f"minigpt: {error.strerror or error}{place}")
        return 1
    return 0


# -------------------------------------------------------------------------------------------------------- settings


def _options(section: Any) -> Any:
    """Return a dataclass with the fields of a section as options: None where nothing is given.

    Values stay text until they are checked together with presets and files, so that all problems are said at once.
    """
    hints = get_type_hints(section)
    fields = []
    for item in dataclasses.fields(section):
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
NO_OPTIONS, NO_SAMPLE_OPTIONS = Options(), SampleOptions()


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
def train(
    *,
    preset: str | None = None,
    files: Annotated[
        tuple[Path, ...], Parameter(name="--config", negative="", show_default=False)
    ] = (),
    data: Annotated[str | None, TEXT] = None,
    out: Path | None = None,
    minutes: str | None = None,
    device: str | None = None,
    override: FLAG = False,
    again: FLAG = False,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_OPTIONS,
) -> None:
    """Train a GPT on a text, or go on where the run in --out stopped.

    Example: minigpt train --preset shakespeare-cpu --data shakespeare.txt --out runs/bard

    Parameters
    ----------
    preset
        Settings that come with minigpt: demo, shakespeare-cpu, shakespeare-char, gpt2-124m, mqa-512, 1b.
    files
        A TOML file with settings, run.toml of another run for instance; several times: later ones win.
    data
        Short for --data.source: a text file, a folder of them, - (standard input), or python-docs.
    out
        The run directory; default runs/ and the name of the preset or of the text.
    minutes
        Short for --train.minutes: wall time of the whole process.
    device
        Short for --train.device: auto, cpu, cuda or mps.
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
    from minigpt.rundir import RunDir, load
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
    model, tokenizer = load(run)
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
    from minigpt.data.corpora import read_corpus
    from minigpt.evaluate.measure import as_table, measure

    documents = None if data is None else read_corpus(data).documents
    measured = {str(path): measure(path, documents, device) for path in (run, *more)}
    _result(as_table(measured))
    results = list(measured.values())
    _end(as_json, results[0] if len(results) == 1 else results)


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
