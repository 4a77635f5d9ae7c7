"""Attention with heads: parameters, one head, several, and causality."""

from minigpt.learn.rules import Mistake, check, drawn, filled, names_and_shapes


@check()
def parameters(module):
    """the parameters and their shapes"""
    return names_and_shapes(module.Attention(8, 2))


@check()
def one_position(module):
    """a single position gets its own value, through output"""
    return filled(module.Attention(4, 1))(drawn(1, 1, 4))


@check()
def one_head(module):
    """one head"""
    return filled(module.Attention(4, 1), 1.0)(drawn(1, 3, 4))


@check()
def several_heads(module):
    """two texts, five positions, four heads"""
    return filled(module.Attention(12, 4), 1.0)(drawn(2, 5, 12))


@check()
def causal(module):
    """a later token changes nothing before it"""
    layer, x = filled(module.Attention(8, 2)), drawn(1, 6, 8)
    y = x.clone()
    y[0, 3] += 5.0
    changed = (layer(x) - layer(y)).abs().amax(-1)[0] > 1e-5
    return {f"position {t}": "changes" if changed[t] else "stays" for t in range(6)}


@check()
def large_scores(module):
    """scores of thousands, seen and hidden"""
    return filled(module.Attention(4, 2), 1.0)(200 * drawn(1, 4, 4, seed=1))


MISTAKES = [
    Mistake(
        "keys not transposed",
        """The keys are not transposed. (T, D) times (T, D) does not go; (T, D) times (D, T) gives a score of each query with
        each key: key.transpose(-2, -1).""",
        {"query @ key.transpose(-2, -1)": "query @ key"},
    ),
    Mistake(
        "cut without transposing",
        """The heads are cut with view(B, H, T, D), which has the right shape and the wrong numbers: it gives the first head the
        first positions and the last head the last ones. Cut the channels, view(B, T, H, D), and then transpose.""",
        {
            ".view(B, T, self.n_head, C // self.n_head).transpose(1, 2)": ".view(B, self.n_head, T, C // self.n_head)"
        },
    ),
    Mistake(
        "put together without transposing",
        """The heads are put together in the wrong order: reshape(B, T, C) of (B, H, T, D) mixes positions. Transpose back to
        (B, T, H, D) first.""",
        {"gathered.transpose(1, 2).reshape(B, T, C)": "gathered.reshape(B, T, C)"},
    ),
    Mistake(
        "view after transpose",
        """After a transpose the numbers no longer lie in the order of the shape, and view refuses to copy. Use reshape, or
        contiguous() before view.""",
        {".reshape(B, T, C)": ".view(B, T, C)"},
    ),
    Mistake(
        "interleaved",
        """Head h takes each H-th channel. It takes D neighbours: view(B, T, H, D), the heads before their channels.""",
        {
            ".view(B, T, self.n_head, C // self.n_head).transpose(1, 2)": ".view(B, T, C // self.n_head, self.n_head).permute(0, 3, 1, 2)"
        },
    ),
    Mistake(
        "scale by C",
        """The scores are divided by √C. A dot product in a head has D = C / H terms: divide by √D.""",
        {"query.size(-1) ** 0.5": "C ** 0.5"},
    ),
    Mistake("no scale", """The scores are not divided by √D.""", {" / query.size(-1) ** 0.5": ""}),
    Mistake(
        "not causal",
        """Positions see what comes after them. Hide it before the softmax.""",
        {'.masked_fill(hidden, float("-inf"))': ""},
    ),
    Mistake(
        "one ahead",
        """Each position sees the one after it, just what it is to foretell: the mask is off by one.""",
        {".tril()": ".tril(1)"},
    ),
    Mistake(
        "not itself",
        """No position sees itself, and the first sees nothing, which gives NaN: the mask is off by one.""",
        {".tril()": ".tril(-1)"},
    ),
    Mistake(
        "the other side",
        """Each position sees itself and what comes after it: the mask is the wrong triangle.""",
        {".tril()": ".triu()"},
        {"hidden = ~torch": "hidden = torch"},
    ),
    Mistake(
        "softmax dimension",
        """The softmax is taken over the wrong dimension; the weights of one query over the keys add up to 1: dim=-1.""",
        {"softmax(dim=-1)": "softmax(dim=-2)"},
        {"softmax(dim=-1)": "softmax(dim=1)"},
    ),
    Mistake(
        "hidden by zero",
        """A hidden score is 0, and exp(0) = 1 is a weight like any other. Only minus infinity gets none.""",
        {'float("-inf")': "0.0"},
    ),
    Mistake(
        "hidden by a small number",
        """A hidden score is set to -100, or some such number, and a score may well be less than that. Only minus infinity is
        below all of them.""",
        {'float("-inf")': "-100.0"},
        {'float("-inf")': "-1000.0"},
    ),
    Mistake(
        "hidden too late",
        """Weights are set to 0 after the softmax, so what is left no longer adds up to 1. Hide the scores before it.""",
        {
            'scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)': "scores.softmax(dim=-1) * ~hidden"
        },
    ),
    Mistake(
        "scaled twice",
        """The scores are divided by √D twice; F.scaled_dot_product_attention does it by itself.""",
        {"query.size(-1) ** 0.5": "query.size(-1)"},
    ),
    Mistake(
        "no output",
        """The last layer is missing: `output` mixes what the heads have found.""",
        {
            "self.output(gathered.transpose(1, 2).reshape(B, T, C))": "gathered.transpose(1, 2).reshape(B, T, C)"
        },
    ),
    Mistake(
        "biases",
        """The layers have biases; these are asked for without: bias=False.""",
        {
            "self.query = nn.Linear(n_embd, n_embd, bias=False)": "self.query = nn.Linear(n_embd, n_embd)",
            "self.key = nn.Linear(n_embd, n_embd, bias=False)": "self.key = nn.Linear(n_embd, n_embd)",
            "self.value = nn.Linear(n_embd, n_embd, bias=False)": "self.value = nn.Linear(n_embd, n_embd)",
            "self.output = nn.Linear(n_embd, n_embd, bias=False)": "self.output = nn.Linear(n_embd, n_embd)",
        },
    ),
    Mistake(
        "keys and queries exchanged",
        """Queries and keys are exchanged: the scores are the transpose of what they should be.""",
        {
            "for layer in (self.query, self.key, self.value)": "for layer in (self.key, self.query, self.value)"
        },
    ),
]
