"""The verb that tunes: finetune."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minigpt import config
from minigpt.cli.app import FLAG, JSON, TEXT, app, finish, started
from minigpt.cli.settings import (
    DEVICE,
    FILES,
    MINUTES,
    NO_TUNING_OPTIONS,
    PARALLEL,
    out_of,
    settings_of,
)
from minigpt.errors import UserError


@app.command
def finetune(
    run: str,
    /,
    *,
    data: Annotated[str | None, TEXT] = None,
    out: Path | None = None,
    files: FILES = (),
    minutes: MINUTES = None,
    device: DEVICE = None,
    parallel: PARALLEL = None,
    strict: FLAG = False,
    override: FLAG = False,
    again: FLAG = False,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_TUNING_OPTIONS,
) -> None:
    """Have a model answer as conversations show it, by an adapter (LoRA) or, with --lora.rank 0, by all its weights.

    Example: minigpt finetune runs/demo --data chats.jsonl --out runs/chat

    Parameters
    ----------
    run
        The model to tune: a run directory, one of its checkpoints, a Hugging Face directory, or hf:OWNER/NAME.
    data
        Short for --data.source: a .jsonl, .json or .parquet file of chat messages, ShareGPT conversations, or
        instruction records.
    out
        The run directory; default runs/ and the name of the file.
    strict
        Refuse a broken record, instead of leaving it out and saying so.
    override
        Go on with a run although its settings have changed.
    again
        Start over, even if --out holds a run.
    """
    short = {
        "train.base": run, "data.source": data, "train.minutes": minutes, "train.device": device,
        "train.parallel": parallel,
    }  # fmt: skip
    asked = settings_of(None, files, options, short)
    # What suits an adapter suits all weights no more, and the other way round.
    preset = "tune-adapter" if asked.lora.rank else "tune-all"
    settings = settings_of(preset, files, options, short)
    if settings.data.source == config.DataConfig().source:
        raise UserError("--data is missing; pass a file of conversations (.jsonl)")
    from minigpt.finetune.tuning import finetune

    place = out_of(out, None, settings.data.source)
    result = finetune(
        settings, place, strict=strict, override=override, again=again, started=started()
    )
    finish(as_json, {"run": str(result)})
