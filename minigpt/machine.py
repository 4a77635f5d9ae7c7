"""What this machine gives to a process: cores, what compiling needs, memory; and the peaks of GPUs by their names."""

import ctypes
import os
import re
import shutil
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

MEMORY = Path("/proc/meminfo")  # of Linux
# Dense TFLOP/s of matrix products in 16 bits, summed in fp32: NVIDIA, data sheets and white papers (a figure "with
# sparsity" halved). The words are looked for in the name that the driver gives; the first row that has them all counts.
PEAKS = (
    ("B200", 2250.0), ("GH200", 989.0), ("H200", 989.0), ("H100 PCIE", 756.0), ("H100 NVL", 835.0), ("H100", 989.0),
    ("H800 PCIE", 756.0), ("H800", 989.0), ("H20", 148.0), ("A100", 312.0), ("A800", 312.0), ("A40", 149.7),
    ("A30", 165.0), ("A10G", 70.0), ("A10", 125.0), ("L40S", 362.0), ("L40", 181.0), ("L4", 121.0),
    ("RTX 6000 ADA", 364.2), ("RTX 5090", 209.5), ("RTX 4090", 165.2), ("RTX 4080", 97.5), ("RTX 3090", 71.0),
    ("V100", 125.0), ("T4", 65.1),
)  # fmt: skip
WITHOUT_BF16 = ("V100", "T4")
OTHERS = ("LAPTOP", "MIG", "TI", "D", "SUPER", "MAX")  # less or more of a GPU than its number says


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library (glibc) would keep it for this process."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@lru_cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def is_one_of_several() -> bool:
    """Return whether this process was started as one of several, by torchrun or in its way."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def rank(of: str = "RANK") -> int:
    """Return which of several processes this one is; `of` LOCAL_RANK: on its host. One alone is the first."""
    number = os.environ.get(of, "0") if is_one_of_several() else "0"
    return int(number) if number.isdecimal() else 0


def free_memory_bytes() -> int | None:
    """Return the memory that a new process can take; None where the system does not say. What caches files is free."""
    if not MEMORY.is_file():
        return None
    lines = MEMORY.read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held at once; 0 where the system keeps no such figure."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Return the most floating-point operations a second of a GPU's matrix units; None where that is not known.

    Args:
        device_name: as `torch.cuda.get_device_name` has it.
        dtype: bf16, fp16 or tf32, which is half as fast.

    >>> peak_flops("NVIDIA H100 80GB HBM3", "bf16") / 1e12
    989.0
    """
    words = re.split(r"[^A-Z0-9]+", device_name.upper())
    if dtype not in ("bf16", "fp16", "tf32") or any(word in words for word in OTHERS):
        return None
    for name, peak in PEAKS:
        if all(word in words for word in name.split()):
            if name in WITHOUT_BF16 and dtype != "fp16":
                return None
            return peak * 1e12 / (2 if dtype == "tf32" else 1)
    return None


def compiler() -> str | None:
    """Return the C++ compiler that `torch.compile` would use on a CPU."""
    wanted = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in wanted if name and (path := shutil.which(name))), None)


def has_python_headers() -> bool:
    """Return whether the headers of Python are there, which compiled code includes."""
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()
