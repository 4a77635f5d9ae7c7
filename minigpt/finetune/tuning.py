"""Settings, a model and conversations in, a run directory of a model that answers out."""

import functools
from pathlib import Path

from minigpt.config import RunConfig
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
    opening = functools.partial(open_replies, strict=strict)
    return train(config, out, again=again, override=override, started=started, open_task=opening)
