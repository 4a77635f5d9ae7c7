"""Settings, a model and conversations in, a run directory of a model that answers out."""

import dataclasses
import functools
from pathlib import Path

from minigpt import machine
from minigpt.config import RunConfig
from minigpt.files import expanded, read_json, replace_json
from minigpt.finetune.peft_format import SETTINGS, is_adapter
from minigpt.finetune.replies import open_replies
from minigpt.pretrain import train


def finetune(
    config: RunConfig,
    out: Path | str,
    *,
    strict: bool = False,
    again: bool = False,
    override: bool = False,
    started: float | None = None,
) -> Path:
    """Tune a model on conversations, or go on where the run in `out` stopped; return the run directory.

    Args:
        config: the settings; `train.base` is tuned on `data.source`, by an adapter unless `lora.rank` is 0.
        out: the run directory: an adapter in PEFT's format, or a Hugging Face model directory.
        strict: refuse broken records instead of leaving them out.
        again, override, started: as of `minigpt.train`.

    Raises:
        UserError: settings, base, conversations or run directory cannot be used.
    """
    config = _from_anywhere(config)
    opening = functools.partial(open_replies, strict=strict)
    run = train(config, out, again=again, override=override, started=started, open_task=opening)
    if machine.rank() == 0 and is_adapter(run):
        _name_base(run, config.train.base)
    return run


def _from_anywhere(config: RunConfig) -> RunConfig:
    """Return the settings with paths that are true in any folder, for those who come back to the run."""
    base, source = config.train.base, config.data.source
    if base and not base.startswith("hf:"):
        base = str(expanded(base).resolve())
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, base=base),
        data=dataclasses.replace(config.data, source=str(expanded(source).resolve())),
    )


def _name_base(run: Path, base: str) -> None:
    """Have the adapter of a run name its base where that lies now; it may have moved since it was written."""
    settings = read_json(run / SETTINGS)
    name = base.removeprefix("hf:")
    if settings.get("base_model_name_or_path") != name:
        replace_json(run / SETTINGS, settings | {"base_model_name_or_path": name})
