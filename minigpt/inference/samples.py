"""One prompt in, several texts out: written beside each other, handed over one after the other."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from minigpt.config import SampleConfig
from minigpt.inference.engine import Completion, Engine


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
        completions: the texts that were begun.
        seconds: from the first step to the last.
    """

    def __init__(
        self, engine: Engine, settings: SampleConfig, *, probabilities: bool = False
    ) -> None:
        """Begin the first text, and so find out whether the prompt can be read.

        Raises:
            UserError: the prompt holds a character that the tokenizer does not know.
        """
        self.engine, self.settings, self.seconds = engine, settings, 0.0
        self._probabilities = probabilities
        self.completions: list[Completion] = []
        self._begin()

    @property
    def tokens(self) -> int:
        """Drawn so far."""
        return sum(len(one.picked) for one in self.completions)

    def pieces(self) -> Iterator[Piece]:
        """Yield what is written, the first text while it is written, the others in their order."""
        numbers: dict[int, int] = {}
        held: list[list[Piece]] = []
        shown, began, engine = 0, time.perf_counter(), self.engine
        while shown < self.settings.num_samples:
            while len(engine.live) + len(engine.waiting) < engine.slots.slots and self._begin():
                pass
            for number in range(len(held), len(self.completions)):
                numbers[id(self.completions[number])] = number
                held.append([])
            for one in engine.step():
                number, last = numbers[id(one)], one.picked[-1].log_probability
                held[number].append(Piece(number, one.piece, last))
            self.seconds = time.perf_counter() - began
            while shown < len(held):
                ended = self.completions[shown].finish is not None
                yield from held[shown]
                held[shown] = []
                if not ended:
                    break
                shown += 1

    def _begin(self) -> bool:
        """Begin one more text, if there is one; return whether there was."""
        number, settings = len(self.completions), self.settings
        if number == settings.num_samples:
            return False
        first = self.completions[0] if number else None
        prompt = first.ids[: first.prompt_length] if first else settings.prompt
        self.completions.append(
            self.engine.submit(
                prompt, settings, seed=settings.seed + number, probabilities=self._probabilities
            )
        )
        return True

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
