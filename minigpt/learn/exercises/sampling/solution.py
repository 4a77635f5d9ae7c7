"""A model and ids in, ids that go on from them out."""

import torch
from torch import nn


@torch.no_grad()
def generate(
    model: nn.Module,
    ids: list[int],
    count: int,
    *,
    block_size: int,
    temperature: float = 1.0,
    stop: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Return up to `count` new ids.

    Args:
        model: (1, T) ids -> (1, T, V) logits, for T up to block_size.
        ids: the prompt, at least one.
        count: how many at most.
        block_size: how many tokens the model can see.
        temperature: 0 takes the likeliest.
        stop: the id that ends the text; it is not returned.
        generator: where the draws come from.
    """
    text, training = list(ids), model.training
    model.eval()
    for _ in range(count):
        logits = model(torch.tensor([text[-block_size:]]))[0, -1]  # (V,)
        if temperature == 0:
            new = int(logits.argmax())
        else:
            shares = (logits / temperature).softmax(dim=-1)
            new = int(torch.multinomial(shares, 1, generator=generator))
        if new == stop:
            break
        text.append(new)
    model.train(training)
    return text[len(ids) :]
