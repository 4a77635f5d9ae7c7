"""The verbs that use a model: sample, eval."""

import contextlib
import dataclasses
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from minigpt import config
from minigpt.cli.app import JSON, TEXT, app, finish, say, show, standard_input
from minigpt.cli.settings import NO_SAMPLE_OPTIONS, given
from minigpt.errors import UserError
from minigpt.files import expanded


@app.command
def sample(
    run: str,
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
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, or a file of weights.
    """
    from minigpt.interop.loading import load_both
    from minigpt.rundir import RunDir
    from minigpt.sampling import stream

    chosen = given(options)
    if "prompt" not in chosen and (expanded(run) / "run.toml").is_file():
        chosen["prompt"] = RunDir(expanded(run)).config.sample.prompt
    settings = config.build([("the command line", {"sample": chosen})]).sample
    if settings.prompt == "-":
        settings = dataclasses.replace(settings, prompt=standard_input())
    if any("\udc80" <= character <= "\udcff" for character in settings.prompt):
        raise UserError(
            "the prompt is not UTF-8; set the terminal to UTF-8, or pass it with --prompt -"
        )
    model, tokenizer = load_both(run)
    length = len(tokenizer.encode(settings.prompt))
    context = model.config.block_size - len(tokenizer.prefix)
    if length > context:
        say(f"the prompt has {length} tokens; the model sees the last {context} of them")
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
    finish(as_json, {"samples": texts})


@app.command
def eval(
    run: str,
    /,
    *more: str,
    data: Annotated[str | None, TEXT] = None,
    device: str = "auto",
    as_json: JSON = False,
) -> None:
    """Measure a model on its held-out text: loss, perplexity, bits per byte, beside simple baselines.

    Example: minigpt eval runs/demo

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, or a file of weights.
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

        measured = {path: measure(path, text, device) for path in (run, *more)}
    show(as_table(measured))
    results = list(measured.values())
    finish(as_json, results[0] if len(results) == 1 else results)
