"""The rows of `metrics.jsonl` in, a verdict on the run in plain words out."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

FEWEST = 4  # evaluations that a verdict needs
# Shares of the lowest held-out loss:
FALLING = 0.005  # it fell by more over the last quarter of the run: still improving
RISEN = 0.01  # the last one lies further above the lowest
# The baselines that a model is held against in words; beating chance alone is no news.
NAMES = {"bigram": "bigram", "mlp": "MLP bigram", "trigram": "trigram"}


@dataclass(frozen=True)
class Verdict:
    """How a run stands at its end.

    Attributes:
        kind: what is the matter; `worse`: the loss has risen on both parts of the text.
        step: of the lowest held-out loss.
        sentence: what it means and what to do.
    """

    kind: Literal["too early", "improving", "converged", "overfitting", "worse"]
    step: int
    sentence: str


def verdict(rows: Iterable[Mapping[str, Any]]) -> Verdict:
    """Return how a run stands, by its held-out losses and those it was trained on.

    Args:
        rows: with `step` and, where they were measured, `val_loss` and `train_loss`; both in nats per token.
    """
    rows = list(rows)
    held_out, trained = _curve(rows, "val_loss"), _curve(rows, "train_loss")
    if len(held_out) < FEWEST:
        evaluations = "1 evaluation" if len(held_out) == 1 else f"{len(held_out)} evaluations"
        return Verdict(
            "too early",
            held_out[-1][0] if held_out else 0,
            f"verdict: too early to tell: {evaluations}, {FEWEST} are needed; "
            "take a smaller train.eval_every or train longer",
        )
    step, lowest = min(held_out, key=lambda point: point[1])
    last_step, last = held_out[-1]
    if last > lowest * (1 + RISEN):
        rise = f"the held-out loss has risen from {lowest:.3f} to {last:.3f}"
        if _has_fallen_since(trained, step):
            sentence = (
                f"verdict: overfitting since step {step}: {rise} while the loss in training fell; the best weights "
                "are kept. Use more text, model.dropout, a smaller model, or train.patience"
            )
            return Verdict("overfitting", step, sentence)
        sentence = (
            f"verdict: worse since step {step}: {rise}, and the loss in training has not fallen either; the best "
            "weights are kept. Take a smaller optim.lr or a longer optim.warmup_steps"
        )
        return Verdict("worse", step, sentence)
    before = ([held_out[0][1]] + [loss for at, loss in held_out if at <= 0.75 * last_step])[-1]
    gain = before - lowest
    if gain > FALLING * lowest:
        sentence = (
            f"verdict: still improving: the held-out loss fell by {gain:.3f} over the last quarter of the run; "
            "more steps would make it better"
        )
        return Verdict("improving", step, sentence)
    sentence = (
        f"verdict: converged: over the last quarter of the run the held-out loss fell by {max(0.0, gain):.3f} only; "
        "a larger model or another optim.lr may get further, more steps will not"
    )
    return Verdict("converged", step, sentence)


def _curve(rows: list[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    found = ((row.get("step"), row.get(key)) for row in rows)
    return [(s, x) for s, x in found if type(s) is int and type(x) is float and math.isfinite(x)]


def _has_fallen_since(trained: list[tuple[int, float]], step: int) -> bool:
    """Return whether the loss in training is lower in the last half since `step` than in the first half.

    Where there is one since then, it is held against the last one up to there.
    """
    since = [loss for at, loss in trained if at > step]
    if len(since) == 1:
        since = [loss for at, loss in trained if at <= step][-1:] + since
    half = len(since) // 2
    return half > 0 and sum(since[-half:]) < sum(since[:half])


def beside_baselines(bits: float, baselines: Mapping[str, float]) -> str:
    """Return what a model beats and what it loses to, "" where there is nothing to compare it with.

    >>> beside_baselines(2.0, {"uniform": 5.0, "bigram": 2.9, "mlp": 2.8, "trigram": 1.5})
    'beats the bigram by 0.90 bits per byte, the MLP bigram by 0.80, but loses to the trigram by 0.50'

    Args:
        bits: per byte, of the model.
        baselines: the same by name.
    """
    gains = {NAMES[name]: known - bits for name, known in baselines.items() if name in NAMES}
    beaten = [f"{name} by {gain:.2f}" for name, gain in gains.items() if gain > 0]
    others = [f"{name} by {abs(gain):.2f}" for name, gain in gains.items() if gain <= 0]
    if first := beaten or others:
        first[0] += " bits per byte"
    verbs = (("beats the ", beaten), ("loses to the ", others))
    return ", but ".join(verb + ", the ".join(names) for verb, names in verbs if names)
