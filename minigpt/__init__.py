"""From any text to a GPT of your own. Names are loaded when they are first used; importing this imports nothing."""

import importlib
from typing import Any

_WHERE = {
    "GPT": "minigpt.model.transformer",
    "Batch": "minigpt.data.batches",
    "Cache": "minigpt.model.attention",
    "DataConfig": "minigpt.config",
    "Decoder": "minigpt.inference.decoder",
    "Engine": "minigpt.inference.engine",
    "LogConfig": "minigpt.config",
    "LoraConfig": "minigpt.config",
    "ModelConfig": "minigpt.config",
    "OptimConfig": "minigpt.config",
    "RunConfig": "minigpt.config",
    "RunDir": "minigpt.rundir",
    "SampleConfig": "minigpt.config",
    "Tokenizer": "minigpt.tokenizer",
    "TrainConfig": "minigpt.config",
    "TrainStep": "minigpt.loss",
    "UserError": "minigpt.errors",
    "generate": "minigpt.inference.text",
    "load": "minigpt.interop.loading",
    "look": "minigpt.inside.views",
    "portal": "minigpt.serve.notebook",
    "stream": "minigpt.inference.text",
    "train": "minigpt.pretrain",
}

__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'minigpt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
