"""A GPT: its MLP, its block, its parameters, its logits, its tied head, and its first loss."""

import torch
import torch.nn.functional as F

from minigpt.learn.rules import Mistake, check, drawn, filled, names_and_shapes


def _tied(head, embedding):
    if head is embedding:
        return "one parameter"
    if head.data_ptr() == embedding.data_ptr():
        return "two parameters on the same numbers"
    return "two parameters with equal numbers" if torch.equal(head, embedding) else "different"


def _gpt(module, n_layer=2):
    return module.GPT(vocab_size=11, block_size=8, n_layer=n_layer, n_head=2, n_embd=4)


@check()
def mlp(module):
    """the MLP: two layers with GELU between"""
    return filled(module.MLP(2), 1.0)(drawn(1, 2, 2))


@check()
def block_parameters(module):
    """the parameters of a block and their shapes"""
    return names_and_shapes(module.Block(4, 2))


@check()
def block(module):
    """a block adds to the stream, twice"""
    return filled(module.Block(4, 2), 0.7)(5 * drawn(1, 3, 4))


@check()
def parameters(module):
    """the parameters of a model; the head has none of its own"""
    model = _gpt(module)
    own = {id(p) for p in model.parameters()}
    inside = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    return {
        "head and embedding": _tied(model.head.weight, model.embedding.weight),
        "numbers in matrices": inside,
        "parameters": len(own),
    }


@check()
def logits(module):
    """the logits for given weights"""
    model = filled(_gpt(module))
    return model(torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]))


@check()
def causal(module):
    """a later token changes no earlier logits, and a position changes what a token says"""
    model = filled(_gpt(module))
    ids = torch.tensor([[1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 7, 4]])
    same = model(torch.tensor([[5, 5, 5]]))[0]
    changed = (model(ids) - model(other)).abs().amax(-1)[0] > 1e-6
    return {
        "changed": changed.tolist(),
        "positions count": bool((same[0] - same[2]).abs().max() > 1e-4),
    }


@check()
def first_weights(module):
    """all matrices are drawn from normal(0, 0.02)"""
    model = module.GPT(vocab_size=200, block_size=64, n_layer=2, n_head=4, n_embd=64)
    said = {}
    for name, matrix in model.named_parameters():
        # What adds to the stream may be smaller, by the root of how often that is done: GPT-2 has it so.
        sizes = (
            (0.02, 0.02 / 4**0.5) if name.endswith(("output.weight", "down.weight")) else (0.02,)
        )
        found = matrix.std().item()
        if matrix.dim() == 2:
            right = any(0.9 < found / size < 1.1 for size in sizes)
            said[name] = "normal(0, 0.02)" if right else f"numbers of size {found:.2g}"
    return said


@check(within=0.05)
def first_loss(module):
    """a new model has a loss near ln V"""
    model = module.GPT(vocab_size=200, block_size=16, n_layer=2, n_head=4, n_embd=64)
    ids = torch.arange(128).view(8, 16)
    return F.cross_entropy(model(ids).flatten(0, 1), (ids * 7 % 200).flatten()).item()


MISTAKES = [
    Mistake(
        "no activation",
        """There is no GELU between the two layers of the MLP: two matrices in a row are one.""",
        {"F.gelu(self.up(x))": "self.up(x)"},
    ),
    Mistake(
        "another activation",
        """Another function than GELU stands between the layers of the MLP.""",
        {"F.gelu(self.up(x))": "F.relu(self.up(x))"},
        {"F.gelu(self.up(x))": "F.silu(self.up(x))"},
    ),
    Mistake(
        "GELU of GPT-2",
        """It is GELU in the approximation with tanh that GPT-2 has. It is as good, but its numbers are others, by up to 0.0005:
        here the exact one is asked for, F.gelu(x).""",
        {"F.gelu(self.up(x))": 'F.gelu(self.up(x), approximate="tanh")'},
    ),
    Mistake(
        "activation at the end",
        """GELU comes after the second layer. It stands between the two.""",
        {"self.down(F.gelu(self.up(x)))": "F.gelu(self.down(self.up(x)))"},
    ),
    Mistake(
        "no residual",
        """What a part makes takes the place of the stream. It is added to it: x + part(norm(x)); else the gradient of a deep
        stack dies on its way.""",
        {"x = x + self.attention(": "x = self.attention("},
        {"return x + self.mlp(": "return self.mlp("},
        {
            "x = x + self.attention(": "x = self.attention(",
            "return x + self.mlp(": "return self.mlp(",
        },
    ),
    Mistake(
        "post-norm",
        """The norm stands after the sum, on the stream itself. It belongs before each part, on what the part reads, so that
        the stream stays a sum.""",
        {
            "x = x + self.attention(self.attention_norm(x))": "x = self.attention_norm(x + self.attention(x))",
            "return x + self.mlp(self.mlp_norm(x))": "return self.mlp_norm(x + self.mlp(x))",
        },
    ),
    Mistake(
        "no norm",
        """The parts read the stream without a norm. Each reads norm(x).""",
        {
            "self.attention(self.attention_norm(x))": "self.attention(x)",
            "self.mlp(self.mlp_norm(x))": "self.mlp(x)",
        },
        {"self.mlp(self.mlp_norm(x))": "self.mlp(x)"},
        {"self.attention(self.attention_norm(x))": "self.attention(x)"},
    ),
    Mistake(
        "one norm for both",
        """Attention and MLP read the same norm. Each part has its own, with its own gains.""",
        {"self.mlp(self.mlp_norm(x))": "self.mlp(self.attention_norm(x))"},
        {"self.attention(self.attention_norm(x))": "self.attention(self.mlp_norm(x))"},
    ),
    Mistake(
        "norm added",
        """What is added to is norm(x), not x: the stream itself passes through a norm in each block. Keep x, and give norm(x)
        to the part alone.""",
        {
            "x = x + self.attention(self.attention_norm(x))": "y = self.attention_norm(x)\n        x = y + self.attention(y)",
            "return x + self.mlp(self.mlp_norm(x))": "y = self.mlp_norm(x)\n        return y + self.mlp(y)",
        },
    ),
    Mistake(
        "side by side",
        """Attention and MLP read the same stream, side by side. The MLP reads what attention has added to.""",
        {
            "x = x + self.attention(self.attention_norm(x))\n        return x + self.mlp(self.mlp_norm(x))": "return x + self.attention(self.attention_norm(x)) + self.mlp(self.mlp_norm(x))"
        },
    ),
    Mistake(
        "not tied",
        """The head has a weight of its own. Tied means the very same parameter: self.head.weight = self.embedding.weight.""",
        {"        self.head.weight = self.embedding.weight\n": ""},
    ),
    Mistake(
        "copied",
        """The head begins with a copy of the embedding, and after the first step they differ. Tied means one parameter, not
        two with the same numbers.""",
        {
            "        self.head.weight = self.embedding.weight\n": "",
            "std=0.02)": "std=0.02)\n        self.head.weight = nn.Parameter(self.embedding.weight.detach().clone())",
        },
        {
            "        self.head.weight = self.embedding.weight\n": "",
            "std=0.02)": "std=0.02)\n        self.head.weight.data.copy_(self.embedding.weight)",
        },
    ),
    Mistake(
        "tied by data",
        """Head and embedding are two parameters on the same numbers. Each has its own part of the gradient, so that
        an optimiser moves the numbers twice, and on another device they are apart. Tied means one parameter:
        self.head.weight = self.embedding.weight.""",
        {
            "        self.head.weight = self.embedding.weight\n": "",
            "std=0.02)": "std=0.02)\n        self.head.weight.data = self.embedding.weight.data",
        },
        {
            "self.head.weight = self.embedding.weight\n": "self.head.weight = nn.Parameter(self.embedding.weight.data)\n"
        },
    ),
    Mistake(
        "hidden blocks",
        """The blocks are in a Python list, where parameters() does not find them, so nothing would train them. Use
        nn.ModuleList.""",
        {
            "nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))": "[Block(n_embd, n_head) for _ in range(n_layer)]"
        },
    ),
    Mistake(
        "one block again and again",
        """All layers are the same block. [block] * n is n times the same object: make n of them.""",
        {
            "nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))": "nn.ModuleList([Block(n_embd, n_head)] * n_layer)"
        },
    ),
    Mistake(
        "no positions",
        """A token says the same at every position: the position embedding is not added.""",
        {" + self.position_embedding(torch.arange(ids.size(1)))": ""},
    ),
    Mistake(
        "one position for all",
        """The same row of the position embedding is added everywhere. Position t takes row t.""",
        {"torch.arange(ids.size(1))": "torch.zeros(ids.size(1), dtype=torch.long)"},
        {"torch.arange(ids.size(1))": "torch.tensor(ids.size(1) - 1)"},
    ),
    Mistake(
        "positions by token",
        """The position embedding is looked up by the ids. It is looked up by the places 0 to T - 1.""",
        {"torch.arange(ids.size(1))": "ids % 8"},
    ),
    Mistake(
        "no last norm",
        """The head reads the stream without a norm. After the blocks, the norm comes first.""",
        {"self.head(self.norm(x))": "self.head(x)"},
    ),
    Mistake(
        "softmax at the end",
        """What comes out are probabilities. Logits are wanted; the loss does the softmax.""",
        {"self.head(self.norm(x))": "self.head(self.norm(x)).softmax(-1)"},
    ),
    Mistake(
        "only the last position",
        """Logits of the last position alone come out. Training asks every position.""",
        {"self.head(self.norm(x))": "self.head(self.norm(x[:, -1:]))"},
        {"self.head(self.norm(x))": "self.head(self.norm(x[:, -1]))"},
    ),
    Mistake(
        "large first weights",
        """The first matrices are too large: nn.Embedding draws from normal(0, 1), and nn.Linear from a range that depends on
        its width. Draw all matrices from normal(0, 0.02), or the first loss may be far from ln V.""",
        {"                nn.init.normal_(parameter, std=0.02)": "                pass"},
        {"std=0.02": "std=1.0"},
        {"nn.init.normal_(parameter, std=0.02)": "nn.init.xavier_uniform_(parameter)"},
        {
            "        self.head.weight = self.embedding.weight\n": "        self.embedding.weight = self.head.weight\n",
            "                nn.init.normal_(parameter, std=0.02)": "                pass",
        },
        {
            "        for parameter in self.parameters():\n            if parameter.dim() == 2:\n": "        for parameter in [self.embedding.weight]:\n            if True:\n"
        },
        {
            "        for parameter in self.parameters():\n            if parameter.dim() == 2:\n": "        for parameter in [self.embedding.weight, self.position_embedding.weight]:\n            if True:\n"
        },
    ),
]
