"""Attention maps in, what kind of heads they come from out: how widely each looks, and its name if it does one thing.

A pattern says for each position where a head of that kind looks. The score of a head is the share of its attention that
lies there, on average over the positions that have such a place.

Heads are named by their scores on a probe, not on the text at hand: random tokens, twice over (Olsson et al., 2022). No
token of it can be foretold by its meaning, each place belongs to one pattern alone, and what a head does there it does
by its kind. A name is given where a head spends more than half of its attention on the pattern. Uniform attention, and
that of random weights, spends about a tenth: one place of each row, in rows of up to 64.
"""

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
NAMED = 0.5
PROBES = 4
LONGEST = 32  # tokens that a probe repeats
SHORTEST = 4  # of fewer, even uniform attention spends a quarter on one place
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


@torch.inference_mode()
def probe_scores(model: GPT, tokenizer: Tokenizer) -> dict[str, Tensor] | None:
    """Return the share that each head spends on each pattern on the probe, (L, H); None: no room for a probe."""
    ids = probe(model, tokenizer)
    if ids is None:
        return None
    # (B, L, H, T, T)
    maps = torch.stack([done.weights.cpu() for done in passes(model, ids)], dim=1)
    parts = [scores(one, of) for one, of in zip(maps, ids.cpu(), strict=True)]
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in PATTERNS}


def probe(model: GPT, tokenizer: Tokenizer) -> Tensor | None:
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
    for _ in range(PROBES):
        drawn = [known[i] for i in torch.randperm(len(known), generator=rng)[:length].tolist()]
        rows.append([*tokenizer.prefix, *drawn, *drawn])
    return torch.tensor(rows, device=model.head.weight.device)


def names(found: dict[str, Tensor]) -> list[list[list[str]]]:
    """Return the keys of PATTERNS that each head of scores (L, H) is named by, the strongest first."""
    ordered = list(found)
    table = torch.stack([found[name] for name in ordered], dim=-1)  # (L, H, patterns)
    return [
        [
            [ordered[i] for i in head.argsort(descending=True).tolist() if head[i] > NAMED]
            for head in layer
        ]
        for layer in table
    ]
