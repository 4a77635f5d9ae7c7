"""Any model that computes logits in, the slots of an engine out: each text has the model's own cache.

For models that only `transformers` computes, and for one that is being trained, whose weights nobody packs. It is the
oracle of `Decoder`, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minigpt.model.attention import Cache
from minigpt.model.transformer import GPT


class Plain:
    """Computes the next logits of many texts, one after the other.

    Attributes:
        config: the model's.
        slots: how many texts it holds.
    """

    can_share = False

    def __init__(self, model: GPT, slots: int = 1) -> None:
        self.model, self.config, self.slots = model, model.config, slots
        self._caches: list[Cache] = [model.new_cache() for _ in range(slots)]

    @torch.inference_mode()
    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> Tensor:
        """Return the logits after new tokens in one slot, (V,); without a start it forgets what it held."""
        if not start:
            self._caches[slot] = self.model.new_cache()
        given = torch.tensor([ids], device=self.model.head.weight.device)
        return self.model(given, cache=self._caches[slot])[0, -1].float()

    @torch.inference_mode()
    def step(self, ids: Sequence[int], places: Sequence[int]) -> Tensor:
        """Return the logits after one more token in each of the first slots, (B, V)."""
        rows = enumerate(zip(ids, places, strict=True))
        return torch.stack([self.prefill(slot, [token], place) for slot, (token, place) in rows])

    def copy(self, source: int, target: int, length: int) -> None:
        """Hand what a slot remembers on to another."""
        self._caches[target] = self._caches[source]
        self._caches[source] = self.model.new_cache()
