"""A finished step in, the same step shared by the processes of a run out: DDP, FSDP2, or both on a mesh.

    ddp    each process holds all of the model; gradients are averaged (Li et al., 2020)
    fsdp   each holds a part of each parameter, of its gradient and of what the optimiser remembers of it; a block is
           gathered while it computes (Rajbhandari et al., 2020, "ZeRO", stage 3)
    hsdp   fsdp within groups of processes, most often those of one host; ddp between the groups

The same gradients come out of all three: the mean over the processes.
"""

import contextlib
import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minigpt.config import TrainConfig
from minigpt.errors import UserError
from minigpt.loss import TrainStep
from minigpt.ranks import Ranks

SHARDED = ("fsdp", "hsdp")
# Bytes for each parameter, all in fp32: weight, gradient, and two numbers that AdamW remembers.
COPY_BYTES = 16
COPY_SHARE = 0.5  # of a device's memory that they may take; the rest is for activations


# The tables of rotary positions are constant. torch 2.13 has another name for it, and warns of the older one.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
NO_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


def pick_parallel(config: TrainConfig, parameters: int, ranks: Ranks, device: torch.device) -> str:
    """Return none, ddp, fsdp or hsdp; auto: ddp where each device has room for a copy of everything, else fsdp.

    Args:
        config: the settings.
        parameters: of the model.
        ranks: who shares the work.
        device: of this process.

    Raises:
        UserError: the processes cannot be grouped so, or fp16 is asked for with shards.
    """
    if ranks.size == 1:
        return "none"
    kind = config.parallel
    if kind == "auto":
        fits = True
        if device.type == "cuda":
            room = COPY_SHARE * torch.cuda.get_device_properties(device).total_memory
            fits = parameters * COPY_BYTES <= room
        kind = "ddp" if fits else "fsdp"
    if kind == "hsdp":
        size, here = config.shard_size or ranks.local_size, ranks.local_size
        if ranks.size % size:
            raise UserError(
                f"train.parallel is hsdp with {size} processes to a copy of the model, which do not divide the "
                f"{ranks.size} of this run; set train.shard_size to a divisor"
            )
        if size % here and here % size:
            raise UserError(
                f"train.shard_size is {size} and a host runs {here} processes; wanted one to divide the other"
            )
    refuse_fp16(kind, config.dtype)
    return kind


def refuse_fp16(kind: str, dtype: str) -> None:
    """Refuse fp16 in shards: nobody would scale its gradients."""
    if kind in SHARDED and dtype == "fp16":
        raise UserError(
            f"train.parallel is {kind}, which scales no fp16 gradients; take train.dtype bf16 or fp32, or ddp"
        )


def share(
    step: TrainStep, kind: str, ranks: Ranks, device: torch.device, config: TrainConfig
) -> nn.Module:
    """Return the step as this process is to call it; note in `ranks` who holds which part of the parameters.

    Args:
        step: finished; on its device, unless it is to be sharded.
        kind: of `pick_parallel`.
        ranks: who shares the work.
        device: of this process.
        config: the settings.
    """
    if kind == "none":
        return step
    if kind == "ddp":
        ranks.copies = dist.group.WORLD
        return _replicated(step, ranks, device, config)
    _shard(step, _mesh(kind, ranks, device, config), config)
    return step


def sync_gradients(step: nn.Module, wanted: bool) -> None:
    """Say whether the next backward pass is the last one of its update, after which all have the same gradient.

    Shards are added up after each pass, for whole gradients have no room; only between their copies it can wait.
    """
    if isinstance(step, DistributedDataParallel):
        step.require_backward_grad_sync = wanted
    elif hasattr(step, "set_requires_all_reduce"):
        step.set_requires_all_reduce(wanted)  # ty: ignore[not-callable]


def part_again(step: nn.Module) -> None:
    """Have each process keep its part alone again, after passes without a backward one, which leave the model whole."""
    if hasattr(step, "reshard"):
        step.reshard()  # ty: ignore[not-callable]


def _replicated(
    step: TrainStep, ranks: Ranks, device: torch.device, config: TrainConfig
) -> DistributedDataParallel:
    shared = DistributedDataParallel(
        step,
        device_ids=[ranks.local_rank] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **NO_BUFFERS,
    )
    # After its first pass it puts the gradients into another order. That is done before the first step: in sums of
    # three or more it decides about the last bits, and a run that is resumed must not begin in the old one.
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    eagerly = torch.compiler.set_stance("force_eager") if config.compile == "on" else None
    with eagerly or contextlib.nullcontext():
        for _ in range(2):
            shared(token, token)[0].backward()
    step.zero_grad(set_to_none=True)
    return shared


def _mesh(kind: str, ranks: Ranks, device: torch.device, config: TrainConfig) -> Any:
    """Return the processes as a mesh of (copies, shards), or of shards alone."""
    from torch.distributed.device_mesh import init_device_mesh

    if kind == "fsdp":
        mesh = init_device_mesh(device.type, (ranks.size,), mesh_dim_names=("shards",))
        ranks.shards = mesh.get_group("shards")
        return mesh
    size = config.shard_size or ranks.local_size
    names = ("copies", "shards")
    mesh = init_device_mesh(device.type, (ranks.size // size, size), mesh_dim_names=names)
    ranks.copies, ranks.shards = (mesh.get_group(name) for name in names)
    return mesh


def _shard(step: TrainStep, mesh: Any, config: TrainConfig) -> None:
    """Have each process keep its part alone, and gather a block while it computes."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    low = torch.bfloat16 if config.dtype == "bf16" else None  # half as much to send
    # The tables of rotary positions are passed to the blocks, and stay in fp32.
    policy = MixedPrecisionPolicy(low, torch.float32, cast_forward_inputs=False)
    for module in (*step.model.blocks, step):
        fully_shard(module, mesh=mesh, mp_policy=policy)
