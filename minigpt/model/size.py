"""A shape in, its size out: vocabulary rows, parameters, floating-point operations, bytes of the cache."""

import dataclasses

import torch

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.model.transformer import GPT
from minigpt.model.undrawn import Undrawn

PADDED_FROM = 4096  # below, padding would be a visible share of a small model for no gain in speed
MULTIPLE = 64  # of which matrix units like their sides to be


# ------------------------------------------------------------------------------------------------------ vocabulary


def padded_vocab_size(ids: int) -> int:
    """Return the vocabulary rows for a tokenizer with `ids` ids.

    >>> padded_vocab_size(66), padded_vocab_size(50257)
    (66, 50304)
    """
    return ids if ids < PADDED_FROM else -(-ids // MULTIPLE) * MULTIPLE


def with_vocabulary(config: ModelConfig, ids: int) -> ModelConfig:
    """Return the shape, every derived field written out, for a tokenizer with `ids` ids.

    Raises:
        UserError: `vocab_size` is given and too small, or the shape contradicts itself.
    """
    rows = config.vocab_size or padded_vocab_size(ids)
    if rows < ids:
        raise UserError(
            f"model.vocab_size is {rows:,} but the tokenizer has {ids:,} ids; leave it out, or take {ids:,}"
        )
    return dataclasses.replace(config, vocab_size=rows).resolve()


# ------------------------------------------------------------------------------------------------------ parameters


def block_parameters(config: ModelConfig) -> dict[str, int]:
    """Return the trained parameters of one block: its attention, its mlp and its norms."""
    c = config.resolve()
    biases = int(c.bias)
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    gates = 1 if c.attention_gate == "silu" else 0
    attention = (1 + gates) * (c.n_embd * queries + biases * queries)
    attention += 2 * (c.n_embd * keys + biases * keys) + queries * c.n_embd + biases * c.n_embd
    widenings = 2 if c.mlp == "swiglu" else 1
    mlp = widenings * (c.n_embd + biases) * c.mlp_hidden + (c.mlp_hidden + biases) * c.n_embd
    norms = 2 * _norm_parameters(c) + (2 * c.head_dim if c.qk_norm else 0)
    return {"attention": attention, "mlp": mlp, "norms": norms}


def outer_parameters(config: ModelConfig) -> dict[str, int]:
    """Return the trained parameters outside the blocks, by part; a tied head has none of its own."""
    c = config.resolve()
    table = c.vocab_size * c.n_embd
    return {
        "token_table": table,
        "position_table": c.block_size * c.n_embd if c.position == "learned" else 0,
        "head": 0 if c.tie_embeddings else table,
        "final_norm": _norm_parameters(c),
    }


def parameter_count(config: ModelConfig) -> int:
    """Return the number of trained parameters, a tied head counted once."""
    blocks = config.n_layer * sum(block_parameters(config).values())
    return sum(outer_parameters(config).values()) + blocks


def _norm_parameters(c: ModelConfig) -> int:
    return c.n_embd * (1 + (c.norm == "layernorm" and c.bias))


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every trained parameter by name, a tied head once, from a model that takes no memory."""
    # Arithmetic on the meta device imports torch's compiler, which takes more than a second. So nothing is drawn, and
    # rotary tables, which are no parameters, give way to learned positions.
    with torch.device("meta"), Undrawn():
        made = GPT(dataclasses.replace(config, position="learned"))
    shapes = {name: tuple(p.shape) for name, p in made.named_parameters()}
    if config.position == "rope":
        del shapes["position_embedding.weight"]
    return shapes


# ----------------------------------------------------------------------------------------- operations and the cache


def forward_flops_per_token(config: ModelConfig) -> int:
    """Return the floating-point operations of the matrix products of one token's forward pass in a full context.

    2 for each weight that is multiplied (the blocks' matrices and the head; tables are looked up), for a multiply-add
    counts as two; and 4·L·H·D·T for scores and values, as over the whole context: the causal mask does not halve it.
    This is the convention of Chowdhery et al. (2022), appendix B.
    """
    c = config.resolve()
    shapes = parameter_shapes(dataclasses.replace(c, n_layer=1))
    block = sum(
        shape[0] * shape[1]
        for name, shape in shapes.items()
        if name.startswith("blocks.") and len(shape) == 2
    )
    multiplied = c.n_layer * block + c.vocab_size * c.n_embd
    return 2 * multiplied + 4 * c.n_layer * c.n_head * c.head_dim * c.block_size


def training_flops_per_token(config: ModelConfig) -> int:
    """Return those of forward and backward: three times as many, 6·N + 12·L·H·D·T.

    Backward takes two products for each one forward; what recomputation repeats is not counted.
    """
    return 3 * forward_flops_per_token(config)


def cache_bytes_per_token(config: ModelConfig, bytes_per_number: int) -> int:
    """Return the bytes that keys and values of one position take: 2·L·K·D numbers."""
    c = config.resolve()
    return 2 * c.n_layer * c.n_kv_head * c.head_dim * bytes_per_number
