"""Tables of tokens in, tables of which only chosen rows learn out: for tokens that the model has not met before.

A row is what it was plus a difference that starts at zero, so that a fresh one changes nothing and weight decay draws
towards the model that was there.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.errors import UserError
from minigpt.model.transformer import GPT


class _MovedRows(nn.Module):
    """A table of which some rows are moved.

    Attributes:
        base: what it stands for, frozen.
        rows: the ids of the rows, (n,).
        delta: by how much each is moved, (n, C); a tied head shares that of the embedding.
    """

    rows: Tensor

    def __init__(self, base: nn.Module, rows: Tensor, delta: nn.Parameter) -> None:
        super().__init__()
        self.base, self.delta = base, delta
        self.register_buffer("rows", rows, persistent=False)

    @property
    def table(self) -> Tensor:
        """The table as it was, (V, C)."""
        table = self.base.weight
        assert isinstance(table, Tensor)
        return table

    @property
    def weight(self) -> Tensor:
        """The table as it is with the moved rows, (V, C)."""
        return self.table.index_add(0, self.rows, self.delta.to(self.table.dtype))

    def moved(self, delta: Tensor) -> Tensor:
        """Return the rows as they are when moved by `delta`, (n, C) fp32, on its device."""
        return self.table.detach()[self.rows].to(delta.device, torch.float32) + delta

    def difference(self, rows: Tensor) -> Tensor:
        """Return by how much the rows have to be moved to be `rows`, (n, C) fp32."""
        before = self.table.detach()[self.rows].float()
        return rows.to(before.device) - before


class RowsEmbedding(_MovedRows):
    """(B, T) -> (B, T, C): an embedding of which some rows are moved."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of the ids."""
        x = self.base(ids)
        chosen = torch.eq(ids.unsqueeze(-1), self.rows)  # (B, T, n)
        return x + chosen.to(x.dtype) @ self.delta.to(x.dtype)


class RowsHead(_MovedRows):
    """(…, C) -> (…, V): a head of which some rows are moved."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.base(x).index_add(-1, self.rows, F.linear(x, self.delta.to(x.dtype)))


def move_rows(model: GPT, rows: Sequence[int]) -> None:
    """Put tables into a model of which these rows alone learn; a tied head moves with the embedding.

    Raises:
        UserError: ids that are there twice, or for which the model has no row.
    """
    embedding, head = model.embedding, model.head
    places = _checked(rows, model.config.vocab_size).to(embedding.weight.device)
    delta = _zeros(len(rows), embedding.weight)
    model.add_module("embedding", RowsEmbedding(embedding, places, delta))
    if not model.config.tie_embeddings:
        delta = _zeros(len(rows), head.weight)
    model.add_module("head", RowsHead(head, places, delta))


@torch.no_grad()
def add_rows(model: GPT, count: int) -> None:
    """Give a model rows for so many more ids, before anything else is done to it; a tied head grows with the embedding.

    Each begins as the mean of the others, so that it takes little from them (Hewitt, 2021, "Initializing New Word
    Embeddings").
    """
    embedding, head = model.embedding, model.head
    embedding.weight = _longer(embedding.weight, count)
    head.weight = embedding.weight if model.config.tie_embeddings else _longer(head.weight, count)
    vocabulary = model.config.vocab_size + count
    embedding.num_embeddings = head.out_features = vocabulary
    model.config = dataclasses.replace(model.config, vocab_size=vocabulary)


@torch.no_grad()
def settle_rows(model: GPT) -> None:
    """Add what the rows were moved by to the tables, and put those back where they were; without such rows, nothing."""
    for name in ("embedding", "head"):
        table = model.get_submodule(name)
        if isinstance(table, _MovedRows):
            if name == "embedding" or not model.config.tie_embeddings:
                table.table.copy_(table.weight)
            model.add_module(name, table.base)


def _longer(table: Tensor, count: int) -> nn.Parameter:
    mean = table.mean(dim=0, keepdim=True).expand(count, -1)
    return nn.Parameter(torch.cat([table, mean]), requires_grad=table.requires_grad)


def _zeros(rows: int, like: Tensor) -> nn.Parameter:
    return nn.Parameter(like.new_zeros(rows, like.size(1), dtype=torch.float32))


def _checked(rows: Sequence[int], vocabulary: int) -> Tensor:
    if len(set(rows)) < len(rows):
        raise UserError("a row to train is named twice; wanted each id once")
    if wrong := [row for row in rows if not 0 <= row < vocabulary]:
        raise UserError(
            f"the row {wrong[0]} is to be trained, but the model has rows for {vocabulary:,} ids"
        )
    return torch.tensor(list(rows), dtype=torch.long)
