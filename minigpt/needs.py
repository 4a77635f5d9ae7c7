"""The settings of a run and what `plan` says of its shape in; the memory and the time that it takes out."""

import dataclasses
from typing import Any

import torch

from minigpt import machine
from minigpt.beginning import as_begun
from minigpt.config import RunConfig
from minigpt.decisions import decide
from minigpt.errors import UserError
from minigpt.memory import Memory, memory_of
from minigpt.runtime import Runtime, pick_device, pick_precision, start_runtime
from minigpt.scaling import Layout, layout_of, scale
from minigpt.speed import Speed, try_out
from minigpt.trial import Costs

# What a run takes beside its tensors and beside its steps: docs/benchmarks.md.
PROCESS_BYTES = 475_000_000  # Python, torch and the other libraries
START_SECONDS = 5.0  # until the first step: the same, the first weights, what the baselines count


def needs(
    config: RunConfig, facts: dict[str, Any], *, trial: bool = True, gpus_per_host: int = 8
) -> dict[str, Any]:
    """Return the facts with memory and speed added; JSON can hold them, and units stand in their keys.

    With a trial this process is set up as that of a run: threads, determinism, precision. Several processes are planned
    on GPUs where no other device is named, and so is what they hold, send and wait for.

    Args:
        config: the settings.
        facts: of `plan`.
        trial: measure the speed, which takes about five seconds.
        gpus_per_host: how many processes each host of a cluster runs.

    Raises:
        UserError: no machine has such a device, this one lacks the precision, or the processes cannot be grouped so.
    """
    config = as_begun(config)
    several = facts["processes"] > 1
    if several and config.train.device == "auto":
        train = dataclasses.replace(config.train, device="cuda")
        config = dataclasses.replace(config, train=train)
    layout = layout_of(config, facts["parameters"], facts["processes"], gpus_per_host)
    device = _device_here(config.train.device)
    share, micro = facts["sequences_per_process_and_step"], facts["sequences_per_micro_batch"]
    shape = dataclasses.replace(config.model, vocab_size=facts["vocabulary_rows"]).resolve()
    train = dataclasses.replace(config.train, batch_size=share, micro_batch_size=micro)
    config = dataclasses.replace(config, model=shape, train=train)
    if device is not None and trial and not several:
        config = decide(config, device, lambda line: None)
    memory = _memory(config, device)
    free = _free(device)
    facts = facts | {"memory": memory, "warnings": list(facts["warnings"])}
    needed = memory["process_bytes_at_least"]
    if several or _is_elsewhere(device, config):
        facts["scale"] = _scale(config, facts, layout, device, free, trial)
        facts["warnings"] += facts["scale"].pop("warnings")
        needed += facts["scale"]["memory"]["peak_bytes"] - memory["peak_bytes"]
    reason = _why_not(config, device, needed, free, trial, facts["processes"])
    if free is not None and needed > free:
        facts["warnings"].append(_too_large(memory, needed, free))
    return facts | {"speed": {"not_measured": reason} if reason else _speed(config, facts)}


def _is_elsewhere(device: torch.device | None, config: RunConfig) -> bool:
    """Return whether a run is planned on a GPU that this machine lacks."""
    return device is None and config.train.device.startswith("cuda")


def _scale(
    config: RunConfig,
    facts: dict[str, Any],
    layout: Layout,
    device: torch.device | None,
    free: int | None,
    trial: bool,
) -> dict[str, Any]:
    """Return what the processes of a run hold, send and wait for; what one computes is tried where it can be."""
    memory = facts["memory"]
    counted = Memory(
        **memory["with_recomputation" if memory["recompute"] else "without_recomputation"]
    )
    compute = None
    if device is not None and trial and (free is None or memory["process_bytes_at_least"] <= free):
        found = try_out(config, start_runtime(config.train), 0)
        compute = found.costs.update if isinstance(found, Speed) else None
    low, on_gpus = memory["dtype"] in ("bf16", "fp16"), config.train.device.startswith("cuda")
    return scale(config, facts, counted, layout, low=low, on_gpus=on_gpus, compute=compute)


def _device_here(name: str) -> torch.device | None:
    """Return the device of this name, or None where this machine lacks it but another may have it."""
    try:
        return pick_device(name)
    except UserError:
        if name.split(":")[0] in ("cuda", "mps"):
            return None
        raise


def _free(device: torch.device | None) -> int | None:
    """Return the bytes of memory that are free on a device, where that is known."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.free_memory_bytes() if device is not None and device.type == "cpu" else None


# ---------------------------------------------------------------------------------------------------------- memory


def _memory(config: RunConfig, device: torch.device | None) -> dict[str, Any]:
    """Return what a process holds, without and with recomputation."""
    train = config.train
    precision = train.dtype
    if device is not None:
        precision = pick_precision(precision, device)
    elif precision == "auto":
        precision = "bf16" if train.device.startswith("cuda") else "fp32"
    # The kernels of a device can be followed only where it is; a CPU's are made to keep nearly the same.
    kernels = device if device is not None and device.type == "cuda" else torch.device("cpu")
    both: dict[str, Memory] = {}
    for name, recompute in (("without_recomputation", False), ("with_recomputation", True)):
        changed = dataclasses.replace(train, recompute=recompute)
        both[name] = memory_of(
            dataclasses.replace(config, train=changed),
            Runtime(kernels, precision),
            as_gpu=_is_elsewhere(device, config),
        )
    peak = both["with_recomputation" if train.recompute else "without_recomputation"].peak_bytes
    on_cpu = device is not None and device.type == "cpu"
    return {
        "device": train.device if device is None else str(device),
        "kernels_of": kernels.type,
        "dtype": precision,
        "recompute": train.recompute,
        **{name: dataclasses.asdict(memory) for name, memory in both.items()},
        "peak_bytes": peak,
        # The C library may keep what is freed: up to as much again was seen.
        "process_bytes_at_least": peak + PROCESS_BYTES if on_cpu else peak,
    }


def _too_large(memory: dict[str, Any], needed: int, free: int) -> str:
    other = memory["with_recomputation"]["peak_bytes"]
    way_out = "take a smaller train.micro-batch-size or model"
    if not memory["recompute"]:
        way_out += f", or train.recompute (peak {other / 1e9:,.1f} GB)"
    return (
        f"the run needs {needed / 1e9:,.1f} GB of memory at its peak, and {free / 1e9:,.1f} GB are free on "
        f"{memory['device']}: {way_out}"
    )


# ----------------------------------------------------------------------------------------------------------- speed


def _why_not(
    config: RunConfig,
    device: torch.device | None,
    needed: int,
    free: int | None,
    trial: bool,
    processes: int,
) -> str | None:
    """Return why no speed is measured, if it is not."""
    if not trial:
        return "a trial was not wanted"
    if processes > 1:
        return "a trial is of one process, not of several that wait for each other"
    if device is None:
        return f"this machine has no {config.train.device}"
    if free is not None and needed > free:
        return "a step does not fit into the memory that is free"
    return None


def _speed(config: RunConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial finds out, and the length of the run in seconds or steps that follows from it."""
    runtime = start_runtime(config.train)
    held_out = facts["held_out_tokens"] or 0
    found = try_out(config, runtime, held_out)
    where = {
        "device": str(runtime.device),
        "dtype": runtime.precision,
        "threads": torch.get_num_threads(),
    }
    if not isinstance(found, Speed):
        return where | {
            "not_measured": "even one sequence in two blocks takes too long to try",
            "least_seconds_per_step": found,
        }
    costs = found.costs
    return where | {
        "tried": found.tried,
        "seconds_per_step": costs.update,
        "tokens_per_second": facts["tokens_per_step"] / costs.update,
        "seconds_per_evaluation": costs.evaluation,
        "seconds_per_sample": costs.sample,
        "seconds_per_checkpoint": costs.checkpoint,
        **_length(config, facts, costs, held_out),
    }


def _length(
    config: RunConfig, facts: dict[str, Any], costs: Costs, held_out: int
) -> dict[str, Any]:
    """Return the steps and the seconds of the run; None where its length shows only when it begins.

    In the seconds there is no time for reading the text, and for the last pass over what is held out only where it is
    known how much that is.
    """
    steps, train = facts["steps"], config.train
    if train.minutes:
        seconds = train.minutes * 60
        fitting = costs.steps_in(seconds - START_SECONDS, train, held_out)
        return {"steps_about": fitting, "run_seconds": seconds}
    if steps is None:
        return {"steps_about": None, "run_seconds": None}
    seconds = START_SECONDS + costs.at_the_ends(train, held_out) + steps * costs.of_a_step(train)
    return {"steps_about": steps, "run_seconds": seconds}
