"""What this machine gives to a process: cores, what compiling needs, and the memory that the process has taken."""

import ctypes
import os
import shutil
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

MEMORY = Path("/proc/meminfo")  # of Linux


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


def compiler() -> str | None:
    """Return the C++ compiler that `torch.compile` would use on a CPU."""
    wanted = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in wanted if name and (path := shutil.which(name))), None)


def has_python_headers() -> bool:
    """Return whether the headers of Python are there, which compiled code includes."""
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()
