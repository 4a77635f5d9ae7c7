"""Writing text: with models of which it is known what they say next."""

import torch
import torch.nn.functional as F
from torch import nn

from minigpt.learn.rules import Mistake, check, look_like_ids


class Oracle(nn.Module):
    """Says after each position: the sum of all ids up to there, plus one, modulo 10; refuses more than 4 positions."""

    def __init__(self, sharpness=50.0, block_size=4):
        super().__init__()
        self.sharpness, self.block_size, self.seen, self.modes = sharpness, block_size, [], []
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, ids):
        """Return the logits, (1, T, 10)."""
        look_like_ids(ids, self.block_size)
        self.seen.append(ids[0].tolist())
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.weight * self.sharpness * F.one_hot((ids.cumsum(1) + 1) % 10, 10)


class Fixed(Oracle):
    """Says the same distribution everywhere."""

    def forward(self, ids):
        """Return the logits, (1, T, 4)."""
        look_like_ids(ids, self.block_size)
        return torch.tensor([0.5, 0.3, 0.2, 1e-9]).log().expand(1, ids.size(1), 4)


@check()
def goes_on(module):
    """one token follows another"""
    return list(module.generate(Oracle(), [1], 3, block_size=4, temperature=0))


@check()
def sees(module):
    """the model sees the last block_size ids"""
    oracle = Oracle()
    made = list(module.generate(oracle, [1, 2, 3], 4, block_size=4, temperature=0))
    return [made, oracle.seen[:4]]  # who asks once more than it takes is right, too


@check()
def long_prompt(module):
    """a prompt that is longer than the context"""
    return list(module.generate(Oracle(), [9, 8, 7, 6, 5, 4, 3], 3, block_size=4, temperature=0))


@check()
def stops(module):
    """the stop token ends the text and is not in it"""
    return [
        list(module.generate(Oracle(), [1], 9, block_size=4, temperature=0, stop=stop))
        for stop in (8, 2, 7, 0)
    ]


@check()
def stops_for_good(module):
    """nothing is drawn after the stop token"""
    texts = {}
    for stop in (None, 2):
        generator = torch.Generator().manual_seed(3)
        options = {"block_size": 4, "stop": stop, "generator": generator}
        texts[stop] = list(module.generate(Fixed(), [0], 30, **options))
    return "it ends there" if texts[2] == texts[None][: texts[None].index(2)] else "it goes on"


@check()
def leaves_the_model(module):
    """dropout is off and no gradient is kept; afterwards the model is in the mode that it was in"""
    said = {}
    for training in (True, False):
        oracle = Oracle().train(training)
        module.generate(oracle, [1, 2], 2, block_size=4)
        name = "a model in training" if training else "a model at rest"
        said[name] = {
            "dropout": "on" if any(mode for mode, _ in oracle.modes) else "off",
            "gradients": "kept" if any(grad for _, grad in oracle.modes) else "not kept",
            "afterwards": "in training" if oracle.training else "at rest",
        }
    return said


@check(within=0.06)
def frequencies(module):
    """tokens are drawn as often as they are likely, at the temperature"""
    found = []
    for temperature in (1.0, 0.25):
        generator = torch.Generator().manual_seed(1)
        ids = module.generate(
            Fixed(), [0], 400, block_size=4, temperature=temperature, generator=generator
        )
        found.append([ids.count(token) / 400 for token in range(4)])
    return found


@check()
def own_randomness(module):
    """the same seed gives the same text"""
    texts = []
    for other in (1, 2):
        torch.manual_seed(other)
        generator = torch.Generator().manual_seed(5)
        texts.append(list(module.generate(Fixed(), [0], 20, block_size=4, generator=generator)))
    return "the same" if texts[0] == texts[1] else "different"


MISTAKES = [
    Mistake(
        "first position",
        """The logits of the first position are taken. Each position foretells what follows it; the new token follows the
        last: [0, -1].""",
        {"[0, -1]": "[0, 0]"},
    ),
    Mistake(
        "one position too early",
        """The logits of the last position but one are taken: they foretell a token that is there already.""",
        {"[0, -1]": "[0, -2 if len(text) > 1 else -1]"},
    ),
    Mistake(
        "not cut",
        """The model is given more ids than its context holds. Give it the last block_size of them.""",
        {"text[-block_size:]": "text"},
    ),
    Mistake(
        "cut at the wrong end",
        """Of a text that is too long the model sees the beginning, so that it never sees what it has just written. Give it the
        last block_size ids.""",
        {"text[-block_size:]": "text[:block_size]"},
    ),
    Mistake(
        "cut too short",
        """The model sees fewer ids than its context holds.""",
        {"text[-block_size:]": "text[-block_size + 1:]"},
    ),
    Mistake(
        "only the last token",
        """The model sees the last token alone and has forgotten all before it.""",
        {"text[-block_size:]": "text[-1:]"},
    ),
    Mistake(
        "not appended",
        """The new token is not given back to the model, so that it foretells the same token again and again.""",
        {"torch.tensor([text[-block_size:]])": "torch.tensor([list(ids)[-block_size:]])"},
    ),
    Mistake(
        "prompt returned",
        """The prompt comes back with the new ids. Only the new ones are asked for.""",
        {"return text[len(ids) :]": "return text"},
    ),
    Mistake(
        "stop returned",
        """The stop token is part of what comes back. It only ends the text.""",
        {
            "        if new == stop:\n            break\n        text.append(new)": "        text.append(new)\n        if new == stop:\n            break"
        },
    ),
    Mistake(
        "never stops", """The stop token does not end the text.""", {"if new == stop": "if False"}
    ),
    Mistake(
        "stop 0 ignored",
        """A stop token of id 0 does not end the text: 0 counts as false, like None. Ask whether it is None.""",
        {"if new == stop": "if stop and new == stop"},
    ),
    Mistake(
        "goes on after stop",
        """The stop token is left out, but the text goes on after it.""",
        {"            break\n": "            continue\n"},
    ),
    Mistake(
        "dropout on",
        """The model is in training mode while it writes, so dropout disturbs what it says. Call model.eval() first.""",
        {"    model.eval()\n": ""},
    ),
    Mistake(
        "left at rest",
        """Afterwards the model is in eval mode, although it was in training: who samples in the middle of training goes on
        without dropout. Remember model.training and set it back.""",
        {"    model.train(training)\n": ""},
    ),
    Mistake(
        "left in training",
        """Afterwards the model is in training mode, although it was not before. Remember model.training and set it back.""",
        {"model.train(training)": "model.train()"},
    ),
    Mistake(
        "gradients kept",
        """Everything is remembered for a gradient that nobody will ask for, and memory grows with each token. Use
        torch.no_grad().""",
        {"@torch.no_grad()\n": ""},
    ),
    Mistake(
        "temperature ignored",
        """The temperature changes nothing. The logits are divided by it, before the softmax.""",
        {"(logits / temperature)": "logits"},
    ),
    Mistake(
        "temperature multiplied",
        """The logits are multiplied by the temperature; they are divided by it.""",
        {"(logits / temperature)": "(logits * temperature)"},
    ),
    Mistake(
        "softmax dimension",
        """The softmax is taken over the texts of the batch, of which there is one, so that all tokens are equally likely. It is
        taken over the V tokens: dim=-1.""",
        {
            "(logits / temperature).softmax(dim=-1)": "(logits / temperature)[None].softmax(dim=0)[0]"
        },
    ),
    Mistake(
        "always the likeliest",
        """The likeliest token is taken at every temperature. Above 0 it is drawn.""",
        {"if temperature == 0": "if True"},
    ),
    Mistake(
        "division by zero",
        """Temperature 0 divides by zero. It means the likeliest token, without a draw.""",
        {"if temperature == 0": "if False"},
    ),
    Mistake(
        "global randomness",
        """The draws do not come from the generator that is passed in, so the same seed gives other texts.""",
        {", generator=generator))": "))"},
    ),
]
