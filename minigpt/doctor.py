"""This machine in, what it has for training out: device, precision, compiler, packages, room; and some advice."""

import os
import platform
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from minigpt import __version__, machine
from minigpt.extras import EXTRAS, command_for, version_of
from minigpt.files import cache_folder
from minigpt.runtime import pick_device

WIDTH = 80  # columns of the text
TRIAL_SECONDS = 0.25  # for each product that is timed
TRIAL_SIZE = 512  # rows, columns and depth of it
LITTLE_DISK = 2e9  # bytes
VARIABLES = (
    "MINIGPT_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def examine() -> dict[str, Any]:
    """Return what is here; JSON can hold it, and units stand in its keys."""
    device = pick_device("auto")
    facts = {
        "minigpt": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "processor": _processor(device),
        "cores": machine.cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory("SC_PHYS_PAGES"),
        "free_memory_bytes": _memory("SC_AVPHYS_PAGES"),
        "gpu_memory_bytes": _gpu_memory(device),
        "gflops_per_second": _speeds(device),
        "compiler": machine.compiler(),
        "python_headers": machine.has_python_headers(),
        "packages": {extra: _versions(names) for extra, names in EXTRAS.items()},
        "folders": [_folder(what, path) for what, path in _folders()],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return facts | {"advice": list(_advice(facts))}


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def _memory(pages: str) -> int | None:
    """Return the bytes of the machine's memory, all or what is free; None where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages in names else None


def _gpu_memory(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the version of each package, None where it is missing."""
    return {name: version_of(name) for name in names}


def _folders() -> Iterator[tuple[str, Path]]:
    yield "working folder", Path.cwd()
    yield "cache", cache_folder()
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    yield "hugging face", Path(home)


def _folder(what: str, path: Path) -> dict[str, Any]:
    there = next(
        folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists()
    )
    return {"what": what, "path": str(path), "free_bytes": shutil.disk_usage(there).free}


# ------------------------------------------------------------------------------------------------------------ trials


def _speeds(device: torch.device) -> dict[str, float]:
    """Return 10^9 operations in a second, by precision and product.

    A training step takes two kinds: x W^T in the forward pass, and y^T x for the gradient of a weight. On some
    processors one of them is slow in bf16 alone.
    """
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.ones(TRIAL_SIZE, TRIAL_SIZE, device=device, dtype=dtype)
        found[f"{name} forward"] = _speed(lambda x=x: x @ x.T, device)
        found[f"{name} weight gradient"] = _speed(lambda x=x: x.T @ x, device)
    return found


def _speed(product: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Return the speed of the quickest of some products."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < TRIAL_SECONDS:
        started = time.perf_counter()
        product()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return round(2 * TRIAL_SIZE**3 / best / 1e9, 1)


def faster(speeds: dict[str, float]) -> str:
    """Return the precision in which both products of a training step are over sooner: fp32 or bf16."""
    kinds = ("forward", "weight gradient")
    seconds = {
        d: sum(1 / max(speeds[f"{d} {kind}"], 1e-9) for kind in kinds) for d in ("fp32", "bf16")
    }
    return min(seconds, key=lambda dtype: seconds[dtype])


# ------------------------------------------------------------------------------------------------------------ advice


def _advice(facts: dict[str, Any]) -> Iterator[str]:
    """Yield what a person may want to do, one sentence each."""
    if facts["device"] == "cpu" and not facts["compiler"]:
        yield "No C++ compiler: --train.compile will not work. Install g++ (Debian: apt-get install g++)."
    if facts["device"] == "cpu" and not facts["python_headers"]:
        yield (
            "Python.h is missing: --train.compile will not work. Install Python's headers (Debian: apt-get install "
            "python3-dev)."
        )
    if facts["threads"] < facts["cores"]:
        yield (
            f"torch uses {facts['threads']} of {facts['cores']} cores; unset OMP_NUM_THREADS, or set it to "
            f"{facts['cores']}."
        )
    for folder in facts["folders"]:
        if folder["free_bytes"] < LITTLE_DISK:
            yield f"Little room for the {folder['what']}: {folder['free_bytes'] / 1e9:.1f} GB at {folder['path']}."


# -------------------------------------------------------------------------------------------------------------- text


def as_text(facts: dict[str, Any]) -> str:
    """Return what `examine` found as lines of at most 80 columns, but for the paths of folders."""
    lines = ["machine"]
    lines += _pairs(
        (
            "versions",
            f"minigpt {facts['minigpt']}, Python {facts['python']}, torch {facts['torch']}",
        ),
        ("device", f"{facts['device']} ({facts['processor']}; {facts['system']})"),
        ("cores", f"{facts['cores']}, torch uses {facts['threads']} threads"),
        ("memory", _of(facts["free_memory_bytes"], facts["memory_bytes"])),
        *(
            [("GPU memory", _gigabytes(facts["gpu_memory_bytes"]))]
            if facts["gpu_memory_bytes"]
            else []
        ),
        ("compiler", facts["compiler"] or "none found"),
        ("Python.h", "there" if facts["python_headers"] else "missing"),
    )
    lines += ["", f"products of {TRIAL_SIZE} x {TRIAL_SIZE} matrices, 10^9 operations/s"]
    speeds = facts["gflops_per_second"]
    lines += [f"  {name:<24}{speed:>10,.1f}" for name, speed in speeds.items()]
    lines += [f"  faster: {faster(speeds)}", "", "optional packages"]
    for extra, packages in facts["packages"].items():
        lines += _packages(extra, packages)
    lines += ["", "room on the disk"]
    lines += _pairs(
        *(
            (f["what"], f"{f['free_bytes'] / 1e9:,.0f} GB free at {f['path']}")
            for f in facts["folders"]
        )
    )
    if facts["variables"]:
        lines += [
            "",
            "variables",
            *(f"  {name}={value}" for name, value in facts["variables"].items()),
        ]
    lines += ["", "advice" if facts["advice"] else "nothing to mend"]
    for sentence in facts["advice"]:
        lines += textwrap.wrap(sentence, WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def _pairs(*pairs: tuple[str, str]) -> list[str]:
    return [f"  {name:<16}{value}" for name, value in pairs]


def _packages(extra: str, packages: dict[str, str | None]) -> Iterator[str]:
    """Yield a line for an extra: the versions, or the command that installs what is missing."""
    if None in packages.values():
        missing = [name for name, version in packages.items() if version is None]
        yield f"  {extra:<16}{', '.join(missing)} missing: {command_for(extra)}"
    else:
        yield f"  {extra:<16}" + ", ".join(
            f"{name} {version}" for name, version in packages.items()
        )


def _of(free: int | None, total: int | None) -> str:
    return (
        "unknown"
        if free is None or total is None
        else f"{_gigabytes(free)} free of {_gigabytes(total)}"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
