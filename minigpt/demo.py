"""No input at all; a first GPT out, step by step and in plain words: corpus, tokenizer, model, training, samples."""

from pathlib import Path
from typing import Any

from minigpt.config import RunConfig
from minigpt.data.prepare import prepare
from minigpt.evaluate.measure import measure
from minigpt.log import Log, results
from minigpt.model.families import FAMILIES, family_of
from minigpt.model.size import parameter_count
from minigpt.pretrain import Pretraining, prepare_run
from minigpt.rundir import RunDir

PROMPTS = ("The ", "Return the ")


def demo(config: RunConfig, out: Path, *, again: bool = False) -> dict[str, Any]:
    """Train the model of the demo and show what came of it; return its measurements.

    Args:
        config: the preset `demo`, with the minutes of training that are wanted.
        out: the run directory. If the demo is done there, only its results are shown.
        again: start over.
    """
    job = _open(config, out, again)
    say = job.log.say
    if job.progress.step >= job.steps:
        say(f"This demo is done: {out} holds its model. `minigpt demo --again` starts over.")
    else:
        _introduce(job)
    job.fit()
    job.load_best()
    found = measure(out)
    _compare(job.log, found)
    say("\nWhat it writes now:\n")
    for prompt in PROMPTS:
        results(_quoted(job.draw(prompt)[0]))
    say("\nThree commands to try next:\n")
    say(f'  minigpt sample {out} --prompt "Raises " --temperature 0.6')
    say(f"  minigpt eval {out}")
    say("  minigpt train --data YOUR-TEXT.txt --minutes 5 --out runs/mine\n")
    say("(without an activated environment: .venv/bin/minigpt)")
    return found


def _open(config: RunConfig, out: Path, again: bool) -> Pretraining:
    log = Log()
    if again or RunDir(out).newest_whole()[0] is None:
        log.say(
            "1. The text: the reference and the docstrings that come with this Python. No network is needed."
        )
        log.say(
            "   Some documents are held out: the model never trains on them, and is judged by them."
        )
        tokens = prepare(config.data, lambda line: log.say(f"   … {line}"))
        train, val = tokens.facts["train"], tokens.facts["val"]
        log.say(
            f"   {train['documents'] + val['documents']} documents, "
            f"{(train['characters'] + val['characters']) / 1e6:.1f} million characters; "
            f"{val['documents']} documents are held out."
        )
        log.say(
            "\n2. The tokenizer: byte-pair encoding learnt from that text. It cuts text into pieces like these:"
        )
        text = "Return the number of items in the list."
        pieces = [tokens.tokenizer.decode([i]) for i in tokens.tokenizer.encode(text)]
        log.say(f"   {'|'.join(pieces)}")
        log.say(
            f"   {tokens.tokenizer.vocab_size} different pieces; the text to train on becomes "
            f"{train['tokens']:,} of them, {train['bytes'] / train['tokens']:.1f} bytes each."
        )
        log.say("\n   … timing a few steps to see how many fit into the time")
    return prepare_run(config, out, again=again)


def _introduce(job: Pretraining) -> None:
    say, shape = job.log.say, job.config.model
    architecture = FAMILIES[family_of(shape)].architecture
    say(
        f"\n3. The model: a transformer of {shape.n_layer} layers, {shape.n_head} heads and {shape.n_embd} channels: "
        f"{parameter_count(shape):,} numbers to learn.\n"
        f"   (To other programs it is a {architecture}.) Before training it writes noise:\n"
    )
    if job.progress.step == 0:
        say(_quoted(job.draw(PROMPTS[0])[0]))
    else:
        say(f"   … going on from step {job.progress.step}, where it was stopped")
    train = job.config.train
    say(
        f"\n4. Training: {job.steps:,} steps, each on {train.batch_size} x {shape.block_size} tokens. The loss says how "
        "surprised the model is by\n   the next token; below, how surprised it is by the held-out documents.\n"
    )


def _compare(log: Log, found: dict[str, Any]) -> None:
    log.say("\n5. The result, in bits per byte of the held-out documents (less is better):\n")
    names = {
        "uniform": "all tokens equally likely",
        "unigram": "how common each token is",
        "bigram": "which token follows the last one",
    }
    rows = [(names[name], known["bits_per_byte"]) for name, known in found["baselines"].items()]
    rows.append(("your GPT", found["bits_per_byte"]))
    for name, bits in rows:
        log.say(f"   {name:<34} {bits:5.3f}  {'█' * round(bits * 8)}")
    gain = found["baselines"]["bigram"]["bits_per_byte"] - found["bits_per_byte"]
    log.say(
        f"\n   It {'beats' if gain > 0 else 'does not beat'} the last-token guess by {abs(gain):.2f} bits per byte."
    )


def _quoted(text: str) -> str:
    return "\n".join(f"   │ {line}" for line in text.strip("\n").splitlines())
