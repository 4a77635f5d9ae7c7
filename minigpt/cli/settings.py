"""The settings of a run as options of the command line, and what was given of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from cyclopts import Group, Parameter

from minigpt import config
from minigpt.config import DataConfig, ModelConfig, RunConfig, SampleConfig
from minigpt.errors import UserError
from minigpt.files import expanded

# What `train` and `plan` have in common beside the settings.
PRESET = Annotated[
    str | None,
    Parameter(
        help="Settings that come with minigpt: demo, shakespeare-cpu, shakespeare-modern, shakespeare-char, gpt2-124m, "
        "modern, mqa-512, 1b."
    ),
]
FROM = Annotated[
    str | None,
    Parameter(
        name="--from",
        help="Short for --train.init-from: the model whose weights it begins with: a run, a Hugging Face directory, "
        "hf:OWNER/NAME, a file of weights. Shape and tokenizer are that model's.",
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
# How a model computes its logits; the attributes of `inference.opening.Decoding` say more.
DTYPE = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Parameter(help="Precision of the weights; auto: bf16 where it is faster."),
]
QUANTIZE = Annotated[
    Literal["none", "int8"],
    Parameter(help="int8: weights as whole numbers with a scale for each row."),
]
PARALLEL = Annotated[
    str | None, Parameter(help="Short for --train.parallel: auto, ddp, fsdp or hsdp.")
]
DEVICE = Annotated[str | None, Parameter(help="Short for --train.device: auto, cpu, cuda or mps.")]


def _options(section: Any, *, without: Sequence[str] = (), only: Sequence[str] = ()) -> Any:
    """Return a dataclass with the fields of a section as options, but some, or some alone: None where nothing is given.

    Values stay text until they are checked together with presets and files, so that all problems are said at once.
    """
    hints = get_type_hints(section)
    fields = []
    for item in dataclasses.fields(section):
        if item.name in without or (only and item.name not in only):
            continue
        is_flag, is_list = hints[item.name] is bool, hints[item.name] == tuple[str, ...]
        kind: Any = bool if is_flag else tuple[str, ...] if is_list else str
        choices = get_args(hints[item.name]) if Literal is _origin(hints[item.name]) else ()
        listed = f" One of {', '.join(choices)}." if choices else ""
        parameter = Parameter(
            help=f"{item.metadata['doc']}.{listed}{'' if only else f' [default: {_shown(item.default)}]'}",
            show_default=False,
            negative=None if is_flag else "",
            allow_leading_hyphen=True,
        )
        fields.append((item.name, Annotated[kind | None, parameter], None))
    return _dataclass(f"{section.__name__}Options", fields)


def _shown(default: Any) -> str:
    """Return a default as the help shows it."""
    if isinstance(default, tuple):
        return ", ".join(default) or "none"
    return repr(default) if isinstance(default, str) and default.isspace() else str(default)


def _origin(hint: Any) -> Any:
    return getattr(hint, "__origin__", None)


def _all_options() -> Any:
    """Return a dataclass with the options of every section, each section in a group of its own in the help.

    [lora] is not among them: a model that starts from nothing has no use for adapters.
    """
    fields = []
    for place, (name, section) in enumerate(config.SECTIONS.items(), start=1):
        if name == "lora":
            continue
        options: Any = _options(section, without=("base",) if name == "train" else ())
        fields.append((name, _group(f"--{name}.… {section.__doc__}", options, place), options()))
    return _dataclass("Options", fields)


def _tuning_options() -> Any:
    """Return a dataclass with the options of tuning: the shape is that of the base, and its text are conversations."""
    wanted: dict[str, tuple[str, ...]] = {
        "model": ("dropout",), "data": ("val_fraction", "val_documents", "seed"),
    }  # fmt: skip
    fields = []
    for place, (name, section) in enumerate(config.SECTIONS.items(), start=1):
        without = ("base", "init_from") if name == "train" else ()
        options: Any = _options(section, without=without, only=wanted.get(name, ()))
        fields.append((name, _group(f"--{name}.… {section.__doc__}", options, place), options()))
    return _dataclass("TuningOptions", fields)


def _group(title: str, options: Any, place: int) -> Any:
    return Annotated[options, Parameter(group=Group(title, sort_key=place))]


def _dataclass(name: str, fields: list[Any]) -> Any:
    made = dataclasses.make_dataclass(name, fields, kw_only=True, frozen=True)
    # As made in this module; cyclopts reads no options from classes of the standard library.
    made.__module__ = __name__
    return made


Options: Any = _all_options()
TuningOptions: Any = _tuning_options()
SampleOptions: Any = _options(SampleConfig)
ChatOptions: Any = _options(SampleConfig, without=("prompt", "num_samples"))
# What concerns the making of tokens; the rest of [data] concerns their reading.
PrepareOptions: Any = _options(
    DataConfig, without=("source", "documents", "stream", "token_dtype", "seed")
)
# What the tensors of a file of weights do not show.
UNSEEN = ("n_head", "block_size", "rope_theta", "norm", "norm_eps", "mlp", "dropout")
_UNSEEN_TITLE = "--model.… What the tensors do not show"
_UnseenOptions: Any = _options(ModelConfig, only=UNSEEN)
ShapeOptions: Any = _dataclass(
    "ShapeOptions", [("model", _group(_UNSEEN_TITLE, _UnseenOptions, 1), _UnseenOptions())]
)
NO_OPTIONS, NO_SAMPLE_OPTIONS, NO_CHAT_OPTIONS = Options(), SampleOptions(), ChatOptions()
NO_PREPARE_OPTIONS, NO_SHAPE_OPTIONS = PrepareOptions(), ShapeOptions()
NO_TUNING_OPTIONS = TuningOptions()


def given(options: Any) -> dict[str, Any]:
    """Return what was given on the command line, {section: {key: text}} or {key: text}."""
    if options is None:
        return {}
    values = ((f.name, getattr(options, f.name)) for f in dataclasses.fields(options))
    return {
        name: given(value) if dataclasses.is_dataclass(value) else value
        for name, value in values
        if value is not None
    }


def settings_of(
    preset: str | None, files: Sequence[Path], options: Any, short: dict[str, Any]
) -> RunConfig:
    """Return preset, then files, then the command line laid over the defaults, or over the model to begin with."""
    layers = [config.preset_layer(preset)] if preset else []
    layers += [config.file_layer(path) for path in files]
    sections = given(options)
    for name, value in short.items():
        if value is not None:
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
    layers.append(("the command line", sections))
    begin = short.get("train.init_from")
    if begin is not None and not begin.strip():
        raise UserError("--from is empty; name the model to begin with, or leave it out")
    found = config.build(layers)
    if not found.train.init_from:
        return found
    from minigpt.beginning import begin_with

    beneath = [] if preset else [config.preset_layer("continue")]
    beneath.append((found.train.init_from, begin_with(found.train.init_from).layer()))
    return config.build([*beneath, *layers])


def out_of(out: Path | None, preset: str | None, data: str | None) -> Path:
    """Return the run directory: as given, else in runs/ by the name of the preset or of the text."""
    if data == "-":
        data = "standard-input"
    if out is not None and out == Path():
        raise UserError("--out is empty or the folder you are in; a run needs a folder of its own")
    return expanded(out) if out else Path("runs") / (preset or Path(data or "latest").stem)
