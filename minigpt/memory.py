"""Settings in, the bytes that a training step holds out: by kind, and the most of them at once.

The real step is done once, on tensors that have a shape but no content, and every storage is counted from the operation
that makes it until nothing refers to it any more. So nothing here knows what a layer keeps for its gradient. Measured
peaks of whole runs, by torch's own allocator, were the same to half a percent (tests/test_memory.py). What libraries
hold inside an operation, and what the process takes beside its tensors, is not counted.
"""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Neither has a public name yet; both stand in torch's documentation and in every version from 2.0 on.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minigpt.config import RunConfig
from minigpt.data.batches import Batch
from minigpt.fit import update
from minigpt.loss import TrainStep
from minigpt.model.casting import as_on_a_gpu
from minigpt.model.undrawn import Undrawn
from minigpt.optim.ratio import UpdateRatio
from minigpt.rehearsal import make_step
from minigpt.runtime import Runtime

MOST_TOKENS = (
    1 << 17
)  # of a micro-batch that is followed as it is; of a larger one smaller ones are
KEPT = ("weights", "gradients", "optimizer", "copies")  # from step to step


@dataclasses.dataclass(frozen=True)
class Memory:
    """The bytes of tensors in a training step.

    Attributes:
        weights_bytes: of the parameters, and of the tables of rotary positions.
        gradients_bytes: one for each parameter.
        optimizer_bytes: what the optimiser remembers.
        copies_bytes: of the blocks' matrices, in a step after which a line is logged: how far did it move them?
        activations_bytes: kept from the forward pass for the backward pass, for one micro-batch.
        logits_bytes: of logits, their log-probabilities and gradients, at most at once.
        temporaries_bytes: whatever else is there at the peak.
        head_bytes: the most beside weights, gradients, optimiser and copies while the loss is taken.
        backward_bytes: the same in the backward pass of the blocks.
        update_bytes: made by the update, at most at once.
        peak_bytes: the most bytes that there are at once in an update that is not the first; not all that stands above
            is there at the same time.
        peak_in: "forward", "backward" or "update", when that is.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    copies_bytes: int
    activations_bytes: int
    logits_bytes: int
    temporaries_bytes: int
    head_bytes: int
    backward_bytes: int
    update_bytes: int
    peak_bytes: int
    peak_in: str


def memory_of(config: RunConfig, runtime: Runtime, *, as_gpu: bool = False) -> Memory:
    """Return what a training step with these settings holds, as without compilation.

    Args:
        config: the settings, with the shape resolved.
        runtime: the device whose kernels are taken, which must be there, and the precision.
        as_gpu: count on a CPU what the kernels of a GPU keep.
    """
    if as_gpu:
        with as_on_a_gpu():
            return memory_of(config, runtime)
    sequences = config.train.micro_batch_size or config.train.batch_size
    few = max(1, MOST_TOKENS // config.model.block_size)
    if sequences <= 2 * few:
        return _counted(config, runtime, sequences)
    # Bytes grow in proportion to the sequences, beside what does not depend on them.
    one, two = (_counted(config, runtime, n) for n in (few, 2 * few))
    times = (sequences - few) / few
    grown = {
        field.name: round(at_one + times * (getattr(two, field.name) - at_one))
        for field in dataclasses.fields(Memory)
        if isinstance(at_one := getattr(one, field.name), int)
    }
    return dataclasses.replace(two, **grown)


def _counted(config: RunConfig, runtime: Runtime, sequences: int) -> Memory:
    """Return what a step holds that has as many micro-batches, but of so many sequences."""
    train = config.train
    micro_batches = train.batch_size // (train.micro_batch_size or train.batch_size)
    train = dataclasses.replace(
        train, compile="off", micro_batch_size=sequences, batch_size=micro_batches * sequences
    )
    with FakeTensorMode(), Undrawn(), runtime.device, _Living() as living:
        return _step(dataclasses.replace(config, train=train), runtime, living)


def _step(config: RunConfig, runtime: Runtime, living: "_Living") -> Memory:
    """Return what one update held, of a run whose optimiser remembers earlier ones."""
    step, optimizer = make_step(config, runtime, _Still)
    weights = living.bytes["weights"]
    living.kind = "gradients"
    for parameter in step.parameters():
        parameter.grad = torch.zeros_like(parameter)
    living.kind = "optimizer"
    optimizer.step()  # the first update makes what the optimiser remembers
    if not _accumulates(config):
        optimizer.zero_grad(set_to_none=True)

    living.kind = "copies"
    ratio = UpdateRatio(step.model.blocks)
    ratio.remember()
    living.kind = "batches"
    batches = _batches(config)
    _follow(step, optimizer, living)
    living.forget_peak()
    # Where there are several micro-batches this is a later one, which finds the gradients of those before it.
    update(step, optimizer, batches[:1], config.optim.clip)
    at_peak, most = living.at_peak, living.most
    kept = (*KEPT, "activations", "logits")
    return Memory(
        weights_bytes=weights,
        gradients_bytes=most["gradients"],
        optimizer_bytes=living.bytes["optimizer"],
        copies_bytes=living.bytes["copies"],
        activations_bytes=living.kept_by_forward,
        logits_bytes=most["logits"],
        temporaries_bytes=at_peak.total() - sum(at_peak[kind] for kind in kept),
        head_bytes=living.working["logits"],
        backward_bytes=max(living.working[kind] for kind in ("activations", "backward")),
        update_bytes=most["update"],
        peak_bytes=at_peak.total(),
        peak_in={"activations": "forward", "update": "update"}.get(living.peak_kind, "backward"),
    )


def _accumulates(config: RunConfig) -> bool:
    return 0 < config.train.micro_batch_size < config.train.batch_size


def _batches(config: RunConfig) -> list[Batch]:
    """Return the micro-batches of a step; all are on the device when it begins."""
    size = (config.train.micro_batch_size or config.train.batch_size, config.model.block_size)
    separate = config.data.documents == "separate"
    return [
        Batch(*(torch.zeros(size, dtype=torch.int64) for _ in range(3 if separate else 2)))
        for _ in range(config.train.batch_size // size[0])
    ]


class _Still(TrainStep):
    """A step whose tensors are made where they belong: those without content cannot be moved."""

    def to(self, *place: Any, **options: Any) -> "_Still":
        return self


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that live, by what they are.

    Attributes:
        kind: of what is made from now on.
        bytes: that live now, by kind.
        most: that lived at once, by kind.
        at_peak: that lived when there were the most of all kinds together.
        working: that lived at once beside those that a run keeps from step to step, by what was being made then.
        peak_kind: what was being made then.
        kept_by_forward: activations at the end of the forward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.peak_kind = "weights", ""
        self.bytes, self.most, self.at_peak = Counter[str](), Counter[str](), Counter[str]()
        self.working = Counter[str]()
        self.kept_by_forward = 0
        self._total = self._peak = 0
        self._kinds: dict[int, str] = {}  # of each storage, by its identity

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._count(made.untyped_storage())
        return result

    def forget_peak(self) -> None:
        """Look for the peak from now on."""
        self._peak = 0
        self.most.clear()
        self.working.clear()

    def call(self, tensor: Tensor, kind: str) -> None:
        """Say that what has been made is of another kind."""
        storage = tensor.untyped_storage()
        self._move(storage.nbytes(), self._kinds[id(storage)], -1)
        self._kinds[id(storage)] = kind
        self._move(storage.nbytes(), kind, 1)

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._kinds:
            return
        size, self._kinds[id(storage)] = storage.nbytes(), self.kind
        weakref.finalize(storage, self._drop, id(storage), size)
        self._move(size, self.kind, 1)
        working = self._total - sum(self.bytes[kind] for kind in KEPT)
        self.working[self.kind] = max(self.working[self.kind], working)
        if self._total > self._peak:
            self._peak, self.at_peak, self.peak_kind = self._total, self.bytes.copy(), self.kind

    def _drop(self, identity: int, size: int) -> None:
        self._move(size, self._kinds.pop(identity), -1)

    def _move(self, size: int, kind: str, sign: int) -> None:
        self._total += sign * size
        self.bytes[kind] += sign * size
        self.most[kind] = max(self.most[kind], self.bytes[kind])


def _follow(step: TrainStep, optimizer: torch.optim.Optimizer, living: _Living) -> None:
    """Have each part of the update say what it makes."""

    def after_blocks(module: Any, inputs: Any, hidden: Tensor) -> None:
        living.kept_by_forward, living.kind = living.bytes["activations"], "logits"
        hidden.register_hook(lambda gradient: setattr(living, "kind", "backward"))

    def have_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            living.call(parameter.grad, "gradients")

    living.kind = "activations"
    step.model.norm.register_forward_hook(after_blocks)
    for parameter in step.parameters():
        parameter.register_post_accumulate_grad_hook(have_gradient)
    optimizer.register_step_pre_hook(lambda *_: setattr(living, "kind", "update"))
