import torch
import torch.nn.functional as F

from minigpt import loss
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT

from .conftest import tiny


def step_and_batch():
    torch.manual_seed(0)
    step = TrainStep(GPT(tiny()))
    ids, targets = torch.randint(0, 29, (2, 3, 12))
    targets[0, :5] = -100
    return step, ids, targets


def test_the_loss_is_the_sum_over_counted_targets():
    step, ids, targets = step_and_batch()
    loss_sum, count = step(ids, targets)
    chances = step.model(ids).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(loss_sum, -(chances * (targets != -100)).sum())
    assert count == 31


def test_chunks_give_the_same_loss_and_gradients(monkeypatch):
    step, ids, targets = step_and_batch()
    whole, _ = step(ids, targets)
    whole.backward()
    expected = {name: p.grad.clone() for name, p in step.named_parameters()}
    step.zero_grad()
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 29 * 7)  # 36 rows in chunks of 7
    calls = []
    real = F.linear

    def linear(x, weight, bias=None):
        calls.extend([x.shape[0]] if weight.shape[0] == 29 else [])
        return real(x, weight, bias)

    monkeypatch.setattr(F, "linear", linear)
    parts, _ = step(ids, targets)
    parts.backward()
    assert calls == [7, 7, 7, 7, 7, 1]
    torch.testing.assert_close(parts, whole)
    for name, parameter in step.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_the_loss_of_each_counted_target_is_given_where_no_sum_is_wanted(monkeypatch):
    step, ids, targets = step_and_batch()
    with torch.no_grad():
        loss_sum, _ = step(ids, targets)
        for at_once in (loss.LOGITS_AT_ONCE, 29 * 7):
            monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
            losses, count = step(ids, targets, None, False)
            assert losses.shape == (31,)
            assert count == 31
            torch.testing.assert_close(losses.sum(), loss_sum)
        chances = step.model(ids).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])
        torch.testing.assert_close(losses, -chances[..., 0][targets != -100])


def test_chunks_are_taken_where_no_gradient_is_wanted_too(monkeypatch):
    step, ids, targets = step_and_batch()
    rows = []
    step.model.head.register_forward_hook(lambda head, given, out: rows.append(len(out)))
    with torch.no_grad():
        whole, _ = step(ids, targets)
        monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 29 * 7)
        parts, _ = step(ids, targets)
    assert rows == [36, 7, 7, 7, 7, 7, 1]
    torch.testing.assert_close(parts, whole)


def test_a_frozen_head_costs_no_gradient(monkeypatch):
    step, ids, targets = step_and_batch()
    step.model.head.weight = torch.nn.Parameter(step.model.head.weight.clone(), requires_grad=False)
    step(ids, targets)[0].backward()
    expected = {n: p.grad for n, p in step.named_parameters() if p.grad is not None}
    step.zero_grad()
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 29 * 7)
    step(ids, targets)[0].backward()
    assert step.model.head.weight.grad is None
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(step.named_parameters())[name].grad, gradient)
