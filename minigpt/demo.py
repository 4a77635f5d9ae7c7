"""No input at all; a first GPT out, step by step and in plain words: corpus, tokenizer, model, training, samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from minigpt.config import RunConfig
from minigpt.data.prepare import prepare
from minigpt.data.tokens import Tokens
from minigpt.evaluate.measure import measure
from minigpt.job import TrainingJob
from minigpt.log import Log, results
from minigpt.model.families import FAMILIES, family_of
from minigpt.model.size import parameter_count
from minigpt.pretrain import prepare_run
from minigpt.rundir import RunDir
from minigpt.verdict import beside_baselines

PROMPTS = ("The ", "Return the ")
BASELINES = {
    "uniform": "all tokens equally likely",
    "unigram": "how common each token is",
    "bigram": "which token follows the last one",
    "mlp": "the same, by a network of two layers",
    "trigram": "which token follows the last two",
}


def demo(config: RunConfig, out: Path, *, again: bool = False) -> dict[str, Any]:
    """Train the model of the demo and show what came of it; return its measurements.

    Args:
        config: the preset `demo`, with the minutes of training that are wanted.
        out: the run directory. If the demo is done there, only its results are shown.
        again: start over.
    """
    job = _open(config, out, again)
    say = job.log.say
    if job.is_finished:
        say(f"This demo is done: {out} holds its model. `minigpt demo --again` starts over.\n")
    else:
        _introduce_model(job)
    return job.fit(lambda: _conclude(job, out))


def _conclude(job: TrainingJob, out: Path) -> dict[str, Any]:
    say = job.log.say
    job.load_best()
    found = measure(out)
    _compare(job.log, found)
    say("\nWhat it writes now:\n")
    for prompt in PROMPTS:
        results(_quoted(job.draw(prompt)[0]))
    if report := job.write_report():
        say(f"\nHow it went, to look at in a browser: {report}")
    say("\nThree commands to try next (in this folder as .venv/bin/minigpt):\n")
    say(f'  minigpt sample {out} --prompt "Raises " --temperature 0.6')
    say(f"  minigpt eval {out}")
    say("  minigpt train --data YOUR-TEXT.txt --minutes 5 --out runs/mine")
    return found


def _open(config: RunConfig, out: Path, again: bool) -> TrainingJob:
    begun = None if again else RunDir(out).newest_whole()[0]
    if begun is not None:
        # How long it takes was decided when it began; asking for other minutes changes nothing.
        minutes = begun.state()["requested"]["train"]["minutes"]
        config = replace(config, train=replace(config.train, minutes=minutes))
    else:
        log = Log()
        log.say("1. The text: the documentation that comes with this Python. No network needed.")
        tokens = prepare(config.data, lambda line: log.say(f"   … {line}"))
        _introduce_tokens(log, tokens)
        log.say("\n   … timing a few steps to see how many fit into the time")
    return prepare_run(config, out, again=again)


def _introduce_tokens(log: Log, tokens: Tokens) -> None:
    train, val = tokens.facts["train"], tokens.facts["val"]
    millions = (train["characters"] + val["characters"]) / 1e6
    log.say(
        f"   {train['documents'] + val['documents']} documents, {millions:.1f} million characters."
    )
    log.say(f"   {val['documents']} of them are held out: the model is judged by documents that it")
    log.say("   never trains on.")
    text = "Return the number of items in the list."
    pieces = [tokens.tokenizer.decode([i]) for i in tokens.tokenizer.encode(text)]
    log.say("\n2. The tokenizer, learnt from that text, cuts it into pieces like these:")
    log.say(f"   {'|'.join(pieces)}")
    log.say(
        f"   It knows {tokens.tokenizer.vocab_size} pieces; the text is {train['tokens']:,} of them long."
    )


def _introduce_model(job: TrainingJob) -> None:
    say, shape, batch_size = job.log.say, job.config.model, job.config.train.batch_size
    say(
        f"\n3. The model: {shape.n_layer} layers, {shape.n_head} heads, {shape.n_embd} channels; "
        f"{parameter_count(shape):,} numbers to learn.\n"
        f"   To other programs it is a {FAMILIES[family_of(shape)].architecture}."
    )
    if job.progress.step == 0:
        say("   Before training it writes noise:\n")
        say(_quoted(job.draw(PROMPTS[0])[0]))
    else:
        say(f"   … going on from step {job.progress.step}, where it was stopped")
    say(
        f"\n4. Training: {job.steps:,} steps, each on {batch_size} pieces of text of {shape.block_size} tokens."
    )
    say("   The loss says how surprised the model is by the next token; held-out: by")
    say("   those of the held-out documents.\n")


def _compare(log: Log, found: dict[str, Any]) -> None:
    log.say("\n5. The result, in bits per byte of the held-out documents (less is better):\n")
    known = found["baselines"]
    levels = {name: one["bits_per_byte"] for name, one in known.items()}
    rows = [(BASELINES[name], bits) for name, bits in levels.items()]
    for name, bits in [*rows, ("your GPT", found["bits_per_byte"])]:
        log.say(f"   {name:<36}  {bits:5.3f}  {'█' * round(bits * 7)}")
    log.say(f"\n   Your GPT {beside_baselines(found['bits_per_byte'], levels)}.")
    if found["bits_per_byte"] > levels["bigram"]:
        log.say("   More --minutes are needed to beat the bigram, which sees the last token alone.")


def _quoted(text: str) -> str:
    return "\n".join(f"   │ {line}" for line in text.strip("\n").splitlines())
