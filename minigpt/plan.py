"""Settings in, what a run of them will be out, before anything starts: parameters, FLOPs, tokens, bytes, warnings.

Only shapes are built, no weights. A text is read where its characters are the vocabulary, and never tokenised.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from minigpt import config as settings
from minigpt.beginning import as_begun
from minigpt.config import ModelConfig, RunConfig, TrainConfig
from minigpt.data.corpora import check_name
from minigpt.data.tokens import find_files, open_folder
from minigpt.data.vocabulary import expected_ids
from minigpt.decisions import COMPILE_SECONDS, SAVED_SHARE, seconds_saved_by_compiling
from minigpt.errors import UserError
from minigpt.model.families import FAMILIES, family_of
from minigpt.model.size import (
    MULTIPLE,
    PADDED_FROM,
    block_parameters,
    cache_bytes_per_token,
    forward_flops_per_token,
    outer_parameters,
    parameter_count,
    parameter_shapes,
    training_flops_per_token,
    with_vocabulary,
)
from minigpt.optim.groups import parameter_groups
from minigpt.pretrain import steps_asked_for
from minigpt.runtime import pick_device
from minigpt.task import NextToken

BYTES = {"fp32": 4, "bf16": 2}  # of a number
# Channels: fused attention on GPUs pads other heads, or leaves them to a slower kernel.
HEAD_MULTIPLE = 8


# ----------------------------------------------------------------------------------------------------------- facts


def plan(config: RunConfig, *, processes: int = 1) -> dict[str, Any]:
    """Return what a run with these settings will be; JSON can hold it, and units stand in its keys.

    Args:
        config: the settings.
        processes: that share the sequences of each step.

    Raises:
        UserError: the settings contradict themselves, `processes` does not divide the batch, or the number of ids
            cannot be known from here.
    """
    settings.check(config)
    if config.train.base:
        raise UserError(
            f"train.base is {config.train.base}: these are settings of tuning, which plan does not reckon; finetune "
            "says what it takes before its first step"
        )
    config = as_begun(config)
    check_name(config.data.source)
    ready = open_folder(config.data)
    ids = ready.tokenizer.vocab_size if ready else _ids(config)
    shape = config.model.resolve() if ids is None else with_vocabulary(config.model, ids)
    facts = {
        "architecture": FAMILIES[family_of(shape)].architecture,
        "layers": shape.n_layer,
        "heads": shape.n_head,
        "key_value_heads": shape.n_kv_head,
        "head_channels": shape.head_dim,
        "channels": shape.n_embd,
        "mlp_channels": shape.mlp_hidden,
        "context_tokens": shape.block_size,
        "vocabulary_ids": ids,
        "vocabulary_rows": shape.vocab_size,
        "vocabulary_from": config.data.source if ready else _origin(config, ids),
        "parameters": parameter_count(shape),
        "outer_parameters": outer_parameters(shape),
        "block_parameters": block_parameters(shape),
        "groups": _groups(shape, config),
        **_run(shape, config, processes, NextToken(ready, config.data) if ready else None),
        "held_out_tokens": len(ready.val) if ready else None,
        **_bytes(shape),
    }
    return facts | {"warnings": list(_warnings(shape, config.train, facts))}


def _ids(config: RunConfig) -> int | None:
    """Return how many ids the tokenizer will have; None where `model.vocab_size` makes it needless to find out."""
    find_files(config.data)
    if config.model.vocab_size and config.data.tokenizer in ("bpe", "char"):
        return None
    return expected_ids(config.data)


def _origin(config: RunConfig, ids: int | None) -> str:
    if ids is None:
        return "model.vocab_size"
    known = {"bpe": "data.vocab_size", "char": f"the characters of {config.data.source}"}
    return known.get(config.data.tokenizer, f"the tokenizer {config.data.tokenizer}")


def _groups(shape: ModelConfig, config: RunConfig) -> list[dict[str, Any]]:
    """Return what the optimiser does with which parameters, those of the same kind in all blocks together."""
    shapes = parameter_shapes(shape)
    return [
        {
            "optimizer": group.optimizer,
            "learning_rate": group.lr,
            "weight_decay": group.weight_decay,
            "tensors": len(group.names),
            "parameters": sum(math.prod(shapes[name]) for name in group.names),
            "tensors_by_kind": dict(Counter(_kind(name) for name in group.names)),
        }
        for group in parameter_groups(shapes, config.optim)
    ]


def _kind(name: str) -> str:
    """Return the name of a parameter without the number of its block.

    >>> _kind("blocks.11.attention.query.weight")
    'blocks.*.attention.query.weight'
    """
    return re.sub(r"^blocks\.\d+\.", "blocks.*.", name)


def _run(
    shape: ModelConfig, config: RunConfig, processes: int, task: NextToken | None
) -> dict[str, Any]:
    """Return what is done in a step and in the whole run; None where the length shows only when it begins."""
    train = config.train
    if processes < 1:
        raise UserError(f"--processes is {processes}; wanted one at least")
    train.sequences_at_once(processes)  # refuses shares that are not equal
    share = train.batch_size // processes
    steps = steps_asked_for(config, task.sequences if task else None)
    flops, parameters = training_flops_per_token(shape), parameter_count(shape)
    per_step = train.batch_size * shape.block_size
    total = None if steps is None else steps * per_step
    return {
        "forward_flops_per_token": forward_flops_per_token(shape),
        "training_flops_per_token": flops,
        "training_flops_per_step": flops * per_step,
        "training_flops": None if total is None else flops * total,
        "processes": processes,
        "sequences_per_step": train.batch_size,
        "sequences_per_process_and_step": share,
        "sequences_per_micro_batch": train.sequences_at_once(processes),
        "tokens_per_step": per_step,
        "steps": steps,
        "minutes": train.minutes or None,
        "epochs": train.epochs or None,
        "tokens": total,
        "tokens_per_parameter": None if total is None else total / parameters,
        # Of weights that are drawn; what others know cannot be foretold.
        "first_loss_nats_per_token": None if train.began_as else math.log(shape.vocab_size),
    }


def _bytes(shape: ModelConfig) -> dict[str, int]:
    facts = {}
    for name, size in BYTES.items():
        per_token = cache_bytes_per_token(shape, size)
        facts[f"weights_bytes_{name}"] = parameter_count(shape) * size
        facts[f"cache_bytes_per_token_{name}"] = per_token
        facts[f"cache_bytes_{name}"] = per_token * shape.block_size
    return facts


# -------------------------------------------------------------------------------------------------------- warnings


def _warnings(shape: ModelConfig, train: TrainConfig, facts: dict[str, Any]) -> Iterator[str]:
    """Yield what works but costs speed, one sentence each."""
    sides = {
        "model.n_embd": shape.n_embd,
        "model.n_head x model.head_dim": shape.n_head * shape.head_dim,
        "model.mlp_hidden": shape.mlp_hidden,
    }
    seen: set[int] = set()  # mostly the heads share out n_embd: said once
    for name, side in sides.items():
        if side % MULTIPLE and side not in seen:
            yield (
                f"{name} is {side:,}, no multiple of {MULTIPLE}, which matrix units work in; the nearest: "
                f"{_nearest(side, MULTIPLE)}"
            )
        seen.add(side)
    if shape.vocab_size >= PADDED_FROM and shape.vocab_size % MULTIPLE:
        yield (
            f"model.vocab_size is {shape.vocab_size:,}, no multiple of {MULTIPLE}, which matrix units work in; the "
            f"nearest: {_nearest(shape.vocab_size, MULTIPLE)}; left out, it is rounded up"
        )
    if shape.head_dim % HEAD_MULTIPLE:
        yield (
            f"a head has {shape.head_dim} channels, no multiple of {HEAD_MULTIPLE}, which fused attention on GPUs "
            f"works in; the nearest: {_nearest(shape.head_dim, HEAD_MULTIPLE)}"
        )
    if train.compile == "on" and _is_on_cpu(train.device):
        yield from _compiling(train, facts)


def _nearest(number: int, multiple: int) -> str:
    """Return the multiples on both sides of a number that is none.

    >>> _nearest(100, 64), _nearest(10, 64)
    ('64 and 128', '64')
    """
    below = number // multiple * multiple
    return f"{below:,} and {below + multiple:,}" if below else f"{multiple:,}"


def _is_on_cpu(device: str) -> bool:
    """Return whether a run on this device, or on the one that auto means here, is on a CPU."""
    return device.startswith("cpu") or (device == "auto" and pick_device(device).type == "cpu")


def _compiling(train: TrainConfig, facts: dict[str, Any]) -> Iterator[str]:
    """Yield why compiling takes longer than it saves in so short a run on a CPU, if it does."""
    flops = facts["training_flops_per_step"] / facts["processes"]
    micro_batches = math.ceil(
        facts["sequences_per_process_and_step"] / facts["sequences_per_micro_batch"]
    )
    saved = seconds_saved_by_compiling(flops, micro_batches)
    pays_from = math.ceil(COMPILE_SECONDS / saved)
    step = with_prefix(facts["training_flops_per_step"])
    if facts["steps"] is not None and facts["steps"] < pays_from:
        yield (
            f"train.compile takes about {COMPILE_SECONDS:.0f} s, once, and saves about {saved * 1e3:,.0f} ms of each "
            f"step of {facts['tokens_per_step']:,} tokens ({step}; measured on two CPU cores): it pays from about "
            f"{pays_from:,} steps on, and this run has {facts['steps']:,}; a larger batch has more to save"
        )
    seconds = COMPILE_SECONDS / SAVED_SHARE
    if 0 < train.minutes * 60 < seconds:
        yield (
            f"train.compile takes about {COMPILE_SECONDS:.0f} s, once, and saves about a fifth of each step "
            f"(measured on two CPU cores): it pays from {seconds:.0f} s on, and this run has {train.minutes * 60:.0f} s"
        )


def with_prefix(flops: int) -> str:
    """Return operations in the unit that leaves one to three digits before the point.

    >>> with_prefix(448_000_000_000_000)
    '448.0 TFLOP'
    """
    power = min(7, max(0, (len(str(flops)) - 1) // 3))
    return f"{flops / 1000**power:,.1f} {['', 'k', 'M', 'G', 'T', 'P', 'E', 'Z'][power]}FLOP"
