"""Prompts in, texts out, many at a time: each step gives every text one more token.

Texts join and leave between steps (continuous batching: Yu et al., 2022, "Orca"). A token is a function of the logits,
the seed and its number alone, so a text does not depend on what is written beside it. What a prompt has in common with
a text that is still remembered is not read again.
"""

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from minigpt.config import ModelConfig, SampleConfig
from minigpt.errors import UserError
from minigpt.inference.picking import Picked, Picker
from minigpt.inference.stopping import StoppingText
from minigpt.tokenizer import Tokenizer


class Slots(Protocol):
    """What computes logits: `Decoder`, or `Plain` for any model.

    Attributes:
        config: of the model.
        slots: how many texts it holds.
        can_share: whether a slot can take over the beginning of another.
    """

    config: ModelConfig
    slots: int
    can_share: bool

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> Tensor:
        """Return the logits after new tokens in one slot, (V,)."""
        ...

    def step(self, ids: Sequence[int], places: Sequence[int]) -> Tensor:
        """Return the logits after one more token in each of the first slots, (B, V)."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Have a slot remember the first tokens of another, or all of them."""
        ...


class Completion:
    """A text on its way.

    Attributes:
        settings: how it is drawn.
        prompt_length: ids before the first drawn one.
        ids: the prompt and what was drawn.
        picked: what was drawn, an end of text with it.
        text: of what was drawn, without an end of text or a stop string.
        piece: what the last step added to the text.
        finish: why it ended: stop (end of text, or a stop string), length (max_tokens), full (the context), cancelled;
            None while it goes on.
        slid: whether its beginning is out of sight.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        settings: SampleConfig,
        picker: Picker,
        text: StoppingText,
        ends: frozenset[int],
    ) -> None:
        self.settings, self.prompt_length, self.ids = settings, len(prompt), list(prompt)
        self.picked: list[Picked] = []
        self.text = self.piece = ""
        self.finish: str | None = None
        self.slid = False
        self._picker, self._stream, self._ends = picker, text, ends

    def take(self, logits: Tensor) -> None:
        """Draw one more token."""
        found = self._picker.pick(logits.numpy(), self.ids, self.prompt_length)
        self.picked.append(found)
        self.ids.append(found.token)
        is_end = found.token in self._ends
        self.piece = "" if is_end else self._stream.push(found.token)
        if self._stream.stopped:
            self.finish = "stop"
        elif is_end or len(self.picked) == self.settings.max_tokens:
            self.piece += self._stream.finish()
            self.finish = "stop" if is_end or self._stream.stopped else "length"
        self.text += self.piece

    def end(self, reason: str) -> None:
        """End it between steps."""
        self.piece = self._stream.finish()
        self.text += self.piece
        self.finish = reason


class Engine:
    """Writes many texts with one model; each begins and ends between two steps.

    Attributes:
        live: the texts that are written on; each has the slot of its place here.
        waiting: those for which there is no slot yet.
    """

    def __init__(self, slots: Slots, tokenizer: Tokenizer) -> None:
        """Begin with nothing to write.

        Raises:
            UserError: what the tokenizer puts before a text leaves no room for it.
        """
        before, size = len(tokenizer.prefix), slots.config.block_size
        if before >= size:
            raise UserError(
                f"the tokenizer puts {before} tokens before a text and the model sees {size}; take a model with a "
                "longer context"
            )
        self.slots, self.tokenizer = slots, tokenizer
        self.live: list[Completion] = []
        self.waiting: deque[Completion] = deque()
        self._seen: list[list[int]] = [[] for _ in range(slots.slots)]  # what each slot remembers

    def submit(
        self,
        prompt: str | Sequence[int],
        settings: SampleConfig,
        *,
        seed: int | None = None,
        bias: Mapping[int, float] | None = None,
        banned: Iterable[int] = (),
        ends: Iterable[int] = (),
        probabilities: bool = False,
        top: int = 0,
    ) -> Completion:
        """Return a text that the next steps write.

        Args:
            prompt: text, or ids with all that is to stand before them.
            settings: how it is drawn.
            seed: instead of that of the settings.
            bias: nats added to the logits of tokens.
            banned: tokens that are never drawn.
            ends: tokens that end it, beside the end of text.
            probabilities: whether to keep the log-probabilities of what is drawn.
            top: and of so many of the likeliest tokens.

        Raises:
            UserError: the prompt holds a character that the tokenizer does not know.
        """
        tokenizer = self.tokenizer
        if isinstance(prompt, str):
            prompt = [*tokenizer.prefix, *tokenizer.encode(prompt)]
        picker = Picker(
            settings, seed=seed, known=tokenizer.vocab_size, bias=bias or {}, banned=banned,
            wants_probability=probabilities or top > 0, top=top,
        )  # fmt: skip
        own_end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        text = StoppingText(tokenizer.stream(), settings.stop)
        made = Completion(
            prompt or [tokenizer.eos_id or 0], settings, picker, text, frozenset([*ends, *own_end])
        )
        self.waiting.append(made)
        return made

    def cancel(self, completion: Completion) -> None:
        """End a text between two steps; its slot is free at once."""
        if completion.finish is None:
            completion.end("cancelled")
        if completion in self.waiting:
            self.waiting.remove(completion)
        self._let_go()

    def step(self) -> list[Completion]:
        """Give each text one more token, and one that waits its first; return those that got a piece or ended."""
        self._make_room()
        moved = [one for one in self.live if one.finish]
        self._let_go()
        if self.live:
            last = [one.ids[-1] for one in self.live]
            logits = self.slots.step(
                last, [len(self._seen[i]) for i in range(len(self.live))]
            ).cpu()
            for slot, one in enumerate(self.live):
                self._seen[slot].append(last[slot])
                one.take(logits[slot])
            moved += self.live
        if self.waiting and len(self.live) < self.slots.slots:
            self.live.append(self.waiting.popleft())
            self.live[-1].take(self._read(len(self.live) - 1).cpu())
            moved.append(self.live[-1])
        self._let_go()
        return moved

    def run(self, completion: Completion) -> Generator[str]:
        """Yield a text piece by piece; it is cancelled where no more is asked for."""
        try:
            while completion.finish is None:
                if completion in self.step():
                    yield completion.piece
        finally:
            self.cancel(completion)

    def forget(self) -> None:
        """Have every slot that no text is written in remember nothing."""
        for slot in range(len(self.live), len(self._seen)):
            self._seen[slot] = []

    def _read(self, slot: int) -> Tensor:
        """Read the prompt of the text in a slot, as much as the context holds; return the logits after it, (V,)."""
        one, size = self.live[slot], self.slots.config.block_size
        keep = self._kept(one)
        ids = one.ids[:keep] + one.ids[keep:][keep - size :]
        one.slid = len(ids) < len(one.ids)
        start = self._share(slot, ids[:-1]) if self.slots.can_share else 0
        return self._remember(slot, ids, start)

    def _share(self, slot: int, ids: list[int]) -> int:
        """Have a slot remember as much of `ids` as any slot does; return how many that are."""
        shared = [_common(seen, ids) for seen in self._seen]
        source = max(range(len(shared)), key=lambda i: (shared[i], i == slot))
        if shared[source] and source != slot:
            self._seen[slot] = []
            self.slots.copy(source, slot, shared[source])
        return shared[source]

    def _remember(self, slot: int, ids: list[int], start: int = 0) -> Tensor:
        """Read ids into a slot that remembers the first of them; what it remembers is true even where that fails."""
        self._seen[slot] = ids[:start]
        logits = self.slots.prefill(slot, ids[start:], start)
        self._seen[slot] = ids
        return logits

    def _kept(self, one: Completion) -> int:
        """Return how many ids at the beginning stay before all that is seen: what the tokenizer puts before a text."""
        prefix = self.tokenizer.prefix
        return len(prefix) if one.ids[: len(prefix)] == prefix else 0

    def _make_room(self) -> None:
        """Where the context of a text is full, read the younger half of it again, or end it."""
        size = self.slots.config.block_size
        for slot, one in enumerate(self.live):
            if len(self._seen[slot]) < size:
                continue
            if one.settings.on_full == "stop":
                one.end("full")
                continue
            one.slid, keep = True, self._kept(one)
            ids = one.ids[:keep] + one.ids[keep:][-max(1, size // 2 - keep) :]
            self._seen[slot] = []
            if len(ids) > 1:
                self._remember(slot, ids[:-1])  # the next step reads the last

    def _let_go(self) -> None:
        """Give the slots of ended texts to the last ones, so that those that go on have the first slots."""
        for slot in reversed(range(len(self.live))):
            if self.live[slot].finish is None:
                continue
            last = len(self.live) - 1
            if slot != last:
                self.slots.copy(last, slot, len(self._seen[last]))
                self._seen[slot] = list(self._seen[last])
                self.live[slot] = self.live[last]
            self.live.pop()


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two texts have in common from their beginning."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
