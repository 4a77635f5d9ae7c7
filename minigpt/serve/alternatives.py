"""The tokens of a text in, out for one of them: what else was likely there, and what each setting had cut away.

The steps are those of `minigpt.inference.picking`, computed by its own functions, one after the other.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from minigpt.config import SampleConfig
from minigpt.inference.filters import keep_min_p, log_probabilities
from minigpt.inference.picking import Picker
from minigpt.model.transformer import GPT
from minigpt.sampling import keep_top_k, keep_top_p
from minigpt.tokenizer import Tokenizer

MOST_SHOWN = 10  # alternatives, the likeliest


def alternatives(
    model: GPT,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    begin: int,
    position: int,
    settings: SampleConfig,
    bias: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """Return what could have stood at a place of a text, as JSON.

    Args:
        model: that wrote the text, as `GPT`.
        tokenizer: of the model.
        ids: the prompt and what was drawn.
        begin: ids of the prompt, at least one.
        position: of a drawn token.
        settings: that it was drawn with.
        bias: nats for single tokens that it was drawn with.

    Returns:
        `token`: its id; `candidates`: the likeliest by the model and the token itself, each with `id`, `text`, `model`
        (its probability before all), `drawn` (that with which it was drawn, 0 where it was cut away) and `cut` (by
        which setting, or null); `steps`: for each setting that did something, its name, how many tokens it cut and what
        share of the probability they had.
    """
    prefix = tokenizer.prefix
    keep = len(prefix) if list(ids[: len(prefix)]) == prefix else 0
    seen = seen_ids(ids, begin, position, model.config.block_size, keep)
    with torch.inference_mode():
        last = model.hidden(torch.tensor([seen], device=model.head.weight.device))[:, -1]
        logits = model.head(last)[0].float().cpu().numpy()[: tokenizer.vocab_size]  # (V,)
    cuts = Cuts(logits, ids[:position], begin, settings, bias)
    by_model = np.exp(log_probabilities(logits))
    token = ids[position]
    shown = np.argsort(-by_model, kind="stable")[:MOST_SHOWN].tolist()
    return {
        "token": token,
        "candidates": [
            {
                "id": one,
                "text": tokenizer.decode([one]),
                "model": float(by_model[one]),
                "drawn": float(cuts.drawn[one]),
                "cut": cuts.by_whom.get(one),
            }
            for one in (shown if token in shown else [*shown, token])
        ],
        "steps": cuts.steps,
    }


def seen_ids(ids: Sequence[int], begin: int, position: int, size: int, keep: int = 0) -> list[int]:
    """Return what of a text the model saw when it drew the token at a position, as `Engine` has it.

    >>> [seen_ids(range(9), 2, position, size=4) for position in (4, 5, 6)]
    [[0, 1, 2, 3], [3, 4], [3, 4, 5]]

    Args:
        ids: the prompt and what was drawn.
        begin: ids of the prompt.
        position: of a drawn token.
        size: the context.
        keep: so many ids at the beginning are always seen.
    """
    start = max(keep, begin - (size - keep))
    while (room := size - keep) < position - start:
        # The context was full: of what was there then, the younger half was read again.
        start += room + 1 - max(1, size // 2 - keep)
    return [*ids[:keep], *ids[start:position]]


class Cuts:
    """What the settings of a request leave of the logits at one place.

    Attributes:
        drawn: the probability of each token when it was drawn, (V,).
        by_whom: {id: the setting that made it impossible}.
        steps: for each setting that did something, what it did.
    """

    def __init__(
        self,
        logits: np.ndarray,
        text: Sequence[int],
        begin: int,
        settings: SampleConfig,
        bias: Mapping[int, float] | None = None,
    ) -> None:
        self.by_whom: dict[int, str] = {}
        self.steps: list[dict[str, Any]] = []
        penalties = Picker(
            dataclasses.replace(settings, min_p=0.0), known=len(logits), bias=bias or {}
        )
        left = logits
        for apply in penalties.filters:
            left = apply(left, text, begin)
        temperature = penalties.temperature
        self._weights = np.exp(log_probabilities(logits))
        if not np.array_equal(left, logits):
            self._keep("penalties", np.flatnonzero(left > -np.inf))
            self._weights = np.exp(log_probabilities(left))
        if not temperature:
            self._keep("greedy", np.array([left.argmax()]))
        else:
            self._narrow(left, temperature, settings)
        self.drawn = self._weights / self._weights.sum()

    def _narrow(self, left: np.ndarray, temperature: float, settings: SampleConfig) -> None:
        """Apply temperature, min-p, top-k and top-p, in the order in which a token is drawn."""
        before = self._weights
        left = left.astype(np.float64)
        # At a temperature that is nearly 0 all but the likeliest run over to minus infinity; that one stays at 0.
        with np.errstate(over="ignore"):
            self._weights = np.exp(log_probabilities((left - left.max()) / temperature))
        likeliest = int(left.argmax())
        if temperature != 1:
            chances = {"before": float(before[likeliest]), "after": float(self._weights[likeliest])}
            self.steps.append({"name": "temperature", "value": temperature, **chances})
        if settings.min_p:
            kept = keep_min_p(left, settings.min_p, temperature)
            self._keep("min_p", np.flatnonzero(kept > -np.inf), settings.min_p)
        if 0 < settings.top_k < len(left):
            ranked = np.where(self._weights > 0, left, -np.inf)
            self._keep("top_k", keep_top_k(ranked, settings.top_k), settings.top_k)
        if settings.top_p < 1:
            self._keep("top_p", keep_top_p(self._weights, settings.top_p), settings.top_p)

    def _keep(self, name: str, ids: np.ndarray, value: float | None = None) -> None:
        """Leave only some of the tokens that are possible, and note what is cut."""
        gone = self._weights > 0
        gone[ids] = False
        cut = np.flatnonzero(gone)
        share = float(self._weights[cut].sum() / self._weights.sum())
        self.by_whom |= dict.fromkeys(cut.tolist(), name)
        self.steps.append({"name": name, "value": value, "cut": len(cut), "share": share})
        self._weights = np.where(gone, 0.0, self._weights)
