"""A run's settings and what one step holds in, what many processes hold, send and wait for out: plain arithmetic.

    ddp    each process holds everything; gradients are summed over all of them once a step (Li et al., 2020)
    fsdp   each holds a part of weights, gradients and optimiser (Rajbhandari et al., 2020, "ZeRO", stage 3); blocks are
           gathered where they compute, and gradients are summed into parts, in each micro-batch
    hsdp   fsdp within groups of processes, ddp between the groups

No collective is timed here: what links and devices give is stated in `Rates`, each figure with its origin, and what
overlaps is bounded from both sides. Memory is held against real processes by tests/test_scaling.py.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from minigpt.config import RunConfig
from minigpt.errors import UserError
from minigpt.memory import Memory
from minigpt.model.size import parameter_shapes
from minigpt.optim.groups import parameter_groups
from minigpt.parallel import COPY_BYTES, COPY_SHARE, refuse_fp16

FP32 = 4  # bytes of a number
BUCKET_BYTES = 25 << 20  # of gradients that DDP sums at once, by default
BACKWARD_SHARE = 2 / 3  # of the operations of a micro-batch
RECOMPUTED = 4 / 3  # times the operations, where blocks are computed twice

Shapes = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Rates:
    """What the machines of a cluster give, where nothing has been measured: hosts like NVIDIA's DGX H100.

    Attributes:
        flops: of a GPU in bf16, dense, a second (NVIDIA, "H100 Tensor Core GPU", data sheet: SXM).
        flops_share: of it that training reaches by itself. Published for 124M on H100s: 0.40 (llm.c) and 0.41
            (nanochat); for 8B, communication within the host included: 0.33 to 0.39 (torchtitan).
        device_bytes: of memory (the same data sheet).
        host_link: bytes a second that a GPU sends to others of its host: NVLink 4, 900 GB/s in both directions.
        network: bytes a second that a GPU sends to other hosts: one InfiniBand NDR port of 400 Gb/s for each GPU.
        link_share: of both that collectives reach: assumed.
        call_seconds, host_hop_seconds, network_hop_seconds: of a ring, before the first and at each step: the figures
            by which NCCL chooses its ways (nccl, src/graph/tuning.cc, ring and simple protocol).
        tree_hop_seconds, tree_network_hop_seconds, tree_share: the same of a tree, by which sums for everybody may go,
            and the share of a ring's bandwidth that it reaches (the same file).
        to_host: bytes a second from a GPU to its host's memory: PCIe 5 x16 gives 63 GB/s; 50 are assumed.
        disk: bytes a second that a host writes to the file system of the checkpoints, all at once: assumed.
        host_bytes: of a host's memory (NVIDIA, "DGX H100", data sheet).
    """

    flops: float = 989e12
    flops_share: float = 0.40
    device_bytes: float = 80e9
    host_link: float = 450e9
    network: float = 50e9
    link_share: float = 0.8
    call_seconds: float = 8.4e-6
    host_hop_seconds: float = 3.4e-6
    network_hop_seconds: float = 9.6e-6
    tree_hop_seconds: float = 28e-6
    tree_network_hop_seconds: float = 50e-6
    tree_share: float = 0.9
    to_host: float = 50e9
    disk: float = 2e9
    host_bytes: float = 2e12


RATES = Rates()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Who holds what.

    Attributes:
        kind: none, ddp, fsdp or hsdp.
        processes: of the run, one for each GPU.
        shards: processes that share one copy of the model.
        per_host: processes on a host; numbered host by host.
    """

    kind: str
    processes: int
    shards: int
    per_host: int

    @property
    def copies(self) -> int:
        """Return how many copies of the model there are."""
        return self.processes // self.shards

    @property
    def hosts(self) -> int:
        """Return how many hosts are needed."""
        return -(-self.processes // self.per_host)

    @property
    def shard_ring(self) -> "Ring":
        """Return the ring of those that share a copy."""
        return Ring(self.shards, min(self.shards, self.per_host))

    @property
    def copy_ring(self) -> "Ring":
        """Return the ring of those that hold the same part of different copies."""
        here = max(1, min(self.processes, self.per_host) // self.shards)
        return Ring(self.copies, min(self.copies, here))


def layout_of(
    config: RunConfig, parameters: int, processes: int, gpus_per_host: int = 8, rates: Rates = RATES
) -> Layout:
    """Return who holds what; auto: ddp where each device has room for a copy of everything, else fsdp.

    Raises:
        UserError: the processes cannot be grouped so.
    """
    train = config.train
    if gpus_per_host < 1 or (processes > gpus_per_host and processes % gpus_per_host):
        raise UserError(
            f"--gpus-per-host is {gpus_per_host}; wanted a divisor of --processes {processes}, for every host runs as "
            "many processes as any other (where it is not given, 8)"
        )
    per_host = min(processes, gpus_per_host)
    if processes == 1:
        return Layout("none", 1, 1, 1)
    kind = train.parallel
    if kind == "auto":
        fits = parameters * COPY_BYTES <= COPY_SHARE * rates.device_bytes
        kind = "ddp" if fits else "fsdp"
    refuse_fp16(kind, train.dtype)
    shards = {"ddp": 1, "fsdp": processes}.get(kind, train.shard_size or per_host)
    if processes % shards:
        raise UserError(
            f"train.parallel is hsdp with {shards} processes to a copy of the model, which do not divide the "
            f"{processes} of this run; set train.shard_size to a divisor"
        )
    if shards % per_host and per_host % shards:
        raise UserError(
            f"train.shard_size is {shards} and a host runs {per_host} processes; wanted one to divide the other"
        )
    return Layout(kind, processes, shards, per_host)


# ---------------------------------------------------------------------------------------------------------- memory


def own_numbers(shapes: Shapes, parts: int) -> int:
    """Return how many numbers of tensors that are cut by rows lie in the fullest of so many processes.

    >>> own_numbers({"weight": (10, 3), "gain": (3,)}, 4)
    10
    """
    return sum(-(-shape[0] // parts) * math.prod(shape[1:]) for shape in shapes.values())


def _blocks_and_rest(shapes: Shapes) -> tuple[Shapes, Shapes]:
    """Return the parameters of one block, and those outside of all blocks."""
    block = {name: shape for name, shape in shapes.items() if name.startswith("blocks.0.")}
    rest = {name: shape for name, shape in shapes.items() if not name.startswith("blocks.")}
    return block, rest


def process_memory(
    config: RunConfig, layout: Layout, memory: Memory, low: bool, micro_batches: int
) -> dict[str, int]:
    """Return the bytes of tensors in the fullest process of a run.

    Args:
        config: the settings, with the shape resolved.
        layout: who holds what.
        memory: of a step with the micro-batch of one process, which holds everything itself.
        low: whether products are in 16 bits; weights then travel so.
        micro_batches: of a process in a step.

    Returns:
        Bytes by kind. `accumulated_bytes`: gradients beside those that are sent, while micro-batches are added up.
        `gathered_bytes`: what is whole of the shards, with its gradients. `step_bytes`: activations, logits and the
        rest of a micro-batch, at their most.
    """
    shapes = parameter_shapes(config.model)
    numbers, own = own_numbers(shapes, 1), own_numbers(shapes, layout.shards)
    weights = (
        FP32 * own + memory.weights_bytes - FP32 * numbers
    )  # tables of rotary positions are never cut
    gradients = FP32 * own
    optimizer = 0
    for group in parameter_groups(shapes, config.optim):
        remembered = 1 if group.optimizer == "muon" else 2
        part = own_numbers({name: shapes[name] for name in group.names}, layout.shards)
        optimizer += FP32 * (
            remembered * part + len(group.names)
        )  # and a count of steps for each tensor
    copies, update = memory.copies_bytes // layout.shards, memory.update_bytes // layout.shards
    found = {
        "weights_bytes": weights, "gradients_bytes": gradients, "optimizer_bytes": optimizer, "copies_bytes": copies,
        "accumulated_bytes": 0, "gathered_bytes": 0,
        "step_bytes": max(memory.head_bytes, memory.backward_bytes), "peak_bytes": memory.peak_bytes,
    }  # fmt: skip
    if layout.kind == "none":
        return found
    kept = weights + optimizer + copies
    if layout.kind == "ddp":
        # Its buckets stay; a gradient that is not yet to be sent lies beside them.
        found["accumulated_bytes"] = gradients if micro_batches > 1 else 0
        most = max(found["step_bytes"], update)
        found["peak_bytes"] = kept + gradients + found["accumulated_bytes"] + most
        return found
    return found | _sharded(config, layout, memory, low, micro_batches, kept, gradients, update)


def _sharded(
    config: RunConfig,
    layout: Layout,
    memory: Memory,
    low: bool,
    micro_batches: int,
    kept: int,
    gradients: int,
    update: int,
) -> dict[str, int]:
    """Return what is gathered, what a micro-batch takes beside it, and the peak."""
    shapes = parameter_shapes(config.model)
    block_shapes, rest_shapes = _blocks_and_rest(shapes)
    size = 2 if low else FP32
    whole = [
        layout.shards * own_numbers(part, layout.shards) for part in (block_shapes, rest_shapes)
    ]
    block, rest = whole
    # Weights that come in 16 bits are not cast, and what is gathered is not kept from forward to backward.
    layers, recompute = config.model.n_layer, config.train.recompute
    matrices = sum(math.prod(shape) for shape in block_shapes.values() if len(shape) == 2)
    cast = size * matrices if low else 0
    at_head = memory.head_bytes - (0 if recompute else layers * cast)
    at_blocks = memory.backward_bytes - (cast if recompute else layers * cast)
    of_a_block = (memory.activations_bytes - (0 if recompute else layers * cast)) // layers
    # The rest stays, and the gradient of the head from its making on. When the loss is taken the buffer that gathered
    # the last block is still there; then a block is there whole while the next one comes.
    head = size * (rest + block)
    into_head = size * config.model.vocab_size * config.model.n_embd
    first = size * (rest + 2 * block) + into_head
    # After the first of them its gradient, and the fp32 buffer in which that is summed, are there as well.
    later = first + size * block + FP32 * block - of_a_block
    inner = max(first, later)
    # At the end the rest is summed as the blocks were.
    end = 2 * size * rest + FP32 * rest + gradients
    arrived = gradients if micro_batches > 1 else 0  # from micro-batches before this one
    gathered, step = max((head, at_head), (inner, at_blocks), key=sum)
    return {
        "gathered_bytes": gathered,
        "step_bytes": step,
        "peak_bytes": kept + max(gathered + step + arrived, end, gradients + update),
    }


# --------------------------------------------------------------------------------------------------- communication


@dataclasses.dataclass(frozen=True)
class Ring:
    """Processes that pass numbers on in a circle.

    Attributes:
        size: how many.
        here: how many of them on each host.
    """

    size: int
    here: int

    def sent(self, number_of_bytes: float) -> float:
        """Return what each sends so that all hold so many bytes that came in equal parts, or the sum of them in parts.

        (n - 1) / n of them; to sum and to gather, twice that (Patarasuk and Yuan, 2009).
        """
        return (self.size - 1) / self.size * number_of_bytes

    def seconds(self, sent: float, calls: float, rates: Rates, turns: int = 1) -> float:
        """Return how long it takes to send so much, in so many calls that each go round so many times.

        The rings of a host share its ports: where a ring leaves the host, its members there send through all of theirs.
        What goes round twice, sums for everybody, goes by a tree where that is faster.
        """
        if self.size == 1:
            return 0.0
        hosts = self.size // self.here
        bandwidth = (
            rates.host_link if hosts == 1 else min(rates.host_link, self.here * rates.network)
        )
        bandwidth *= rates.link_share
        hops = (self.size - hosts) * rates.host_hop_seconds
        hops += (hosts - 1) * rates.network_hop_seconds
        ring = sent / bandwidth + calls * (rates.call_seconds + turns * hops)
        if turns == 1:
            return ring
        levels = (self.here - 1) * rates.tree_hop_seconds
        levels += math.log2(hosts) * rates.tree_network_hop_seconds
        return min(ring, sent / (bandwidth * rates.tree_share) + calls * 2 * levels)


def communication(
    config: RunConfig, layout: Layout, low: bool, micro_batches: int, rates: Rates | None
) -> dict[str, Any]:
    """Return what each process sends in a step, by what for, and how long that takes at these rates.

    Args:
        config: the settings, with the shape resolved.
        layout: who holds what.
        low: whether products are in 16 bits.
        micro_batches: of a process in a step.
        rates: of the links; None: not known.
    """
    shapes = parameter_shapes(config.model)
    block_shapes, rest_shapes = _blocks_and_rest(shapes)
    layers, size = config.model.n_layer, 2 if low else FP32
    block, rest = (
        layout.shards * own_numbers(part, layout.shards) for part in (block_shapes, rest_shapes)
    )
    within, between = layout.shard_ring, layout.copy_ring
    own = FP32 * own_numbers(shapes, layout.shards)
    sharded = layout.shards > 1
    matrices = sum(
        math.prod(shapes[name])
        for group in parameter_groups(shapes, config.optim)
        if group.optimizer == "muon"
        for name in group.names
    )
    kinds = len({tuple(shape) for shape in block_shapes.values() if len(shape) == 2})
    # They travel in the precision of Newton-Schulz's products.
    named = {"bf16": 2, "fp32": FP32}.get(config.optim.newton_schulz_dtype, size)
    muon = named * matrices / layout.shards
    parts = {
        # Each block for the forward and for the backward pass, the rest once; in each micro-batch.
        "gather": (within, micro_batches * within.sent(size * (2 * layers * block + rest)),
                   micro_batches * (2 * layers + 1), 1),
        "scatter": (within, micro_batches * within.sent(FP32 * (layers * block + rest)),
                    micro_batches * (layers + 1), 1),
        "all_reduce": (between, 2 * between.sent(own),
                       layers + 1 if sharded else math.ceil(own / BUCKET_BYTES), 2),
        # Muon's matrices go to their owners and come back; among copies the results are gathered.
        "exchange": (within, 2 * within.sent(muon / layout.copies), 2 * kinds if muon else 0, 1),
        "updates": (between, between.sent(muon), kinds if muon else 0, 1),
    }  # fmt: skip
    seconds: dict[str, float] = {}
    waits: dict[str, float] = {}
    if rates is not None:
        for name, (ring, sent, calls, turns) in parts.items():
            seconds[name] = ring.seconds(sent, calls, rates, turns)
            waits[name] = ring.seconds(0.0, calls, rates, turns)
    return {
        **{f"{name}_bytes": round(sent) for name, (_, sent, _, _) in parts.items()},
        "sent_bytes": round(sum(sent for _, sent, _, _ in parts.values())),
        "calls": sum(calls for ring, _, calls, _ in parts.values() if ring.size > 1),
        "seconds_by_part": seconds,
        "latency_seconds": None if rates is None else sum(waits.values()),
        "seconds": None if rates is None else sum(seconds.values()),
    }


# ---------------------------------------------------------------------------------------------------- time, storage


def step_time(
    compute: float, sent: Mapping[str, Any], micro_batches: int, tokens: int
) -> dict[str, Any]:
    """Return how long a step takes at least and at most.

    At least: gathering and scattering hide behind the operations, or the operations behind them; what is summed between
    copies hides behind the backward pass of the last micro-batch; Muon's exchange hides behind nothing. At most:
    nothing hides. Where the links are not known, there is no most.

    Args:
        compute: seconds of a process's operations.
        sent: of `communication`.
        micro_batches: of a process in a step.
        tokens: of the whole step.
    """
    if sent["seconds"] is None:
        least, most = compute, None
    else:
        parts = sent["seconds_by_part"]
        hidden = BACKWARD_SHARE * compute / micro_batches
        least = max(compute, parts["gather"] + parts["scatter"])
        least += max(0.0, parts["all_reduce"] - hidden) + parts["exchange"] + parts["updates"]
        most = compute + sent["seconds"]
    return {
        "compute_seconds": compute,
        "seconds_at_least": least,
        "seconds_at_most": most,
        "tokens_per_second_at_most": tokens / least,
        "tokens_per_second_at_least": None if most is None else tokens / most,
    }


def checkpoint(
    weights: int, optimizer: int, tensors: int, layout: Layout, rates: Rates | None
) -> dict[str, Any]:
    """Return the bytes of a checkpoint and how long it takes: weights by the first process, the rest by all hosts.

    Training waits while the weights are gathered and all is copied to host memory; the files are written while it goes
    on.

    Args:
        weights: bytes of all weights, in fp32.
        optimizer: bytes that the optimiser remembers, of one copy of the model.
        tensors: how many weights there are; each is gathered by itself.
        layout: who holds what.
        rates: of links and disks; None: not known.
    """
    found: dict[str, Any] = {
        "weights_bytes": weights, "optimizer_bytes": optimizer, "bytes": weights + optimizer,
        "wait_seconds": None, "write_seconds": None,
    }  # fmt: skip
    if rates is None:
        return found
    ring = layout.shard_ring
    gathering = ring.seconds(ring.sent(weights), tensors, rates)
    copying = (weights + optimizer / layout.processes) / rates.to_host
    writing = (weights + optimizer / layout.hosts) / rates.disk
    return found | {"wait_seconds": gathering + copying, "write_seconds": writing}


def scale(
    config: RunConfig,
    facts: Mapping[str, Any],
    memory: Memory,
    layout: Layout,
    *,
    low: bool,
    on_gpus: bool,
    compute: float | None = None,
    rates: Rates = RATES,
) -> dict[str, Any]:
    """Return what each process holds and sends, how long a step and a checkpoint take; JSON can hold it.

    Args:
        config: the settings, with the shape resolved.
        facts: of `plan`.
        memory: of a step with the micro-batch of one process.
        layout: who holds what.
        low: whether products are in 16 bits.
        on_gpus: whether the rates are those of this run; else links and disks are not known.
        compute: seconds that one process took here for its share of a step; None: from the rates.
        rates: of the cluster.
    """
    share, micro = facts["sequences_per_process_and_step"], facts["sequences_per_micro_batch"]
    micro_batches = math.ceil(share / micro)
    links = rates if on_gpus else None
    held = process_memory(config, layout, memory, low, micro_batches)
    sent = communication(config, layout, low, micro_batches, links)
    how = "measured here in one process"
    if compute is None:
        how = f"{rates.flops / 1e12:,.0f} TFLOP/s x {rates.flops_share:g}"
        flops = facts["training_flops_per_step"] / layout.processes
        flops *= RECOMPUTED if config.train.recompute else 1
        compute = flops / (rates.flops * rates.flops_share) if on_gpus else None
    tensors = sum(group["tensors"] for group in facts["groups"])
    weights = facts["weights_bytes_fp32"]
    start = _start_bytes(config, weights, layout)
    return {
        **dataclasses.asdict(layout),
        "copies": layout.copies,
        "hosts": layout.hosts,
        "micro_batches": micro_batches,
        "memory": held,
        "device_bytes": round(rates.device_bytes) if on_gpus else None,
        "host_start_bytes": start,
        "communication": sent,
        "compute_from": how if compute is not None else None,
        "time": compute and step_time(compute, sent, micro_batches, facts["tokens_per_step"]),
        "checkpoint": checkpoint(weights, memory.optimizer_bytes, tensors, layout, links),
        "rates": dataclasses.asdict(rates) if on_gpus else None,
        "warnings": _warnings(layout, held, sent, start, compute, rates if on_gpus else None),
    }


def _start_bytes(config: RunConfig, weights: int, layout: Layout) -> int:
    """Return what the processes of a host hold in its memory before they train: each its part, and a tensor to draw."""
    own = weights // layout.shards
    if layout.shards > 1:
        own += 4 * max(math.prod(size) for size in parameter_shapes(config.model).values())
    return own * layout.per_host


def _warnings(
    layout: Layout,
    held: Mapping[str, int],
    sent: Mapping[str, Any],
    start: int,
    compute: float | None,
    rates: Rates | None,
) -> list[str]:
    """Return what breaks or costs speed, one sentence each."""
    found = []
    if rates is None:
        return found
    if held["peak_bytes"] > rates.device_bytes:
        others = {"ddp": "fsdp, ", "hsdp": "a larger train.shard-size, "}.get(layout.kind, "")
        found.append(
            f"a process holds {held['peak_bytes'] / 1e9:,.1f} GB at its peak, and a GPU has "
            f"{rates.device_bytes / 1e9:,.0f} GB: take {others}train.recompute or a smaller train.micro-batch-size"
        )
    if start > rates.host_bytes:
        found.append(
            f"the processes of a host first make weights in its memory, {start / 1e9:,.0f} GB together, and it has "
            f"{rates.host_bytes / 1e9:,.0f} GB: fewer --gpus-per-host have room"
        )
    if compute is not None and sent["seconds"] > compute:
        found.append(
            f"communication takes {1e3 * sent['seconds']:,.3g} ms of a step and computing {1e3 * compute:,.3g} ms: "
            "more sequences for each process (train.batch-size) would use the GPUs better"
        )
    return found
