"""The verbs that use a model: sample, eval."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minigpt import config
from minigpt.cli.app import FLAG, JSON, TEXT, app, finish, say, show, standard_input, text_of
from minigpt.cli.settings import DTYPE, NO_SAMPLE_OPTIONS, QUANTIZE, given
from minigpt.errors import UserError
from minigpt.files import expanded

PLAIN = "\x1b[0m"
# The least probability of a piece, the colour it is shown in, and its legend.
COLOURS = (
    (0.5, "\x1b[32m", "50 % and more"),
    (0.2, "\x1b[33m", "20 % and more"),
    (0.05, "\x1b[35m", "5 % and more"),
    (0.0, "\x1b[31m", "less"),
)


@app.command
def sample(
    run: str,
    /,
    *,
    options: Annotated[Any, Parameter(name="*")] = NO_SAMPLE_OPTIONS,
    prompt_file: Path | None = None,
    device: str = "auto",
    dtype: DTYPE = "auto",
    quantize: QUANTIZE = "none",
    compile: FLAG = False,
    show_probabilities: FLAG = False,
    as_json: JSON = False,
) -> None:
    """Draw text from a trained model, on standard output as it is made.

    Example: minigpt sample runs/demo --prompt "The following" --num-samples 2

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, or a file of weights.
    prompt_file
        A text file with the prompt, instead of --prompt.
    device
        auto, cpu, cuda or mps.
    compile
        Use a compiled step; it is made once for a shape, in half a minute, and kept.
    show_probabilities
        Colour each piece by how likely the model held it: green from 50 %, yellow from 20 %, red below 5 %.
    """
    from minigpt.inference.opening import MOST_SLOTS, Decoding, open_engine
    from minigpt.inference.samples import Samples
    from minigpt.interop.loading import load_both
    from minigpt.rundir import RunDir

    chosen = given(options)
    if prompt_file is not None:
        if "prompt" in chosen:
            raise UserError(
                "--prompt and --prompt-file both say what to go on from; give one of them"
            )
        chosen["prompt"] = text_of(expanded(prompt_file))
    elif "prompt" not in chosen and (expanded(run) / "run.toml").is_file():
        chosen["prompt"] = RunDir(expanded(run)).config.sample.prompt
    elif chosen.get("prompt") == "-":
        chosen["prompt"] = standard_input()
    settings = config.build([("the command line", {"sample": chosen})]).sample
    if any("\udc80" <= character <= "\udcff" for character in settings.prompt):
        raise UserError(
            "the prompt is not UTF-8; set the terminal to UTF-8, or pass it with --prompt -"
        )
    model, tokenizer = load_both(run)
    length = len(tokenizer.encode(settings.prompt))
    context = model.config.block_size - len(tokenizer.prefix)
    if length > context:
        say(f"the prompt has {length} tokens; the model sees the last {context} of them")
    decoding = Decoding(device=device, dtype=dtype, quantize=quantize, compile=compile)
    slots = min(settings.num_samples, MOST_SLOTS)
    engine = open_engine(model, tokenizer, decoding, slots=slots, say=say)
    samples = Samples(engine, settings, probabilities=show_probabilities or as_json)
    _write(samples, coloured=show_probabilities)
    facts = samples.facts()
    say(
        f"{facts['tokens']:,} tokens in {facts['seconds']:.2f} s, {facts['tokens_per_second']:,.0f} a second"
    )
    finish(as_json, facts)


def _write(samples: Any, coloured: bool) -> None:
    """Write texts to standard output, each after the prompt and a line between two."""
    out, begun = sys.stdout, -1
    if coloured:
        say(" ".join(f"{colour}{words}{PLAIN}" for _, colour, words in COLOURS))
    for number, text, log_probability in samples.pieces():
        if number > begun:
            out.write(("\n---\n" if number else "") + samples.settings.prompt)
            begun = number
        if coloured and text:
            chance = math.exp(log_probability)
            text = next(colour for least, colour, _ in COLOURS if chance >= least) + text + PLAIN
        out.write(text)
        out.flush()
    out.write("\n")
    if any(one.slid for one in samples.completions):
        say(
            "the context was full: a text went on from the younger half of what it held (--on-full stop ends it there)"
        )
    if any(one.finish == "full" for one in samples.completions):
        say("the context was full, and --on-full stop ended the text there")


@app.command
def eval(
    run: str,
    /,
    *more: str,
    data: Annotated[str | None, TEXT] = None,
    stride: int | None = None,
    tasks: tuple[str, ...] = (),
    copied: FLAG = False,
    device: str = "auto",
    dtype: DTYPE = "auto",
    quantize: QUANTIZE = "none",
    as_json: JSON = False,
) -> None:
    """Measure models on held-out text: loss, perplexity, bits per byte, their standard errors, and simple baselines.

    Example: minigpt eval runs/demo

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, or a file of weights.
    more
        Further ones, to compare with the first: one table, with the difference and its standard error.
    data
        Measure on this text instead: any, whatever the tokenizer; for a directory that no run was trained in.
    stride
        Tokens from one window to the next, 1 to the context (the default): each token is foretold from nearly a whole
        context, in context / stride times the time.
    tasks
        Multiple-choice questions, scored as lm_eval scores them: a .jsonl file, or hellaswag, arc-easy, arc-challenge,
        openbookqa, piqa, sciq, winogrande from the Hub. May be given several times.
    copied
        Measure what texts of the model copy from the text that it was trained on, and say whether it has learnt that
        text or learnt it by heart.
    device
        auto, cpu, cuda or mps.
    dtype
        Measure as well what decoding in fp32, bf16 or fp16 foretells.
    quantize
        The same for int8: what the smaller weights cost in bits per byte.
    """
    from minigpt.data.corpora import open_source, read_pieces
    from minigpt.data.tokens import tokens_of_text
    from minigpt.evaluate.comparison import as_table, compare
    from minigpt.evaluate.tasks import read_task

    questions, runs = [read_task(name) for name in tasks], (run, *more)
    with contextlib.ExitStack() as stack:
        text = None
        if data is not None:
            source = open_source(data)
            stack.callback(source.discard)

            def text(tokenizer: Any) -> Any:
                return tokens_of_text(read_pieces(source), tokenizer)

        if quantize == "int8" and dtype not in ("auto", "bf16"):
            raise UserError(f"--quantize int8 decodes in bf16; leave --dtype {dtype} out")
        precision = "int8" if quantize == "int8" else None if dtype == "auto" else dtype
        if data is None and tasks and not _have_text(runs):
            say("only the tasks are measured: not every model says what text it was trained on")
            results: list[dict[str, Any]] = [{} for _ in runs]
        else:
            results = compare(runs, text, device=device, precision=precision, stride=stride)
            show(as_table(runs, results))
    for path, found in zip(runs, results, strict=True):
        if questions:
            found["tasks"] = _answer(path, questions, device, precision)
        if copied:
            found["copied"] = _compare(path, device)
    finish(as_json, results[0] if len(results) == 1 else results)


def _have_text(runs: tuple[str, ...]) -> bool:
    """Return whether each of these models says what it was trained on."""
    from minigpt.evaluate.measure import run_of

    return all((run_of(path) / "data.json").is_file() for path in runs)


def _answer(run: str, questions: list[Any], device: str, precision: str | None) -> dict[str, Any]:
    """Return how a model answers multiple-choice questions, and show it as a table."""
    from minigpt.evaluate.choice import as_table, measure_tasks

    found = measure_tasks(run, questions, device, precision)
    show("\n" + as_table(run, found))
    return found


def _compare(run: str, device: str) -> dict[str, Any]:
    """Return what a run copies from its text, and show it."""
    from minigpt.evaluate.copied import as_text, measure_copied

    found = measure_copied(run, device)
    show(f"\n{run}\n{as_text(found)}")
    return found
