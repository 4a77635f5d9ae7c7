"""The verbs: each parses its options, calls one function, and prints what comes back."""

from minigpt.cli import bench, chatting, data, models, serving, training, using, watching
from minigpt.cli.app import app, run

__all__ = [
    "app",
    "bench",
    "chatting",
    "data",
    "models",
    "run",
    "serving",
    "training",
    "using",
    "watching",
]
