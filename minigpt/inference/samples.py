"""One prompt in, several texts out: written beside each other, handed over one after the other."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from minigpt.config import SampleConfig
from minigpt.inference.engine import Engine


class Piece(NamedTuple):
    """What a token added to a text.

    Attributes:
        number: of the text.
        text: empty while a character is open, or where a stop string may have begun.
        log_probability: of the token; nan where it was not asked for.
    """

    number: int
    text: str
    log_probability: float


class Samples:
    """As many texts as the settings say, from seed, seed + 1, …

    Attributes:
        completions: the texts.
        tokens: drawn so far.
        seconds: from the first step to the last.
    """

    def __init__(
        self, engine: Engine, settings: SampleConfig, *, probabilities: bool = False
    ) -> None:
        self.engine, self.settings = engine, settings
        self.tokens, self.seconds = 0, 0.0
        seeds = range(settings.seed, settings.seed + settings.num_samples)
        self.completions = [
            engine.submit(settings.prompt, settings, seed=seed, probabilities=probabilities)
            for seed in seeds
        ]

    def pieces(self) -> Iterator[Piece]:
        """Yield what is written, the first text while it is written, the others in their order."""
        number = {id(one): i for i, one in enumerate(self.completions)}
        held: list[list[Piece]] = [[] for _ in self.completions]
        shown, began = 0, time.perf_counter()
        while shown < len(held):
            for one in self.engine.step():
                last = one.picked[-1].log_probability
                held[number[id(one)]].append(Piece(number[id(one)], one.piece, last))
            self.seconds = time.perf_counter() - began
            self.tokens = sum(len(one.picked) for one in self.completions)
            while shown < len(held):
                ended = self.completions[shown].finish is not None
                yield from held[shown]
                held[shown] = []
                if not ended:
                    break
                shown += 1

    def facts(self) -> dict[str, Any]:
        """Return texts, ids and log-probabilities of the new tokens, and the speed, for `--json`."""
        texts = [
            {
                "text": self.settings.prompt + one.text,
                "completion": one.text,
                "ids": [picked.token for picked in one.picked],
                "log_probabilities": [round(picked.log_probability, 6) for picked in one.picked],
                "finish": one.finish,
                "seed": self.settings.seed + number,
            }
            for number, one in enumerate(self.completions)
        ]
        speed = round(self.tokens / max(self.seconds, 1e-9), 1)
        return {
            "samples": texts,
            "prompt_tokens": self.completions[0].prompt_length,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 4),
            "tokens_per_second": speed,
        }
