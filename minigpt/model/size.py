"""A shape in, its size out: parameters and vocabulary rows."""

from minigpt.config import ModelConfig

PADDED_FROM = 4096  # below, padding would be a visible share of a small model for no gain in speed
MULTIPLE = 64  # of which matrix units like their sides to be


def padded_vocab_size(ids: int) -> int:
    """Return the vocabulary rows for a tokenizer with `ids` ids.

    >>> padded_vocab_size(66), padded_vocab_size(50257)
    (66, 50304)
    """
    return ids if ids < PADDED_FROM else -(-ids // MULTIPLE) * MULTIPLE


def parameter_count(config: ModelConfig) -> int:
    """Return the number of trained parameters, a tied head counted once."""
    c = config.resolve()
    biases = int(c.bias)
    norm = c.n_embd * (1 + (c.norm == "layernorm" and c.bias))
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    gates = 1 if c.attention_gate == "silu" else 0
    attention = (1 + gates) * (c.n_embd * queries + biases * queries)
    attention += 2 * (c.n_embd * keys + biases * keys) + queries * c.n_embd + biases * c.n_embd
    attention += 2 * c.head_dim if c.qk_norm else 0
    widenings = 2 if c.mlp == "swiglu" else 1
    mlp = widenings * (c.n_embd + biases) * c.mlp_hidden + (c.mlp_hidden + biases) * c.n_embd
    tables = c.vocab_size * c.n_embd * (1 if c.tie_embeddings else 2)
    tables += c.block_size * c.n_embd if c.position == "learned" else 0
    return tables + c.n_layer * (2 * norm + attention + mlp) + norm
