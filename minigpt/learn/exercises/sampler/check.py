"""A sampler: each setting on a distribution of which the answer is known, then draws."""

import torch

from minigpt.learn.rules import Mistake, check, drawn

SHARES = torch.tensor([0.15, 0.5, 0.1, 0.25])
LOGITS = SHARES.log() + 1.0  # logits are no probabilities: they need not be normalised


@check()
def plain(module):
    """without settings it is the softmax"""
    return module.probabilities(LOGITS)


@check()
def temperature(module):
    """temperature 0.5 sharpens, 2 flattens"""
    return [module.probabilities(LOGITS, temperature=t) for t in (0.5, 2.0)]


@check()
def greedy(module):
    """temperature 0 gives the likeliest token all"""
    return module.probabilities(LOGITS, temperature=0.0).float()


@check()
def top_k(module):
    """top-k keeps k tokens, and 0 or more than V keeps all"""
    return [module.probabilities(LOGITS, top_k=k) for k in (2, 1, 3, 0, 9)]


@check()
def top_p(module):
    """top-p keeps the tokens that together reach p, with the one that crosses it"""
    return [module.probabilities(LOGITS, top_p=p) for p in (0.7, 0.4, 0.8, 0.95, 1.0)]


@check()
def little_top_p(module):
    """however small p is, one token stays"""
    return [module.probabilities(LOGITS, top_p=p) for p in (0.01, 0.0)]


@check()
def all_at_once(module):
    """temperature comes first, then top-k, then top-p"""
    settings = ((0.5, 3, 0.9), (2.0, 3, 0.72), (1.5, 2, 0.5), (0.7, 0, 0.8))
    return [module.probabilities(LOGITS, *setting) for setting in settings] + [
        module.probabilities(2 * drawn(50, seed=3), 1.3, 20, 0.8)
    ]


@check()
def all_settings(module):
    """each setting has a say in what is drawn"""
    settings = ({"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.7})
    generator, found = torch.Generator().manual_seed(0), {}
    for setting in settings:
        draws = {int(module.sample(LOGITS, generator, **setting)) for _ in range(30)}
        found[", ".join(f"{name} {value}" for name, value in setting.items())] = sorted(draws)
    return found


@check(within=0.1)
def frequencies(module):
    """tokens are drawn as often as they are likely"""
    generator = torch.Generator().manual_seed(0)
    draws = [module.sample(LOGITS, generator, 0.5, 2, 1.0) for _ in range(200)]
    return [draws.count(token) / len(draws) for token in range(4)]


@check()
def own_randomness(module):
    """the same generator gives the same tokens, whatever else is drawn"""
    texts = []
    for other in (1, 2):
        torch.manual_seed(other)
        generator = torch.Generator().manual_seed(7)
        texts.append([int(module.sample(LOGITS, generator)) for _ in range(20)])
    return "the same" if texts[0] == texts[1] else "different"


MISTAKES = [
    Mistake(
        "multiplied",
        """The logits are multiplied by the temperature; they are divided by it. A low temperature makes the likely
        likelier.""",
        {"logits / temperature": "logits * temperature"},
    ),
    Mistake(
        "temperature ignored",
        """The temperature changes nothing. The logits are divided by it, before the softmax.""",
        {"logits / temperature": "logits + 0.0"},
    ),
    Mistake(
        "temperature on probabilities",
        """The probabilities are divided by the temperature, and scaling them back undoes it. Divide the logits, before
        the softmax.""",
        {
            "scaled = logits / temperature": "scaled = logits + 0.0",
            "shares = scaled.softmax(dim=0)": "shares = scaled.softmax(dim=0) / temperature",
        },
    ),
    Mistake(
        "division by zero",
        """Temperature 0 divides by zero. It means the likeliest token: give it all the probability, without dividing.""",
        {"if temperature == 0": "if False"},
        {"temperature == 0": "False", "logits / temperature": "logits / max(temperature, 1e-45)"},
    ),
    Mistake(
        "one too many",
        """Top-k keeps one token too many: the least logit that stays is the k-th largest, at index k - 1.""",
        {"scaled.topk(min(top_k, len(scaled)))": "scaled.topk(min(top_k + 1, len(scaled)))"},
    ),
    Mistake(
        "one too few",
        """Top-k keeps one token too few: the k-th largest stays, too.""",
        {"scaled < least": "scaled <= least"},
        {
            "scaled.topk(min(top_k, len(scaled)))": "scaled.topk(max(1, min(top_k - 1, len(scaled))))"
        },
    ),
    Mistake(
        "k above V",
        """A top_k above the number of tokens is to keep all of them; topk can not give more than there are.""",
        {"min(top_k, len(scaled))": "top_k"},
    ),
    Mistake(
        "crossing token dropped",
        """Top-p drops the token that crosses p, so that what is kept does not reach p, and a small p keeps nothing. Keep
        the tokens *before* which less than p has been collected.""",
        {"before >= top_p": "ordered.cumsum(0) > top_p"},
        {"before >= top_p": "ordered.cumsum(0) > top_p", "dropped[0] = False": "pass"},
        {"before >= top_p": "ordered.cumsum(0) >= top_p", "dropped[0] = False": "pass"},
    ),
    Mistake(
        "one more than crosses",
        """Top-p keeps one token more than the one that crosses p.""",
        {"dropped = before >= top_p": "dropped = (before >= top_p).roll(1)"},
    ),
    Mistake(
        "unsorted",
        """Top-p collects the tokens in the order of their ids. It begins with the likeliest: sort first.""",
        {
            "ordered, ids = shares.sort(descending=True)": "ordered, ids = shares.clone(), torch.arange(len(shares))"
        },
        {"sort(descending=True)": "sort()"},
    ),
    Mistake(
        "sorted and left so",
        """What is dropped is told by the place in the sorted order, not by the id of the token. Go back from places to ids.""",
        {"shares[ids[dropped]]": "shares[dropped]"},
    ),
    Mistake(
        "nothing left",
        """For a very small p nothing is left to draw from, and 0 / 0 is NaN. The likeliest token always stays.""",
        {"dropped[0] = False": "pass"},
    ),
    Mistake(
        "not normalised",
        """What is left does not add up to 1. After dropping tokens, divide by the sum of the rest.""",
        {"return shares / shares.sum()": "return shares"},
    ),
    Mistake(
        "top-p before temperature",
        """Top-p looks at the probabilities before the temperature was applied. Temperature comes first, and top-k before
        top-p.""",
        {
            "ordered, ids = shares.sort(descending=True)": "ordered, ids = logits.softmax(0).sort(descending=True)"
        },
    ),
    Mistake(
        "top-p before top-k",
        """Top-p is applied to the distribution before top-k. Top-k comes first; the shares of top-p are of what it left.""",
        {
            "ordered, ids = shares.sort(descending=True)": "ordered, ids = (logits / temperature).softmax(0).sort(descending=True)"
        },
    ),
    Mistake(
        "always the likeliest",
        """The likeliest token is taken each time. It is to be drawn: torch.multinomial does it.""",
        {"torch.multinomial(shares, 1, generator=generator)": "shares.argmax()"},
    ),
    Mistake(
        "settings lost",
        """The draws do not follow all of the settings: pass temperature, top_k and top_p on to probabilities.""",
        {"probabilities(logits, temperature, top_k, top_p)": "probabilities(logits)"},
        {"probabilities(logits, temperature, top_k, top_p)": "probabilities(logits, temperature)"},
        {"probabilities(logits, temperature, top_k, top_p)": "probabilities(logits, 1.0, top_k)"},
        {
            "probabilities(logits, temperature, top_k, top_p)": "probabilities(logits, 1.0, 0, top_p)"
        },
        {
            "probabilities(logits, temperature, top_k, top_p)": "probabilities(logits, 1.0, top_k, top_p)"
        },
        {
            "probabilities(logits, temperature, top_k, top_p)": "probabilities(logits, temperature, 0, top_p)"
        },
        {
            "probabilities(logits, temperature, top_k, top_p)": "probabilities(logits, temperature, top_k)"
        },
    ),
    Mistake(
        "all alike",
        """All tokens that are left are drawn equally often. The probabilities are the weights of the draw.""",
        {"multinomial(shares": "multinomial((shares > 0).float()"},
    ),
    Mistake(
        "global randomness",
        """The draws do not come from the generator that is passed in, so the same seed gives other texts. Pass it on to
        torch.multinomial.""",
        {", generator=generator": ""},
    ),
]
