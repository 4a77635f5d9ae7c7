"""A decoder on a GPU in, its step for one text as a CUDA graph out: one launch instead of some hundred.

What a graph replays has fixed addresses and shapes. So token and position lie in two tensors that are written before
each replay, and attention looks at the whole slot through a mask.
"""

import torch
from torch import Tensor

from minigpt.inference.decoder import Decoder
from minigpt.model.attention import attend

WARM_UP = 3  # steps before the capture, in which libraries allocate what they need


class FixedStep:
    """One token of the text in the first slot in, its logits out, in operations whose shapes never change."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._token, self._place = (
            torch.zeros(1, dtype=torch.long, device=decoder.device) for _ in range(2)
        )
        self._room = torch.arange(decoder.config.block_size + 1, device=decoder.device)

    @torch.inference_mode()
    def __call__(self, token: int, place: int) -> Tensor:
        """Return the logits, (1, V), after a token at a position."""
        self._token.fill_(token)
        self._place.fill_(place)
        return self._compute()

    def _compute(self) -> Tensor:
        decoder, seen = self._decoder, (self._room <= self._place).view(1, 1, 1, -1)

        def look(layer: int, query: Tensor, key_value: Tensor) -> Tensor:
            part = decoder.cache[layer][:, :1]  # (2, 1, K, room, D)
            new = key_value.unflatten(1, (2, -1)).transpose(0, 1).unsqueeze(3)  # (2, 1, K, 1, D)
            part.index_copy_(3, self._place, new.to(part.dtype))
            return attend(query.unsqueeze(2).to(part.dtype), *part.unbind(0), seen).flatten(1)

        return decoder(*decoder.begin(self._token, self._place), look)


class GraphedStep(FixedStep):
    """The same, captured once and replayed."""

    @torch.inference_mode()
    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self._logits = super()._compute()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = super()._compute()

    def _compute(self) -> Tensor:
        self._graph.replay()
        return self._logits.clone()
