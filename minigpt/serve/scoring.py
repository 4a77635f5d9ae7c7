"""A prompt in, what the model thinks of each of its tokens out: for an echo that comes with log-probabilities."""

from collections.abc import Sequence

import torch

from minigpt.inference.picking import Picked, thought_of
from minigpt.model.transformer import GPT

ROWS = 256  # positions whose logits lie in memory at a time


def score(model: GPT, ids: Sequence[int], known: int, top: int) -> list[Picked]:
    """Return each token of a text but the first, with its log-probability after those before it.

    Args:
        model: in eval mode.
        ids: at most as many as the context holds.
        known: only ids below it are tokens; logits beyond are padding.
        top: how many of the likeliest tokens are named for each place.
    """
    found: list[Picked] = []
    with torch.inference_mode():
        seen = torch.tensor([ids], device=model.head.weight.device)
        for part in model.hidden(seen)[0, :-1].split(ROWS):
            logits = model.head(part).float().cpu().numpy()[:, :known]  # (ROWS, V)
            following = ids[len(found) + 1 :]
            found += [thought_of(row, token, top) for row, token in zip(logits, following)]  # noqa: B905
    return found
