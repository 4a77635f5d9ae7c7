"""Models of other programs, written out here from their papers, against what is read from their state dicts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minigpt.errors import UserError
from minigpt.interop.layouts import read_layout
from minigpt.model.families import fill
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny

IDS = torch.randint(0, 65, (2, 16), generator=torch.Generator().manual_seed(0))


class Norm(nn.Module):
    """LayerNorm with or without a bias."""

    def __init__(self, channels, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


def looked_back(query, key, value, heads):
    """Return causal attention over heads, (B, T, C)."""
    (batch, length, channels) = query.shape
    q, k, v = (x.view(batch, length, heads, -1).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-2, -1) / math.sqrt(channels // heads)
    later = torch.ones(length, length).triu(1).bool()
    mixed = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
    return mixed.transpose(1, 2).reshape(batch, length, channels)


class FusedAttention(nn.Module):
    def __init__(self, channels, heads, bias, mask=0):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(channels, 3 * channels, bias=bias)
        self.c_proj = nn.Linear(channels, channels, bias=bias)
        if mask:
            self.register_buffer("bias", torch.tril(torch.ones(mask, mask))[None, None])

    def forward(self, x):
        return self.c_proj(looked_back(*self.c_attn(x).split(x.size(-1), -1), self.heads))


class FusedBlock(nn.Module):
    def __init__(self, channels, heads, bias, mask, activation):
        super().__init__()
        self.ln_1, self.ln_2 = Norm(channels, bias), Norm(channels, bias)
        self.attn = FusedAttention(channels, heads, bias, mask)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(channels, 4 * channels, bias=bias),
                "c_proj": nn.Linear(4 * channels, channels, bias=bias),
            }
        )
        self.activation = activation

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class Fused(nn.Module):
    """A model under the names of nanoGPT, and of minGPT since 2022 (which has masks, biases and an untied head)."""

    def __init__(
        self, *, layers=2, heads=1, channels=64, bias=True, mask=0, tied=True, activation=F.gelu
    ):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(65, channels),
                "wpe": nn.Embedding(16, channels),
                "h": nn.ModuleList(
                    FusedBlock(channels, heads, bias, mask, activation) for _ in range(layers)
                ),
                "ln_f": Norm(channels, bias),
            }
        )
        self.lm_head = nn.Linear(channels, 65, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight
        shake(self)

    def forward(self, ids):
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.size(1)]
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


class SplitBlock(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = nn.ModuleDict(
            {name: nn.Linear(channels, channels) for name in ("key", "query", "value", "proj")}
        )
        self.attn.register_buffer("mask", torch.tril(torch.ones(16, 16))[None, None])
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.GELU("tanh"),
            nn.Linear(4 * channels, channels),
            nn.Dropout(0.0),
        )
        self.heads = heads

    def forward(self, x):
        seen = self.ln1(x)
        parts = (self.attn[name](seen) for name in ("query", "key", "value"))
        x = x + self.attn["proj"](looked_back(*parts, self.heads))
        return x + self.mlp(self.ln2(x))


class Split(nn.Module):
    """A model under the names that minGPT had in 2020."""

    def __init__(self, *, layers=2, heads=4, channels=128):
        super().__init__()
        self.tok_emb = nn.Embedding(65, channels)
        self.pos_emb = nn.Parameter(torch.zeros(1, 16, channels))
        self.blocks = nn.Sequential(*(SplitBlock(channels, heads) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 65, bias=False)
        shake(self)

    def forward(self, ids):
        return self.head(self.ln_f(self.blocks(self.tok_emb(ids) + self.pos_emb[:, : ids.size(1)])))


def shake(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)


def tanh_gelu(x):
    return F.gelu(x, approximate="tanh")


def ours(found) -> GPT:
    return fill(GPT(found.config), found.tensors, "it").eval()


FOREIGN = {
    "nanoGPT": (Fused(bias=False), {}, "n_head = 1, mlp = gelu_exact"),
    "nanoGPT with biases": (Fused(bias=True), {}, "n_head = 1, mlp = gelu_exact"),
    "minGPT": (Fused(mask=16, tied=False, activation=tanh_gelu), {}, "n_head = 1, mlp = gelu"),
    "minGPT, gpt-micro": (
        Fused(layers=4, heads=4, channels=128, mask=16, tied=False, activation=tanh_gelu), {}, "n_head = 4",
    ),
    "minGPT of 2020": (Split(layers=4), {}, "n_head = 4, mlp = gelu"),
    "more heads, as told": (Fused(heads=4, bias=False), {"n_head": 4}, "mlp = gelu_exact"),
    "another activation, as told": (
        Fused(bias=False, activation=tanh_gelu), {"mlp": "gelu", "n_head": 1}, "an untied head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@torch.no_grad()
def test_a_model_of_another_program_gives_its_logits(name):
    theirs, given, noted = FOREIGN[name]
    found = read_layout(theirs.state_dict(), {}, given)
    torch.testing.assert_close(ours(found)(IDS), theirs(IDS), rtol=0, atol=1e-5)
    assert noted in found.notes[0] or "as told" in name


@torch.no_grad()
def test_what_nanogpt_keeps_beside_its_tensors_is_believed():
    theirs = Fused(heads=4, bias=False)
    arguments = {
        "n_head": 4,
        "n_layer": 2,
        "n_embd": 64,
        "block_size": 16,
        "vocab_size": 65,
        "dropout": 0.2,
    }
    found = read_layout(theirs.state_dict(), arguments | {"bias": False}, {})
    torch.testing.assert_close(ours(found)(IDS), theirs(IDS), rtol=0, atol=1e-5)
    assert found.config.dropout == 0.2
    assert "n_head" not in found.notes[0]
    with pytest.raises(UserError, match="its model_args say n_layer = 3, but its tensors are of 2"):
        read_layout(theirs.state_dict(), arguments | {"n_layer": 3}, {})


@pytest.mark.parametrize("name", SWITCHES)
@torch.no_grad()
def test_our_own_tensors_without_their_settings_give_our_logits(name):
    torch.manual_seed(0)
    model = GPT(tiny(block_size=16, vocab_size=65, **SWITCHES[name])).eval()
    assert_found = {
        "n_head": 4,
        "block_size": 16,
        "mlp": model.config.mlp,
        "norm": model.config.norm,
    }
    found = read_layout(model.state_dict(), {}, assert_found)
    assert found.config == model.config
    torch.testing.assert_close(ours(found)(IDS), model(IDS), rtol=0, atol=0)


def test_a_width_that_tells_no_heads_is_refused_with_the_option_to_pass():
    with pytest.raises(
        UserError, match=r"how many heads its 48 channels make; import it with --model.n-head N"
    ):
        read_layout(Fused(channels=48).state_dict(), {}, {})


def test_names_of_no_known_layout_are_refused_by_name():
    with pytest.raises(UserError, match=r"layout that is known.*\(encoder\.a, encoder\.b"):
        read_layout({"encoder.b": torch.ones(1), "encoder.a": torch.ones(1)}, {}, {})
    with pytest.raises(UserError, match="Of a Hugging Face model pass the folder"):
        read_layout({"model.embed_tokens.weight": torch.ones(1, 1)}, {}, {})


@pytest.mark.parametrize(
    "gone",
    [
        "transformer.wpe.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.mlp.c_fc.weight",
    ],
)
def test_a_tensor_that_sizes_are_read_off_is_missed_by_name(gone):
    state = {name: tensor for name, tensor in Fused().state_dict().items() if name != gone}
    with pytest.raises(UserError, match=f"{gone} is missing"):
        read_layout(state, {}, {})


@pytest.mark.parametrize("gone", ["blocks.1.attn.value.weight", "blocks.1.ln1.weight"])
def test_a_tensor_of_minGPT_is_missed_by_name(gone):  # noqa: N802
    state = {name: tensor for name, tensor in Split().state_dict().items() if name != gone}
    with pytest.raises(UserError, match="is missing"):
        ours(read_layout(state, {}, {}))


def test_a_tensor_too_many_or_of_another_shape_is_refused():
    state = Fused().state_dict()
    with pytest.raises(UserError, match=r"transformer\.extra is not part of the model"):
        ours(read_layout(state | {"transformer.extra": torch.ones(2)}, {}, {}))
    with pytest.raises(UserError, match=r"norm\.weight is \(3,\), wanted \(64,\)"):
        ours(read_layout(state | {"transformer.ln_f.weight": torch.ones(3)}, {}, {}))
    with pytest.raises(UserError, match=r"c_attn\.weight has 1 dimensions, wanted 2"):
        read_layout(state | {"transformer.h.0.attn.c_attn.weight": torch.ones(3)}, {}, {})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rotary": True}, "its model_args have rotary, which this model lacks"),
        ({"n_head": "four"}, "say n_head as a str; wanted a number"),
        ({"n_head": -2}, "n_head is -2; wanted a whole number of at least 1"),
        ({"n_head": 1.5}, r"n_head is 1\.5; wanted a whole number"),
        ({"dropout": torch.ones(3)}, "say dropout as a Tensor; wanted a number"),
        ({"dropout": 5}, r"dropout is 5\.0; wanted at least 0"),
        ({"bias": True}, "say bias = True, but its tensors are of False"),
    ],
)
def test_settings_beside_the_tensors_are_checked_and_none_is_ignored(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        ours(read_layout(Fused(bias=False).state_dict(), arguments, {}))


SPLIT_DAMAGE = {
    "differ in shape or type": {"blocks.0.attn.value.weight": torch.ones(0, 128)},
    "value.weight differ in shape or type": {
        "blocks.0.attn.key.weight": torch.ones(128, 128).char()
    },
    r"pos_emb is \(2, 8, 128\); wanted \(1, positions, channels\)": {
        "pos_emb": torch.ones(2, 8, 128)
    },
    r"pos_emb is \(\); wanted": {"pos_emb": torch.tensor(1.0)},
}


@pytest.mark.parametrize("sentence", SPLIT_DAMAGE)
def test_parts_that_do_not_fit_together_are_refused(sentence):
    with pytest.raises(UserError, match=sentence):
        ours(read_layout(Split().state_dict() | SPLIT_DAMAGE[sentence], {}, {}))


def test_a_key_without_its_query_is_not_dropped():
    state = Split().state_dict()
    del state["blocks.1.attn.query.weight"]
    with pytest.raises(UserError, match=r"blocks\.1\.attn\.key\.weight is not part of the model"):
        ours(read_layout(state, {}, {}))
