"""A stack of matrices in, held as a whole or by rows; each worked on by one rank alone, its owner, and out as it came.

Whole matrices: everyone does its share of them and hears of the others'. Rows: they come together at the owners by one
exchange and go back by a second. Both at once: every copy of the model takes a share, and its shards do that by rows.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

Work = Callable[[Tensor], Tensor]


def share_out(
    stack: Tensor,
    rows: int,
    work: Work,
    shards: dist.ProcessGroup | None = None,
    copies: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return what `work` makes of the matrices, the part of it that belongs to this rank.

    Args:
        stack: (N, own rows, columns), what this rank holds of them; its dtype is that in which they travel.
        rows: of a whole matrix; `shards` hold them in order, cut as `torch.chunk` cuts.
        work: takes whole matrices (n, rows, columns) to as many of the same shape; it is not called for none.
        shards: those that hold the other rows, if there are any.
        copies: those that hold the same rows, if there are any.
    """
    if copies is None:
        return _by_rows(stack, rows, work, shards)
    ranks, place = dist.get_world_size(copies), dist.get_rank(copies)
    share = -(-len(stack) // ranks)
    mine = stack[place * share : (place + 1) * share]
    own = stack.new_zeros(share, *stack.shape[1:])  # what is left over at the end is cut off again
    if len(mine):
        own[: len(mine)] = _by_rows(mine, rows, work, shards)
    everything = own.new_empty(ranks * share, *own.shape[1:])
    if everything.numel():
        _all_gather(everything, own, group=copies)
    return everything[: len(stack)]


def _by_rows(stack: Tensor, rows: int, work: Work, shards: dist.ProcessGroup | None) -> Tensor:
    if shards is None:
        return work(stack)
    ranks, place = dist.get_world_size(shards), dist.get_rank(shards)
    columns = stack.shape[2]
    shares, heights = chunk_sizes(len(stack), ranks), chunk_sizes(rows, ranks)
    given = [n * heights[place] * columns for n in shares]
    taken = [shares[place] * height * columns for height in heights]

    received = stack.new_empty(sum(taken))
    dist.all_to_all_single(received, stack.flatten(), taken, given, group=shards)
    pieces = [
        piece.view(shares[place], height, columns)
        for piece, height in zip(received.split(taken), heights, strict=True)
    ]
    whole = torch.cat(pieces, dim=1)  # (own share, rows, columns)
    if len(whole):
        whole = work(whole)

    returned = torch.cat([piece.flatten() for piece in whole.split(heights, dim=1)])
    own = torch.empty_like(stack)
    dist.all_to_all_single(own.view(-1), returned, given, taken, group=shards)
    return own


def chunk_sizes(count: int, parts: int) -> list[int]:
    """Return how `torch.chunk` cuts, with the parts that it leaves out.

    >>> chunk_sizes(6, 4)
    [2, 2, 2, 0]
    """
    size = -(-count // parts)
    return [min(size, max(0, count - part * size)) for part in range(parts)]


def _all_gather(output: Tensor, own: Tensor, group: dist.ProcessGroup) -> None:
    # Its name since torch 2.13, where the one before warns.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, own, group=group)
