"""What a run stands on: device, precision, determinism; and what is put around a finished model."""

import functools
import gc
import os
import platform
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from minigpt import machine
from minigpt.config import TrainConfig
from minigpt.errors import UserError
from minigpt.loss import TrainStep
from minigpt.loss_scale import LossScale
from minigpt.model.casting import Cast
from minigpt.parallel import SHARDED, share
from minigpt.ranks import Ranks

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Runtime:
    """Where the tensors live and in which precision products are taken."""

    device: torch.device
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """What the products are taken of; tf32 is a way to multiply fp32."""
        return DTYPES[self.precision]

    def describe(self) -> dict[str, Any]:
        """Return what equal results depend on."""
        gpu = self.device.type == "cuda"
        return {
            "torch": torch.__version__,
            "device": str(self.device),
            "processor": torch.cuda.get_device_name(self.device)
            if gpu
            else torch.backends.cpu.get_cpu_capability(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "dtype": self.precision,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def forget(self) -> None:
        """Give back the memory of what is used no more, and count the peak anew."""
        gc.collect()  # a model, its optimiser and the hooks on them refer to each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_flops(self) -> float | None:
        """Return the most operations a second that the device's maker tells of in this precision; None: not known."""
        if self.device.type != "cuda":
            return None
        return machine.peak_flops(torch.cuda.get_device_name(self.device), self.precision)

    def peak_memory_bytes(self) -> int:
        """Return the most memory that the process (on a GPU: its tensors) has held."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return machine.peak_memory_bytes()


def start_runtime(config: TrainConfig) -> Runtime:
    """Set up this process for a run and return what it runs on.

    On a CPU every operation is deterministic, always; on a GPU where `train.deterministic` asks for it.

    Raises:
        UserError: the device or the precision is not there.
    """
    device = pick_device(config.device)
    deterministic = device.type == "cpu" or config.deterministic
    if deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.compile == "on":
        # Tells the compiler too, and so imports it, which takes two seconds.
        torch.use_deterministic_algorithms(deterministic)
    else:
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        _leave_compiler_out()
    # Filling fresh memory would only make reads of unwritten memory repeatable, and costs a pass over each tensor.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - unknown to type checkers
    torch.set_flush_denormal(True)  # numbers below 1e-38 take 5 to 50 times as long
    precision = pick_precision(config.dtype, device)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return Runtime(device, precision)


def _leave_compiler_out() -> None:
    """Spare a process the second or two in which torch's optimisers import its compiler, to be left alone by it.

    With Muon it is not imported at all; torch's AdamW does it all the same when it first steps. Each method looks for
    the result of that on itself; where a release of torch does not, nothing changes.
    """
    for name in ("add_param_group", "zero_grad", "load_state_dict"):
        method = getattr(torch.optim.Optimizer, name)
        if plain := getattr(method, "__wrapped__", None):
            setattr(plain, "__dynamo_disable", plain)


def pick_device(name: str, setting: str = "train.device") -> torch.device:
    """Return the device of this name; auto: a GPU where there is one.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        setting: where the name comes from, for what is said about it.

    Raises:
        UserError: it is unknown or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{setting} is {name!r}; wanted auto, cpu, cuda, cuda:N or mps") from None
    there = {
        "cpu": not device.index,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UserError(f"{setting} is {name!r}, which this machine does not have; try auto or cpu")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return the precision of products; auto: bf16 on a GPU that has it, else fp32.

    Raises:
        UserError: the device does not have it.
    """
    if name == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if bf16 else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise UserError(
            f"train.dtype is tf32, which NVIDIA's GPUs have, and this run is on {device}; take fp32 or bf16"
        )
    return name


def pick_newton_schulz_dtype(name: str, device: torch.device) -> str:
    """Return the precision of Newton-Schulz's products; auto: bf16 on a GPU or CPU with units for it, else fp32.

    With the AMX units of an Intel Xeon they take a tenth to a quarter of the time, without them longer than in fp32:
    docs/experiments.md.
    """
    if name == "auto" and device.type == "cpu":
        return "bf16" if "amx_bf16" in _cpu_units() else "fp32"
    return pick_precision(name, device)


def _cpu_units() -> set[str]:
    """Return the names of what the CPU can do; none where torch is too old to tell."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name, there in known.items() if there is True}


def prepare_step(step: TrainStep, runtime: Runtime, config: TrainConfig) -> TrainStep:
    """Put around a finished model what its run asks for, from the inside out, and move it to its device.

    In this order: recomputation of each block, precision, compilation. The parameters keep their names. Where the
    precision is low, the stream is cast once, and what follows computes in the precision of what comes in.
    """
    step.to(runtime.device)
    _wrap(step, runtime, config)
    if config.compile == "on":
        step.compile(dynamic=False)
    return step


def share_step(
    step: TrainStep, runtime: Runtime, config: TrainConfig, kind: str, ranks: Ranks
) -> nn.Module:
    """Do as `prepare_step`, and return the step as one of several processes is to call it.

    A model in shards is compiled block by block, for between them they are gathered; and is never whole on the device.

    Args:
        step: a finished model with its loss.
        runtime: where it trains, and in which precision.
        config: the settings.
        kind: none, ddp, fsdp or hsdp.
        ranks: who shares the work.
    """
    if kind not in SHARDED:
        return share(prepare_step(step, runtime, config), kind, ranks, runtime.device, config)
    _wrap(step, runtime, config)
    if config.compile == "on":
        for block in step.model.blocks:
            block.forward = torch.compile(block.forward, dynamic=False)
    return share(step, kind, ranks, runtime.device, config)


def _wrap(step: TrainStep, runtime: Runtime, config: TrainConfig) -> None:
    """Have blocks recompute what they do not keep, and the stream be in the precision of the run."""
    if config.recompute:
        for block in step.model.blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if runtime.dtype != torch.float32:
        step.cast = Cast(runtime.dtype)
        step.model.dropout.register_forward_hook(step.cast)
    if runtime.dtype == torch.float16:
        step.loss_scale = LossScale(step)


class StopSignals:
    """Sets an event at the first SIGINT or SIGTERM; the second one ends the process at once.

    Of several processes none ends before the others: torchrun passes on a signal that has reached all of them already.
    """

    def __init__(self, event: threading.Event, *, alone: bool = True) -> None:
        self._event, self._alone = event, alone
        self._before: dict[int, Callable[..., Any] | int | None] = {}
        self.received: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def number(self) -> int:
        """Return the signal that has been received, 0 for none; SIGINT where only the event is set."""
        return (self.received or signal.SIGINT) if self._event.is_set() else 0

    def take(self, number: int) -> None:
        """Count a signal, if it is one, that came before this one could hear it."""
        if number:
            self.received = self.received or number
            self._event.set()

    def _receive(self, number: int, frame: object) -> None:
        if self._event.is_set() and self._alone:
            self.__exit__()
            signal.raise_signal(number)
        self.take(number)
