"""A model with an adapter in; what training that costs beside training all weights out: numbers, bytes, seconds."""

import time

import torch

from minigpt.data.batches import Batch
from minigpt.loss import TrainStep

NUMBER_BYTES = 4  # in fp32
LARGEST = 2e9  # bytes of gradients that a trial may take for a moment
TIMES = 3


def trained_share(step: TrainStep) -> str:
    """Return in a sentence how much of a model is trained, and the memory of that beside the memory of all of it.

    A weight takes 4 bytes, and one that is trained 12 more: its gradient, and two numbers that AdamW remembers.
    """
    trained = sum(p.numel() for p in step.parameters() if p.requires_grad)
    total = sum(p.numel() for p in step.parameters())
    base = total - trained
    with_adapter, with_all = (NUMBER_BYTES * (total + 3 * n) for n in (trained, base))
    with_all -= NUMBER_BYTES * trained  # no adapter is there then
    return (
        f"{trained:,} numbers are trained beside {base:,} that stay ({trained / base:.1%}): weights, gradients and "
        f"AdamW take {_bytes(with_adapter)}, with all weights they would take {_bytes(with_all)}"
    )


def seconds_beside(step: TrainStep, batch: Batch) -> str | None:
    """Return in a sentence how long a forward and backward pass takes beside one for all weights, by a short trial.

    None where the gradients of all weights would take too much memory. What is trained is as before afterwards.

    Args:
        step: the model with its loss, on its device; shared by no other process.
        batch: of a few rows.
    """
    frozen = [p for p in step.parameters() if not p.requires_grad]
    if NUMBER_BYTES * sum(p.numel() for p in frozen) > LARGEST:
        return None
    adapter = _seconds(step, batch)
    for parameter in frozen:
        parameter.requires_grad_(True)
    whole = _seconds(step, batch)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return (
        f"a pass forward and backward over {len(batch.ids)} row{'s' * (len(batch.ids) > 1)} takes {_time(adapter)}, "
        f"for all weights it would take {_time(whole)}"
    )


def _seconds(step: TrainStep, batch: Batch) -> float:
    """Return how long a pass takes at best."""
    found = []
    with torch.compiler.set_stance("force_eager"):
        for _ in range(TIMES):
            began = time.perf_counter()
            loss, _ = step(batch.ids, batch.targets, batch.documents)
            loss.backward()
            loss.item()  # waits for the device
            found.append(time.perf_counter() - began)
            step.zero_grad(set_to_none=True)
    return min(found)


def _bytes(count: float) -> str:
    """Return bytes in three digits.

    >>> _bytes(1_234_000), _bytes(5_430_000_000)
    ('1.23 MB', '5.43 GB')
    """
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    """Return seconds in three digits.

    >>> _time(0.01234), _time(2.5)
    ('12.3 ms', '2.5 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
