"""A command of a recipe in; one that does the same in a second out."""

import time

from minigpt.cli import run

# Names of the Hub and of the network, and what lies here in their place.
INSTEAD = {
    "hf:openai-community/gpt2": "gpt2-like",
    "tinystories": "stories.txt",
    "fineweb-edu": "my-text.txt",
}
# Of the options of training, those that decide how long it takes, and what they are here.
STEPS = {
    "--train.steps": "3", "--train.eval-every": "2", "--train.eval-tokens": "100", "--train.checkpoint-every": "2",
    "--train.batch-size": "2", "--train.micro-batch-size": "2", "--train.dtype": "fp32", "--train.compile": "off",
}  # fmt: skip
SHAPE = {
    "--model.n-layer": "1", "--model.n-head": "2", "--model.n-kv-head": "0", "--model.n-embd": "16",
    "--model.block-size": "16",
}  # fmt: skip
TOO_LONG = ("--minutes", "--device", *STEPS, *SHAPE)


def smaller(words: list[str]) -> list[str]:
    """Return a command that does the same as this one in a second."""
    words = [INSTEAD.get(word, word) for word in words]
    verb = words[0]
    if verb == "prepare":
        words = [*without(words, ("--vocab-size",)), "--vocab-size", "300"]
    if verb == "plan":
        long = ("--model.block-size",) if "--from" in words else ()
        words = [*(word for word in without(words, long) if word != "--no-trial"), "--no-trial"]
    if verb in ("train", "finetune"):
        options = STEPS | (SHAPE if verb == "train" and "--from" not in words else {})
        words = without(words, TOO_LONG) + [word for pair in options.items() for word in pair]
    # A text of a preset comes over the network.
    if "--data" not in words and (
        verb == "train" or any(w.startswith("shakespeare") for w in words)
    ):
        words += ["--data", "my-text.txt"]
    if verb == "sample":
        words = [*without(words, ("--max-tokens",)), "--max-tokens", "5"]
    return words


def without(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Return a command without some options and their values."""
    gone = {i + j for i, word in enumerate(words) if word in options for j in (0, 1)}
    return [word for i, word in enumerate(words) if i not in gone]


def carried_out(words: list[str]) -> int:
    """Carry out a smaller command; this is what a shell calls as `minigpt`."""
    return run(time.monotonic(), smaller(words))
