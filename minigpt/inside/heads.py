"""Attention maps in, what kind of heads they come from out: how widely each looks, and its name if it does one thing.

A pattern says for each position where a head of that kind looks. The score of a head is the share of its attention that
lies there, on average over the positions that have such a place.

Heads are named by their scores on a probe, not on the text at hand: random tokens, twice over (Olsson et al., 2022). No
token of it can be foretold by its meaning, each place belongs to one pattern alone, and what a head does there it does
by its kind. A name is given where more than half of what uniform attention would spend elsewhere goes to the pattern:
a bound of 0.53 for a probe of 64 tokens, 0.60 for the shortest, and never below one half, so the head does this more
than all else together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minigpt.inside.trace import passes
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer

PATTERNS = {
    "previous": "previous token",
    "first": "first token",
    "current": "current token",
    "same": "same token, earlier",
    "induction": "induction",
}
NAMED = 0.5  # of what uniform attention would spend elsewhere
LONGEST = 32  # tokens that a sequence of the probe repeats
SHORTEST = 4
PROBE_TOKENS = (
    256  # of all sequences: the shorter they are, the more, so that chance counts as little
)
FROM = 2  # the first row in which previous, first and current token are three


def places(ids: Tensor) -> dict[str, Tensor]:
    """Return where each pattern looks in ids (T,): for each (T, T), true in row t at what position t looks at.

    previous: the position before; first: position 0; current: itself; same: earlier occurrences of the token;
    induction: what came after those.
    """
    row, column = torch.arange(len(ids))[:, None], torch.arange(len(ids))
    same = (ids[:, None] == ids) & (column < row)
    found = {
        "previous": column == row - 1,
        "first": (column == 0).expand_as(same),
        "current": column == row,
        "same": same,
        "induction": same.roll(1, dims=1) & (column > 0) & (column < row),
    }
    return {name: where & (row >= FROM) for name, where in found.items()}


def share(weights: Tensor, where: Tensor) -> Tensor:
    """Return the share of attention (…, T, T) that lies where it is true, (…), over the rows with such a place."""
    rows = where.any(dim=1)
    return (weights * where).sum(dim=-1)[..., rows].mean(dim=-1)


def scores(weights: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """Return the share that heads with maps (…, T, T) spend on each pattern that has a place in ids (T,)."""
    return {name: share(weights, where) for name, where in places(ids).items() if where.any()}


def entropy(weights: Tensor) -> Tensor:
    """Return the bits of attention rows (…, T, T), on average over all but the first, which has no choice: (…).

    Two to the power of it is the number of positions that a head looks at, as if it looked at each alike.
    """
    rows = torch.special.entr(weights[..., 1:, :]).sum(dim=-1)
    return rows.mean(dim=-1) / torch.log(torch.tensor(2.0)) if rows.size(-1) else rows.sum(dim=-1)


def uniform(length: int) -> Tensor:
    """Return the map (T, T) of a head that looks at all positions alike."""
    return torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]


@dataclass(frozen=True)
class Probe:
    """What the heads of a model do with the probe.

    Attributes:
        scores: by pattern, (L, H).
        uniform: by pattern, that of uniform attention.
    """

    scores: dict[str, Tensor]
    uniform: dict[str, float]

    def names(self) -> list[list[list[str]]]:
        """Return the keys of PATTERNS that each head of each layer is named by, the strongest first."""
        keys = list(self.scores)
        table = torch.stack([self.scores[key] for key in keys], dim=-1)  # (L, H, patterns)
        chance = torch.tensor([self.uniform[key] for key in keys])
        beyond = (table - chance) / (1 - chance)
        return [
            [
                [keys[i] for i in head.argsort(descending=True).tolist() if head[i] > NAMED]
                for head in layer
            ]
            for layer in beyond
        ]


@torch.inference_mode()
def run_probe(model: GPT, tokenizer: Tokenizer) -> Probe | None:
    """Return what each head of a model does with random tokens, twice over; None: there is no room for them."""
    ids = probe_ids(model, tokenizer)
    if ids is None:
        return None
    # (B, L, H, T, T)
    maps = torch.stack([done.weights.cpu() for done in passes(model, ids)], dim=1)
    parts = [scores(one, of) for one, of in zip(maps, ids.cpu(), strict=True)]
    found = {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in PATTERNS}
    chance = scores(uniform(ids.size(1)), ids[0].cpu())
    return Probe(found, {name: score.item() for name, score in chance.items()})


def probe_ids(model: GPT, tokenizer: Tokenizer) -> Tensor | None:
    """Return sequences of random tokens, all different, each repeated: (B, T); None where there is no room for them."""
    known = [
        index
        for index, piece in enumerate(tokenizer.pieces)
        if piece and index not in tokenizer.specials.values()
    ]
    room = (model.config.block_size - len(tokenizer.prefix)) // 2
    length = min(LONGEST, room, len(known))
    if length < SHORTEST:
        return None
    rng = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(PROBE_TOKENS // (2 * length)):
        drawn = [known[i] for i in torch.randperm(len(known), generator=rng)[:length].tolist()]
        rows.append([*tokenizer.prefix, *drawn, *drawn])
    return torch.tensor(rows, device=model.head.weight.device)
