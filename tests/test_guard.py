import json
import math

import pytest
import torch

from minigpt.guard import FEWEST, WINDOW, Guard, Skipped, Spike, clip_gradient, deviation
from minigpt.loss_scale import LossScale

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.1, weight_decay=0.1),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, 0.1, fused=True),
    "muon": lambda parameters: torch.optim.Muon(parameters, 0.1),
}


def weights():
    random = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 4, generator=random)) for _ in range(3)]


def give_gradients(parameters, seed, bad=None):
    random = torch.Generator().manual_seed(seed)
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.randn(3, 4, generator=random)
        if number == bad:
            parameter.grad[1, 2] = math.nan


def watched(optimizer, *, on_device):
    parameters = optimizer.param_groups[0]["params"]
    return Guard(optimizer, zip("abc", parameters, strict=True), on_device=on_device)


def test_clipping_is_that_of_torch_bit_for_bit():
    for limit in (0.5, 1e9, 0.0):
        ours, theirs = weights(), weights()
        give_gradients(ours, 1)
        give_gradients(theirs, 1)
        norm = clip_gradient(ours, limit, torch.tensor(3.0))
        wanted = torch.nn.utils.clip_grad_norm_(theirs, limit or math.inf)
        assert torch.equal(norm, wanted)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_clipping_leaves_it_to_be_seen_where_a_gradient_is_not_finite(value):
    parameters = weights()
    give_gradients(parameters, 1)
    parameters[1].grad[0, 0] = value
    assert not clip_gradient(parameters, 1.0, torch.tensor(3.0)).isfinite()
    assert [bool(p.grad.isfinite().all()) for p in parameters] == [True, False, True]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_no_gradient_sound(value):
    parameters = weights()
    give_gradients(parameters, 1)
    clip_gradient(parameters, 1.0, torch.tensor(3.0) + value)
    assert all(p.grad.isnan().all() for p in parameters)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_update_changes_neither_weights_nor_state(name, on_device):
    """Of any optimiser: two sound updates and a bad one between them are the two sound ones."""
    results = []
    for bad in (True, False):
        parameters = weights()
        optimizer = OPTIMIZERS[name](parameters)
        guard = watched(optimizer, on_device=on_device)
        for number in range(3):
            if number != 1 or bad:
                give_gradients(parameters, number, bad=2 if number == 1 else None)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        state = [optimizer.state[parameter] for parameter in parameters]
        results.append((parameters, state, guard))
    (ours, our_state, guard), (theirs, their_state, _) = results
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(our_state, their_state, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)
    losses = [torch.tensor(2.0)] * 3
    seen = list(guard.look({}, 12, losses))
    assert [(one.step, one.in_a_row) for one in seen] == [(11, 1)]
    assert seen[0].reason == "the gradient of c is not finite (the loss is 2)"


def test_a_first_update_that_is_skipped_leaves_a_fresh_optimiser():
    for on_device in (False, True):
        parameters, unguarded = weights(), weights()
        optimizer, plain = (
            OPTIMIZERS["fused adamw"](parameters),
            OPTIMIZERS["fused adamw"](unguarded),
        )
        watched(optimizer, on_device=on_device)
        give_gradients(parameters, 0, bad=0)
        optimizer.step()
        for number in (1, 2):
            for some, one in ((parameters, optimizer), (unguarded, plain)):
                give_gradients(some, number)
                one.step()
        assert all(torch.equal(p, q) for p, q in zip(parameters, unguarded, strict=True))


@pytest.mark.parametrize("on_device", [False, True])
def test_fp16_may_overflow_until_the_loss_scale_cannot_become_smaller(on_device):
    step = torch.nn.Linear(4, 3, bias=False)
    scale = LossScale(step)
    scale.factor.fill_(2.0)
    optimizer, memory = torch.optim.AdamW(step.parameters(), fused=True), {}
    guard = Guard(optimizer, step.named_parameters(), on_device=on_device, loss_scale=scale)
    before = step.weight.clone()
    for _ in range(3):
        step.weight.grad = torch.full_like(step.weight, math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    found = list(guard.look(memory, 3, [torch.tensor(2.0)] * 3))
    assert torch.equal(step.weight, before)
    assert [(one.step, one.in_a_row) for one in found] == [(2, 1), (3, 2)]
    assert memory["row"] == {"overflowed": 1, "skipped": 2}


def test_a_loss_that_is_not_finite_is_no_overflow():
    step = torch.nn.Linear(4, 3, bias=False)
    optimizer = torch.optim.SGD(step.parameters())
    guard = Guard(optimizer, step.named_parameters(), on_device=False, loss_scale=LossScale(step))
    step.weight.grad = torch.full_like(step.weight, math.nan)
    optimizer.step()
    assert [one.in_a_row for one in guard.look({}, 1, [torch.tensor(math.nan)])] == [1]


def test_nothing_waits_for_the_device_only_where_the_optimiser_takes_part():
    for name, waits in (("fused adamw", False), ("sgd", True)):
        assert watched(OPTIMIZERS[name](weights()), on_device=True).waits == waits
        assert watched(OPTIMIZERS[name](weights()), on_device=False).waits


def test_the_count_in_a_row_is_the_same_however_often_one_looks():
    bad, counts = (1, 2, 4, 5, 6), []
    for every in (1, 3, 8):
        parameters, memory, found = weights(), {}, []
        optimizer = OPTIMIZERS["fused adamw"](parameters)
        guard = watched(optimizer, on_device=True)
        losses = []
        for number in range(8):
            give_gradients(parameters, number, bad=1 if number in bad else None)
            optimizer.step()
            losses.append(torch.tensor(math.nan if number == 5 else 1.0))
            if (number + 1) % every == 0 or number == 7:
                memory = json.loads(json.dumps(memory))  # as a checkpoint has it
                found += guard.look(memory, number + 1, losses)
        counts.append([(one.step, one.in_a_row, one.reason) for one in found])
        assert memory["row"] == {"skipped": 5}
        assert memory["in_a_row"] == 0
    assert [one[:2] for one in counts[0]] == [(2, 1), (3, 2), (5, 1), (6, 2), (7, 3)]
    assert counts[0][3][2] == "the loss is nan (the first gradient that is not finite: b)"
    assert counts[1] == counts[2] == counts[0]


def watch(losses, memory=None):
    """Return what the guard sees in a run of these losses, looked at now and then."""
    parameters, memory, found = weights(), {} if memory is None else memory, []
    optimizer = OPTIMIZERS["sgd"](parameters)
    guard = watched(optimizer, on_device=False)
    for number, _ in enumerate(losses, 1):
        give_gradients(parameters, 0)
        optimizer.step()
        if number % 7 == 0 or number == len(losses):
            found += guard.look(memory, number, [torch.tensor(x) for x in losses[:number]])
    return found


def noisy(count, level=3.0):
    random = torch.Generator().manual_seed(1)
    return (level + 0.1 * torch.randn(count, generator=random)).tolist()


def test_a_spike_is_seen_once():
    losses, memory = noisy(200), {}
    losses[150:154] = [9.0, 10.0, 9.5, 9.0]
    (spike,) = watch(losses, memory)
    assert isinstance(spike, Spike)
    assert (spike.step, spike.loss) == (151, 9.0)
    assert spike.z > 40
    assert memory["row"] == {"spike_step": 151, "spike_z": round(spike.z, 2)}
    assert memory["in_spike"] is False
    assert len(memory["recent"]) == WINDOW


def test_two_spikes_are_two_and_a_new_level_is_one():
    losses = noisy(400)
    losses[100], losses[300] = 9.0, 9.0
    assert [spike.step for spike in watch(losses)] == [101, 301]
    assert [spike.step for spike in watch(noisy(100) + noisy(200, level=6.0))] == [101]


def test_noise_and_a_falling_loss_are_no_spikes():
    assert watch(noisy(300)) == []
    assert watch([5.0 / (1 + 0.1 * n) for n in range(200)]) == []
    assert watch([1e-4] * 100 + [1.0001e-4] * 3) == []


def test_a_loss_is_compared_once_there_are_enough():
    recent = noisy(FEWEST)
    assert deviation(recent[:-1], 100.0) == (0.0, 0.0)
    mean, z = deviation(recent, 4.0)
    spread = torch.tensor(recent, dtype=torch.float64).std(correction=0).item()
    assert abs(z - (4.0 - mean) / spread) < 1e-9


def test_skipped_updates_are_left_out_of_the_comparison():
    parameters, memory = weights(), {"recent": [1.0]}
    optimizer = OPTIMIZERS["sgd"](parameters)
    guard = watched(optimizer, on_device=False)
    give_gradients(parameters, 0, bad=0)
    optimizer.step()
    (seen,) = guard.look(memory, 5, [torch.tensor(math.inf)])
    assert isinstance(seen, Skipped)
    assert memory["recent"] == [1.0]
    assert list(guard.look(memory, 5, [])) == []
