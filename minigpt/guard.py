"""Updates in, only sound ones done: a loss or gradient that is not finite is left out, a loss far off is noticed.

The guard hooks into any `torch.optim.Optimizer`: one that finds no gradients changes nothing. A fused optimiser on a
GPU is told on the device, as torch's GradScaler does it, so that nothing waits for the device within a step; what
happened is then noticed when the guard next looks.
"""

import math
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.loss_scale import LossScale
from minigpt.ranks import ALONE, Ranks, own_part

IN_A_ROW = 3  # updates left out, one after the other: the run has diverged
WINDOW = 128  # steps that a loss is compared with
FEWEST = 32  # of them must be there
SPIKE = 6.0  # standard deviations above their mean: by chance one step in a billion
OVER = 3.0  # below this a spike has ended


@torch.no_grad()
def clip_gradient(
    parameters: Iterable[nn.Parameter], limit: float, loss: Tensor, ranks: Ranks = ALONE
) -> Tensor:
    """Scale the gradient down to a norm of at most `limit` (0: no limit); return its norm before.

    A gradient that is not finite stays as it is, so that it can be seen where; a loss that is not makes all of it NaN.

    Args:
        parameters: those of the model.
        limit: for the norm of the whole gradient.
        loss: of the update, of all ranks: one that knew of its own alone would go its own way.
        ranks: who holds the gradient.
    """
    gradients = [own_part(p.grad) for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if ranks.shards is not None:
        # Over all, not over the shards: copies that came to another last digit would drift apart.
        copies = 1 if ranks.copies is None else ranks.copies.size()
        norm = (ranks.sum(norm.square()) / copies).sqrt()
    shown = norm.nan_to_num(nan=0.0, posinf=0.0) + 0 * loss
    share = ((limit or math.inf) / (shown + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
    torch._foreach_mul_(gradients, share)
    return norm


class Guard:
    """Watches the updates of one optimiser.

    What it remembers lies in a dictionary of plain values that belongs to the run's progress: `in_a_row`, updates left
    out one after the other; `recent`, the last losses; `in_spike`; and `row`, what the next line of the log is to hold:
    the number of `skipped` updates, of those left out because fp16 `overflowed`, and the highest spike as `spike_step`
    and `spike_z`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        on_device: bool,
        loss_scale: LossScale | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Watch an optimiser.

        Args:
            optimizer: whose updates are left out where a gradient is not finite.
            parameters: with their names.
            on_device: do not wait for the device in a step, where the optimiser can do without.
            loss_scale: that the gradients were scaled with, and that may have been too large.
            ranks: who holds the gradients: what one finds in its part, all leave out.
        """
        self._named, self._loss_scale = list(parameters), loss_scale
        self._ranks = ranks
        self._on_device = on_device and getattr(optimizer, "_step_supports_amp_scaling", False)
        # Of each update since the last look: whether it was left out, whether a smaller loss scale may mend that, and
        # the number of the first bad parameter.
        self._outcomes: list[Tensor] = []
        self.waits = not self._on_device
        optimizer.register_step_pre_hook(self._before_step)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A frozen parameter has no gradient; it counts as one that is sound.
        gradients = [
            own_part(p).new_zeros(()) if p.grad is None else own_part(p.grad)
            for _, p in self._named
        ]
        # What the norms of the parts add up to is no norm, but it is finite where they all are.
        norms = self._ranks.sum_shards(torch.stack(torch._foreach_norm(gradients)))
        found = ~torch.linalg.vector_norm(norms).isfinite()
        scale = self._loss_scale
        mending = torch.zeros_like(found) if scale is None else scale.update(found)
        first = (~norms.isfinite()).int().argmax()
        self._outcomes.append(torch.stack([found.int(), mending.int(), first]))
        if self._on_device:
            setattr(optimizer, "found_inf", found.float())  # noqa: B010 - the protocol of GradScaler
        elif found.item():
            optimizer.zero_grad(set_to_none=True)

    def look(
        self, memory: dict[str, Any], step: int, losses: list[Tensor]
    ) -> Iterator["Skipped | Spike"]:
        """Yield what was remarkable in the updates since the last look.

        Args:
            memory: see the class; changed.
            step: the number of the last update.
            losses: of all updates since the last line of the log.
        """
        if not self._outcomes:
            return
        outcomes = torch.stack(self._outcomes).tolist()
        found = torch.stack(losses[-len(outcomes) :]).tolist()
        self._outcomes = []
        numbered = enumerate(zip(outcomes, found, strict=True), step - len(outcomes) + 1)
        for number, ((skipped, mending, first), loss) in numbered:
            if skipped and mending and math.isfinite(loss):
                row = memory.setdefault("row", {})
                row["overflowed"] = row.get("overflowed", 0) + 1
            elif skipped:
                yield _note_skipped(memory, number, loss, self._named[first][0])
            elif (spike := _note_loss(memory, number, loss)) is not None:
                yield spike


class Skipped:
    """An update that was left out."""

    def __init__(self, step: int, loss: float, parameter: str, in_a_row: int) -> None:
        self.step, self.in_a_row = step, in_a_row
        if math.isfinite(loss):
            self.reason = f"the gradient of {parameter} is not finite (the loss is {loss:.4g})"
        else:
            self.reason = f"the loss is {loss} (the first gradient that is not finite: {parameter})"


class Spike:
    """A loss far above those before it.

    Attributes:
        step: the first step of the spike.
        loss: its loss.
        mean: of the losses before it.
        z: how many of their standard deviations the loss lies above their mean.
    """

    def __init__(self, step: int, loss: float, mean: float, z: float) -> None:
        self.step, self.loss, self.mean, self.z = step, loss, mean, z


def _note_skipped(memory: dict[str, Any], step: int, loss: float, parameter: str) -> Skipped:
    memory["in_a_row"] = memory.get("in_a_row", 0) + 1
    row = memory.setdefault("row", {})
    row["skipped"] = row.get("skipped", 0) + 1
    return Skipped(step, loss, parameter, memory["in_a_row"])


def _note_loss(memory: dict[str, Any], step: int, loss: float) -> Spike | None:
    """Remember a loss; return the spike that begins with it, if one does."""
    memory["in_a_row"] = 0
    recent = memory.setdefault("recent", [])
    mean, z = deviation(recent, loss)
    memory["recent"] = [*recent, loss][-WINDOW:]
    before = memory.get("in_spike", False)
    memory["in_spike"] = z > (OVER if before else SPIKE)
    if before or not memory["in_spike"]:
        return None
    row = memory.setdefault("row", {})
    if z > row.get("spike_z", 0.0):
        row |= {"spike_step": step, "spike_z": round(z, 2)}
    return Spike(step, loss, mean, z)


def deviation(recent: list[float], loss: float) -> tuple[float, float]:
    """Return the mean of the recent losses, and by how many of their standard deviations a loss lies above it."""
    if len(recent) < FEWEST:
        return 0.0, 0.0
    mean = statistics.fmean(recent)
    # Losses that hardly differ, of a model that has learnt its text by heart, make no spike of a trifle.
    spread = math.sqrt(statistics.fmean([(other - mean) ** 2 for other in recent]))
    spread = max(spread, 1e-3 * abs(mean), 1e-9)
    return mean, (loss - mean) / spread
