"""Presets, TOML files and single settings in; one checked `RunConfig` out, and back to TOML.

Each setting is written down once: name, type, default, unit and reason, and the range it may have. `--help`, `run.toml`
and the checks all read it from here.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from minigpt.errors import UserError

RUN_LENGTHS = ("steps", "epochs", "minutes")
TRACKERS = ("tensorboard", "wandb")
DEFAULT_STEPS = 2000  # where none of the three lengths is given


def setting(
    default: Any, doc: str, *, minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare one field of a section: its default, what it is (with unit), and its inclusive range."""
    return field(default=default, metadata={"doc": doc, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the transformer."""

    vocab_size: int = setting(
        0,
        "ids that the model knows; 0: the tokenizer's, from 4,096 on rounded up to a multiple of 64",
        minimum=0,
        maximum=2**24,
    )
    block_size: int = setting(128, "context in tokens", minimum=1, maximum=2**24)
    n_layer: int = setting(4, "blocks", minimum=1, maximum=10_000)
    n_head: int = setting(4, "query heads", minimum=1, maximum=2**14)
    n_kv_head: int = setting(
        0, "key/value heads; 0: n_head (multi-head), 1: multi-query", minimum=0
    )
    n_embd: int = setting(128, "channels of the residual stream", minimum=1, maximum=2**20)
    head_dim: int = setting(0, "channels of a head; 0: n_embd / n_head", minimum=0)
    mlp_hidden: int = setting(
        0,
        "channels inside the MLP; 0: 4 x n_embd, for swiglu 8/3 x n_embd up to a multiple of 64",
        minimum=0,
    )
    position: Literal["rope", "learned"] = setting("rope", "how a token knows its place")
    rope_theta: float = setting(10_000.0, "base of the rotary wavelengths", minimum=1.0)
    rope_scaling: Literal["none", "linear", "llama3"] = setting(
        "none", "how rotary positions are stretched to a longer context than they were trained at"
    )
    rope_factor: float = setting(1.0, "how far, with rope_scaling", minimum=1.0)
    rope_low_freq: float = setting(
        1.0, "llama3: wavelengths above the old context / this are stretched wholly", minimum=0.001
    )
    rope_high_freq: float = setting(
        4.0, "llama3: wavelengths below the old context / this stay", minimum=0.001
    )
    rope_old_context: int = setting(0, "llama3: the old context in tokens", minimum=0)
    norm: Literal["rmsnorm", "layernorm"] = setting("rmsnorm", "normalisation before each part")
    norm_eps: float = setting(1e-5, "added to the variance", minimum=0.0)
    mlp: Literal["swiglu", "gelu", "gelu_exact", "relu2"] = setting(
        "swiglu", "activation of the MLP; gelu is GPT-2's tanh form, gelu_exact nanoGPT's"
    )
    qk_norm: bool = setting(False, "RMSNorm on each query and key head before the rotation")
    attention_gate: Literal["none", "silu"] = setting("none", "gate on the attention's output")
    bias: bool = setting(False, "biases in linear layers and LayerNorm")
    tie_embeddings: bool = setting(True, "the head shares the token embedding's weights")
    dropout: float = setting(
        0.0,
        "share of channels dropped in training, on the embedding and on each part's output",
        minimum=0.0,
        maximum=0.99,
    )

    def resolve(self) -> Self:
        """Return the same shape with every derived field written out.

        Raises:
            UserError: the shape contradicts itself; all contradictions are named.
        """
        check(self, "model")
        if not self.vocab_size:
            raise UserError("model.vocab_size is not set; pass the tokenizer's vocab_size")
        widened = 64 * math.ceil(8 * self.n_embd / 3 / 64)
        return dataclasses.replace(
            self,
            n_kv_head=self.n_kv_head or self.n_head,
            head_dim=self.head_dim or self.n_embd // self.n_head,
            mlp_hidden=self.mlp_hidden or (widened if self.mlp == "swiglu" else 4 * self.n_embd),
        )

    def contradictions(self) -> Iterator[str]:
        """Yield what does not fit together, one sentence each."""
        if not self.head_dim and self.n_embd % self.n_head:
            yield (
                f"model.n_embd = {self.n_embd} is not divisible by model.n_head = {self.n_head}; "
                f"take n_embd = {self.n_head * math.ceil(self.n_embd / self.n_head)} or set model.head_dim"
            )
        elif self.position == "rope" and (self.head_dim or self.n_embd // self.n_head) % 2:
            yield (
                f"rotary positions turn channels in pairs, but a head has "
                f"{self.head_dim or self.n_embd // self.n_head} of them; take an even model.head_dim"
            )
        if self.rope_scaling == "llama3" and not self.rope_old_context:
            yield "model.rope_scaling = llama3 needs model.rope_old_context, the old context"
        if self.rope_scaling == "llama3" and self.rope_high_freq <= self.rope_low_freq:
            yield (
                f"model.rope_high_freq = {self.rope_high_freq} must lie above "
                f"model.rope_low_freq = {self.rope_low_freq}"
            )
        if self.n_kv_head and self.n_head % self.n_kv_head:
            yield (
                f"model.n_head = {self.n_head} is not divisible by model.n_kv_head = {self.n_kv_head}; "
                "every key/value head serves the same number of query heads"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text and how it becomes tokens."""

    source: str = setting(
        "python-docs",
        "a text file, .jsonl, .csv or .parquet (also .gz, .zst), a folder of them, - (standard input), a prepared "
        "folder, token files, hf:OWNER/NAME[:CONFIG], or python-docs, shakespeare, tinystories, fineweb-edu",
    )
    field: str = setting("text", "where the text of a .jsonl, .csv or .parquet record stands")
    errors: Literal["strict", "replace"] = setting(
        "strict", "bytes that are not UTF-8 end the reading, or become U+FFFD"
    )
    limit_documents: int = setting(0, "read so many documents at most; 0: all", minimum=0)
    limit_bytes: int = setting(0, "read so many bytes of text at most; 0: all", minimum=0)
    tokenizer: str = setting(
        "bpe", "bpe or char, made from the text; gpt2; or the path of a tokenizer.json"
    )
    vocab_size: int = setting(
        4096, "ids of a new bpe tokenizer, special tokens included", minimum=259, maximum=2**24
    )
    val_fraction: float = setting(0.1, "share of the text held out", minimum=0.0001, maximum=0.9)
    val_documents: int = setting(
        0,
        "hold out the first so many documents instead; 0: by fraction, of a stream 1,000",
        minimum=0,
    )
    drop_duplicates: bool = setting(
        False, "leave out documents to train on that are held out too, word for word or nearly"
    )
    documents: Literal["join", "separate"] = setting(
        "join", "whether attention looks across the end of a document"
    )
    stream: bool = setting(False, "tokenise while training; the first epoch is read in order")
    token_dtype: Literal["", "uint16", "uint32"] = setting(
        "", "the numbers in a .bin file of token ids without a header"
    )
    seed: int = setting(0, "order of the batches", minimum=0, maximum=2**31)

    def contradictions(self) -> Iterator[str]:
        """Yield what does not fit together, one sentence each."""
        if self.stream and self.tokenizer == "char":
            yield "data.stream is on, but a char tokenizer needs the whole text first; take bpe or gpt2"
        if self.stream and self.source == "-":
            yield (
                "data.stream is on, but standard input can be read only once, and a resumed run reads again; write it "
                "to a file first"
            )
        if self.stream and self.drop_duplicates:
            yield (
                "data.stream is on, but data.drop_duplicates needs the whole text first; prepare it beforehand with "
                "minigpt prepare"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter, 2019) or Muon (Jordan et al., 2024), and their schedule."""

    name: Literal["adamw", "muon"] = setting(
        "adamw", "what updates the matrices of the blocks; AdamW updates all the rest"
    )
    lr: float = setting(1e-3, "highest learning rate (with muon: of the rest)", minimum=0.0)
    muon_lr: float = setting(
        0.01, "muon: highest learning rate; falls in proportion to lr", minimum=0.0
    )
    weight_decay: float = setting(0.1, "decoupled decay, on matrices only", minimum=0.0)
    beta1: float = setting(0.9, "decay of the mean gradient", minimum=0.0, maximum=0.9999)
    beta2: float = setting(
        0.99,
        "decay of the mean squared gradient; short runs and small batches like 0.99",
        minimum=0.0,
        maximum=0.99999,
    )
    momentum: float = setting(
        0.95, "muon: decay of the mean gradient; rises from 0.85", minimum=0.0, maximum=0.9999
    )
    clip: float = setting(1.0, "largest norm of the gradient; 0: no limit", minimum=0.0)
    schedule: Literal["cosine", "linear", "wsd", "constant"] = setting(
        "cosine", "from lr down to min_lr; wsd stays at lr and falls over the last fifth"
    )
    warmup_steps: int = setting(100, "steps from 0 up to lr", minimum=0)
    min_lr: float = setting(0.0, "learning rate at the end", minimum=0.0)
    newton_schulz_dtype: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "muon: precision of its products; auto: bf16 where the processor multiplies in it"
    )

    def contradictions(self) -> Iterator[str]:
        """Yield what does not fit together, one sentence each."""
        if self.min_lr > self.lr:
            yield f"optim.min_lr = {self.min_lr} lies above optim.lr = {self.lr}; take a smaller min_lr"
        if self.name == "muon" and not self.lr:
            yield (
                "optim.name = muon needs an optim.lr above 0: AdamW updates the rest with it, and muon_lr rises and "
                "falls in proportion to it"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in which portions, on what."""

    init_from: str = setting(
        "",
        "the model whose weights the run begins with, to go on with any text: a run, a Hugging Face directory, "
        "hf:OWNER/NAME, a file of weights; empty: they are drawn",
    )
    base: str = setting("", "the model that is tuned on conversations (minigpt finetune)")
    steps: int = setting(
        0,
        f"optimiser updates; of steps, epochs and minutes one is given (none: {DEFAULT_STEPS} steps)",
        minimum=0,
        maximum=10**9,
    )
    epochs: float = setting(0.0, "instead of steps: passes over the text", minimum=0, maximum=1e6)
    minutes: float = setting(
        0.0, "instead of steps: wall time of the whole process", minimum=0, maximum=1e6
    )
    batch_size: int = setting(32, "sequences in a step", minimum=1, maximum=2**24)
    micro_batch_size: int = setting(
        0, "sequences in one forward and backward; 0: the whole batch", minimum=0
    )
    eval_every: int = setting(250, "steps between evaluations", minimum=1)
    eval_tokens: int = setting(
        50_000,
        "held-out tokens in each of them, spread evenly; a run ends with a pass over all",
        minimum=1,
    )
    sample_every: int = setting(0, "steps between samples; 0: after each evaluation", minimum=0)
    log_every: int = setting(10, "steps between lines of metrics.jsonl", minimum=1)
    checkpoint_every: int = setting(250, "steps between checkpoints", minimum=1)
    keep: int = setting(2, "checkpoints kept", minimum=1)
    patience: int = setting(
        0,
        "end the run after so many evaluations without a new lowest held-out loss; 0: off",
        minimum=0,
    )
    seed: int = setting(0, "first weights and dropout", minimum=0, maximum=2**31)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    dtype: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = setting(
        "auto",
        "precision of the products; auto: bf16 on a GPU that has it, on a CPU where it is faster in a trial",
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto", "torch.compile of the step; auto: where it saves more time in the run than it takes"
    )
    recompute: bool = setting(False, "activation checkpointing: less memory, a third more time")
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = setting(
        "auto",
        "how several processes share the work; auto: ddp where each device has room for a copy, else fsdp",
    )
    shard_size: int = setting(
        0, "hsdp: processes that share one copy of the model; 0: those of one host", minimum=0
    )
    deterministic: bool = setting(False, "exact repetition on a GPU too, at some cost in speed")

    @property
    def began_as(self) -> str:
        """The model whose weights the run begins with; empty: they are drawn."""
        return self.base or self.init_from

    def sequences_at_once(self, processes: int = 1) -> int:
        """Return the sequences in one forward and backward of each of so many processes.

        At most `micro_batch_size`, and a divisor of each process's share, so that the tokens in a step stay the same.

        Raises:
            UserError: the sequences of a step cannot be shared out.
        """
        share, rest = divmod(self.batch_size, processes)
        if rest:
            raise UserError(
                f"train.batch_size = {self.batch_size} sequences in a step cannot be shared by {processes} processes, "
                f"each as many as any other; set it to a multiple, such as {processes * max(1, share)}"
            )
        most = min(self.micro_batch_size or share, share)
        return next(n for n in range(most, 0, -1) if share % n == 0)

    def __post_init__(self) -> None:
        if isinstance(self.compile, bool):  # as in a file
            object.__setattr__(self, "compile", "on" if self.compile else "off")

    def contradictions(self) -> Iterator[str]:
        """Yield what does not fit together, one sentence each."""
        lengths = [name for name in RUN_LENGTHS if getattr(self, name)]
        if len(lengths) > 1:
            yield f"train.{' and train.'.join(lengths)} both say how long to train; give one of them"
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            yield (
                f"train.batch_size = {self.batch_size} is not a multiple of "
                f"train.micro_batch_size = {self.micro_batch_size}"
            )
        if self.sample_every % self.eval_every:
            yield (
                f"train.sample_every = {self.sample_every} is not a multiple of train.eval_every = "
                f"{self.eval_every}; text is drawn where the model is evaluated"
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Small matrices that are trained in the place of the model's own (Hu et al., 2021)."""

    rank: int = setting(
        8,
        "rows of A and columns of B: how much can be learnt; 0: no adapter, all weights are trained",
        minimum=0,
        maximum=2**14,
    )
    alpha: float = setting(
        16.0,
        "alpha / rank stands before B A; a multiple of the rank keeps learning rates",
        minimum=0.0,
    )
    dropout: float = setting(
        0.0, "share of channels dropped before A in training", minimum=0.0, maximum=0.99
    )
    # Without the MLP more rank does not make up for it: Schulman et al. (2025), "LoRA Without Regret".
    targets: Literal["all", "attention", "mlp"] = setting("all", "the layers of a block that adapt")

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot learn, one sentence each."""
        if not self.alpha:
            yield "lora.alpha is 0, so that nothing could be learnt; wanted twice lora.rank or the like"


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How text is drawn from the model."""

    prompt: str = setting("\n", "text to go on from")
    max_tokens: int = setting(200, "new tokens", minimum=1, maximum=10**9)
    temperature: float = setting(0.8, "below 1 bolder about the likely, 0: greedy", minimum=0.0)
    top_k: int = setting(40, "only the k likeliest tokens; 0: all", minimum=0)
    top_p: float = setting(
        1.0, "only the likeliest tokens that make up this probability", minimum=0.0, maximum=1.0
    )
    min_p: float = setting(
        0.0,
        "only tokens at least so many times as likely as the likeliest",
        minimum=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = setting(
        1.0,
        "above 1: tokens that are in the text already get less likely",
        minimum=0.01,
        maximum=100,
    )
    no_repeat_ngram: int = setting(
        0, "never draw a passage of so many tokens a second time; 0: off", minimum=0, maximum=10**6
    )
    ngram_penalty: float = setting(
        0.0,
        "nats taken from a token that would go on with a repetition, for each token of the repeated passage",
        minimum=-100.0,
        maximum=100.0,
    )
    presence_penalty: float = setting(
        0.0, "nats taken from each token that was drawn before", minimum=-100.0, maximum=100.0
    )
    frequency_penalty: float = setting(
        0.0, "nats taken from a token for each time it was drawn", minimum=-100.0, maximum=100.0
    )
    stop: tuple[str, ...] = setting((), "end before this text; several times: before any of them")
    on_full: Literal["slide", "stop"] = setting(
        "slide", "when the context is full: go on from the younger half of it, or end"
    )
    num_samples: int = setting(1, "texts to draw, from seed, seed + 1, …", minimum=1, maximum=10**6)
    seed: int = setting(0, "the same seed draws the same text", minimum=0)
    greedy: bool = setting(False, "always the likeliest token")

    def contradictions(self) -> Iterator[str]:
        """Yield what does not fit together, one sentence each."""
        if "" in self.stop:
            yield "sample.stop is empty text; wanted what the text is to end before"
        if any("\ud800" <= character <= "\udfff" for text in self.stop for character in text):
            yield "sample.stop is not UTF-8; set the terminal to UTF-8"


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where a run is shown beside its directory."""

    to: str = setting(
        "",
        f"{' or '.join(TRACKERS)}, or both with a comma between; metrics.jsonl is always written",
    )

    def trackers(self) -> list[str]:
        """Return the names in `to`, each once."""
        return list(dict.fromkeys(name.strip() for name in self.to.split(",") if name.strip()))

    def contradictions(self) -> Iterator[str]:
        """Yield what is not known, one sentence each."""
        for name in self.trackers():
            if name not in TRACKERS:
                near = did_you_mean(name, TRACKERS)
                yield f"log.to names {name!r}; wanted {' or '.join(TRACKERS)}, or both with a comma between{near}"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a training run is made from; `run.toml` in Python."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    log: LogConfig = field(default_factory=LogConfig)


SECTIONS: dict[str, Any] = {
    section.name: typing.get_type_hints(RunConfig)[section.name]
    for section in dataclasses.fields(RunConfig)
}

Layer = tuple[str, Mapping[str, Any]]  # where the settings come from, {section: {key: value}}


# --------------------------------------------------------------------------------------------------------- reading


def presets() -> list[str]:
    """Return the names of the presets that come with the package."""
    folder = resources.files("minigpt") / "presets"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def preset_layer(name: str) -> Layer:
    """Return the settings of a preset by name."""
    if name not in presets():
        raise UserError(
            f"there is no preset {name!r}{did_you_mean(name, presets())}; presets: {', '.join(presets())}"
        )
    text = (resources.files("minigpt") / "presets" / f"{name}.toml").read_text()
    return f"preset {name}", tomllib.loads(text)


def file_layer(path: Path) -> Layer:
    """Return the settings in a TOML file."""
    try:
        return str(path), tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise UserError(f"the settings file {path} does not exist; pass a TOML file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the settings file {path} cannot be read as TOML: {error}") from None


def build(layers: Iterable[Layer]) -> RunConfig:
    """Lay settings over the defaults, later layers over earlier ones.

    A layer that gives one of steps, epochs and minutes takes back the others from the layers before it.

    Raises:
        UserError: unknown keys (with the nearest name), wrong types, values out of range; all of them at once.
    """
    problems: list[str] = []
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for origin, sections in layers:
        lengths = [name for name in RUN_LENGTHS if _is_given(sections.get("train"), name)]
        if len(lengths) > 1:
            problems.append(f"{origin} gives train.{' and train.'.join(lengths)}; give one of them")
            sections = {name: v for name, v in sections.items() if name != "train"}
        elif lengths:
            values["train"] = {k: v for k, v in values["train"].items() if k not in RUN_LENGTHS}
        for name, section in sections.items():
            if name not in SECTIONS or not isinstance(section, Mapping):
                kind = type(section).__name__
                wrong = f"{name} is a {kind}; wanted a table [{name}]"
                unknown = f"unknown section [{name}]{did_you_mean(name, SECTIONS)}"
                problems.append(f"{origin}: {wrong if name in SECTIONS else unknown}")
                continue
            for key, value in section.items():
                try:
                    values[name][key] = convert(value, _field_types(SECTIONS[name])[key])
                except KeyError:
                    near = did_you_mean(key, _field_types(SECTIONS[name]))
                    problems.append(f"{origin}: unknown setting {name}.{key}{near}")
                except ValueError as error:
                    problems.append(f"{origin}: {name}.{key} {error}")
    known = {
        name: SECTIONS[name](
            **{k: v for k, v in section.items() if k in _field_types(SECTIONS[name])}
        )
        for name, section in values.items()
    }
    config = RunConfig(**known)
    problems += _problems_of(config)
    if problems:
        raise UserError(_one_sentence(problems))
    return config


def convert(value: Any, wanted: Any) -> Any:
    """Return `value` as `wanted`, one of the types that a setting may have.

    Raises:
        ValueError: it is something else; the message reads on from the setting's name.
    """
    choices = typing.get_args(wanted)
    if typing.get_origin(wanted) is Literal:
        if "on" in choices and (isinstance(value, bool) or value in ("true", "false")):
            return "on" if value in (True, "true") else "off"
        if value not in choices:
            near = did_you_mean(str(value), choices)
            raise ValueError(f"is {value!r}; wanted one of {', '.join(choices)}{near}")
        return value
    if wanted is bool and value in ("true", "false"):
        return value == "true"
    if wanted == tuple[str, ...]:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
    if wanted in (int, float) and isinstance(value, str):
        try:
            return wanted(value)
        except ValueError:
            pass
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 10**300:
            raise ValueError("is a huge number; wanted one that a computer can hold")
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"is {value!r}; wanted {_kind_of(wanted)}")
    return value


def _kind_of(wanted: Any) -> str:
    kinds = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        tuple[str, ...]: "a list of texts",
    }
    return kinds.get(wanted, "another value")


def convert_all(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of one section as the types they have; whether they fit together is not asked yet.

    Raises:
        UserError: one of them is something else.
    """
    wanted, converted = _field_types(SECTIONS[section]), {}
    for name, value in values.items():
        try:
            converted[name] = convert(value, wanted[name])
        except ValueError as error:
            raise UserError(f"{section}.{name} {error}") from None
    return converted


def check(config: Any, section: str | None = None) -> None:
    """Refuse a configuration (or one section of it) that was built in Python and cannot work.

    Raises:
        UserError: everything that is wrong with it, at once.
    """
    problems = _problems_of(config) if section is None else list(_section_problems(section, config))
    if problems:
        raise UserError(_one_sentence(problems))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name nearest to `name`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _problems_of(config: RunConfig) -> list[str]:
    return [text for name in SECTIONS for text in _section_problems(name, getattr(config, name))]


def _section_problems(name: str, section: Any) -> Iterator[str]:
    sound = True
    wanted = _field_types(type(section))
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        try:
            kept = convert(value, wanted[item.name])
            if isinstance(value, str) != isinstance(kept, str):
                raise ValueError(f"is the text {value!r}; wanted {_kind_of(wanted[item.name])}")
        except ValueError as error:
            sound = False
            yield f"{name}.{item.name} {error}"
            continue
        low, high = item.metadata["minimum"], item.metadata["maximum"]
        if isinstance(value, int | float) and not _within(value, low, high):
            sound = False
            limits = f"at least {low}" + ("" if high is None else f" and at most {high}")
            limits = limits if isinstance(value, int) or math.isfinite(value) else "a finite number"
            yield f"{name}.{item.name} is {value}; wanted {limits}"
    if sound and hasattr(section, "contradictions"):
        yield from section.contradictions()


def _within(value: float, low: float | None, high: float | None) -> bool:
    finite = isinstance(value, int) or math.isfinite(value)
    return finite and (low is None or value >= low) and (high is None or value <= high)


def _field_types(section: Any) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _is_given(section: Any, key: str) -> bool:
    return isinstance(section, Mapping) and section.get(key, 0) not in (0, "0")


def _one_sentence(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} settings cannot be used:" + "".join(
        f"\n  - {text}" for text in problems
    )


# --------------------------------------------------------------------------------------------------------- writing


def to_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return {section: {key: value}} of every setting."""
    return dataclasses.asdict(config)


def from_dict(sections: Mapping[str, Any], origin: str) -> RunConfig:
    """Return the configuration that `to_dict` or a TOML file came from."""
    return build([(origin, sections)])


def to_toml(config: RunConfig) -> str:
    """Return every setting, each with its meaning, as TOML."""
    lines: list[str] = []
    for name, section in ((name, getattr(config, name)) for name in SECTIONS):
        lines.append(f"[{name}]")
        for item in dataclasses.fields(section):
            value = getattr(section, item.name)
            text = f"{item.name} = {_toml_value(value)}"
            lines.append(f"{text:<32}  # {item.metadata['doc']}")
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def changes(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return {"section.key": (before, after)} of the settings that differ."""
    return {
        f"{name}.{item.name}": (old, new)
        for name in SECTIONS
        for item in dataclasses.fields(getattr(before, name))
        if (old := getattr(getattr(before, name), item.name))
        != (new := getattr(getattr(after, name), item.name))
    }
