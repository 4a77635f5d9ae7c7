"""Small models to tune and conversations to tune them on, for tests of tuning."""

import dataclasses
import json
from pathlib import Path

import torch

from minigpt.config import (
    DataConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from minigpt.finetune.tuning import finetune
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, bpe_tokenizer

ANSWERS = {"cat": "the mat", "dog": "a tree", "sat": "and ran", "ran": "the dog"}


OTHERS = dict(zip(ANSWERS, [*ANSWERS.values()][::-1], strict=True))  # of the same questions


def write_base(folder: Path, tokenizer: Tokenizer | None = None, **switches) -> Path:
    """Write a model that has learnt nothing yet."""
    tokenizer = tokenizer or bpe_tokenizer([])
    torch.manual_seed(0)
    shape = {"block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}
    model = GPT(ModelConfig(vocab_size=tokenizer.vocab_size, **(shape | switches)))
    model.save_pretrained(folder, tokenizer)
    return folder


def write_chats(path: Path, count: int = 40, answers: dict[str, str] = ANSWERS) -> Path:
    """Write conversations of a word each; an answer follows from its question."""
    names = list(answers)
    records = [{"instruction": names[i % 4], "output": answers[names[i % 4]]} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def tuning(base: Path, chats: Path, *, rank: int = 4, **train) -> RunConfig:
    """Return the settings of a run of seconds."""
    settings = {
        "base": str(base), "steps": 12, "batch_size": 2, "eval_every": 4, "checkpoint_every": 3, "log_every": 2,
        "dtype": "fp32", "compile": "off",
    }  # fmt: skip
    return RunConfig(
        data=DataConfig(source=str(chats)),
        model=ModelConfig(dropout=0.1),
        optim=OptimConfig(lr=1e-2, warmup_steps=2),
        train=TrainConfig(**(settings | train)),
        lora=LoraConfig(rank=rank, dropout=0.1 if rank else 0.0),
        sample=SampleConfig(max_tokens=8, temperature=0.0),
    )


def longer(config: RunConfig, steps: int) -> RunConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def tuned_in(folder: Path) -> dict[str, Path]:
    """Tune all weights of a base on conversations, and an adapter of that on others; return the runs by name."""
    write_chats(folder / "chats.jsonl")
    write_chats(folder / "others.jsonl", answers=OTHERS)
    runs, base = {}, write_base(folder / "base")
    for name, rank, chats in (("all", 0, "chats.jsonl"), ("adapter", 8, "others.jsonl")):
        config = tuning(
            base, folder / chats, rank=rank, steps=120, eval_every=60, checkpoint_every=60
        )
        config = dataclasses.replace(config, model=ModelConfig())
        base = runs[name] = finetune(config, folder / name)
    return runs
