"""The verbs: each parses its options, calls one function, and prints what comes back."""

from minigpt.cli import (
    bench,
    chatting,
    data,
    learning,
    models,
    serving,
    training,
    tuning,
    using,
    watching,
)
from minigpt.cli.app import app, run

__all__ = [
    "app",
    "bench",
    "chatting",
    "data",
    "learning",
    "models",
    "run",
    "serving",
    "training",
    "tuning",
    "using",
    "watching",
]
