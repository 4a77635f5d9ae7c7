"""Texts that are asked for in, what each step adds to them out: one thread for one engine.

    asyncio   submit, cancel -> commands ─┐        ┌─> updates, in the queue of each reply
    thread                                └ step() ┘

Before each step the thread carries out what came in meanwhile; so a text that nobody waits for any more has its slot
free before the next token. What a reader has not taken waits in its own queue, which holds no more than it has asked
for, and keeps nobody waiting.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from minigpt.config import SampleConfig
from minigpt.errors import UserError, first_line
from minigpt.inference.engine import Completion, Engine
from minigpt.inference.picking import Picked
from minigpt.serve.errors import ApiError
from minigpt.serve.metrics import Metrics

SPEED_SECONDS = 10.0  # over which the tokens per second are counted
_log = logging.getLogger("minigpt")
LONGEST_RETRY = 60  # seconds
JOIN_SECONDS = 10.0  # that a step may take at the end


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One text that is wanted; the attributes are the arguments of `Engine.submit`."""

    ids: Sequence[int]
    settings: SampleConfig
    seed: int
    bias: Mapping[int, float]
    banned: Sequence[int]
    ends: frozenset[int]
    probabilities: bool
    top: int


class Update(NamedTuple):
    """What a step did for one text.

    Attributes:
        number: of the text in its request.
        piece: what was added.
        picked: the tokens that were drawn.
        finish: why it ended; None while it goes on.
    """

    number: int
    piece: str
    picked: Sequence[Picked]
    finish: str | None


class Reply:
    """What comes back for one request.

    Attributes:
        error: why its texts were ended before their time, if they were.
        first_seconds: from the request to its first token.
    """

    def __init__(self, texts: int) -> None:
        self.error: ApiError | None = None
        self.first_seconds: float | None = None
        self.began = time.perf_counter()
        self.loop = asyncio.get_running_loop()
        self._open = texts
        self._queue: asyncio.Queue[Update] = asyncio.Queue()

    def put(self, update: Update) -> None:
        """Add an update, in the thread of the loop."""
        self._queue.put_nowait(update)

    async def updates(self) -> AsyncIterator[list[Update]]:
        """Yield what is there, each time there is something, until all texts have ended.

        Raises:
            ApiError: they were ended before their time.
        """
        while self._open:
            found = [await self._queue.get()]
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
            self._open -= sum(update.finish is not None for update in found)
            if self.error is not None:
                raise self.error
            yield found


@dataclass
class _Open:
    """A text on its way."""

    reply: Reply
    number: int
    completion: Completion
    sent: int = 0  # tokens of it


class Worker:
    """Drives one engine in a thread of its own.

    Attributes:
        capacity: texts that it holds, written on or waiting.
    """

    def __init__(self, name: str, engine: Engine, queue: int, metrics: Metrics) -> None:
        self.name, self.engine, self.metrics = name, engine, metrics
        self.capacity = engine.slots.slots + queue
        self._held = 0
        self._seconds = 1.0  # that a text takes; the younger count for more
        self._drawn: deque[tuple[float, int]] = deque()
        self._texts: dict[int, _Open] = {}  # by the identity of its completion
        self._commands: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._draining = self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"engine of {name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------- from any other thread

    def submit(self, asks: Sequence[Ask]) -> Reply:
        """Return what the texts come back in; they are begun in their order.

        Raises:
            ApiError: too many wait already (429), or the server stops (503).
        """
        with self._changed:
            if self._draining:
                raise stopping()
            if self._held + len(asks) > self.capacity:
                raise ApiError(
                    429, f"{self._held} texts are written or wait, and there is room for {self.capacity}; try again "
                    "later", code="queue_full", headers={"Retry-After": str(self._retry_after())},
                )  # fmt: skip
            self._held += len(asks)
            reply = Reply(len(asks))
            self._commands.append(partial(self._begin, reply, asks))
            self._changed.notify()
        return reply

    def cancel(self, reply: Reply) -> None:
        """End the texts of a request that nobody waits for; what has ended already stays as it is."""
        self._do(partial(self._end, lambda one: one.reply is reply, None))

    def drain(self) -> None:
        """Take nothing new; what is there goes on."""
        with self._changed:
            self._draining = True

    def end_all(self, error: ApiError) -> None:
        """End all texts, with an error for who waits for them."""
        self._do(partial(self._end, lambda one: True, error))

    def close(self) -> None:
        """End all, and the thread."""
        self.drain()
        self.end_all(stopping())
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(JOIN_SECONDS)

    @property
    def is_alive(self) -> bool:
        """Whether its thread is at work."""
        return self._thread.is_alive()

    def gauges(self) -> dict[str, float]:
        """Return what is measured at this moment, by the name of the metric."""
        live, now = len(self.engine.live), time.monotonic()
        drawn = sum(count for then, count in list(self._drawn) if now - then < SPEED_SECONDS)
        return {
            "minigpt_running": live,
            "minigpt_waiting": max(0, self._held - live),
            "minigpt_slots": self.engine.slots.slots,
            "minigpt_tokens_per_second": drawn / SPEED_SECONDS,
        }

    def _do(self, command: Callable[[], None]) -> None:
        with self._changed:
            self._commands.append(command)
            self._changed.notify()

    def _retry_after(self) -> int:
        """Return the seconds after which there is likely a place."""
        waiting = self._held - self.engine.slots.slots
        seconds = self._seconds * (1 + waiting / self.engine.slots.slots)
        return max(1, min(LONGEST_RETRY, math.ceil(seconds)))

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        torch.set_flush_denormal(True)  # of each thread its own
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._commands or self._texts or self._closing)
                commands, self._commands = self._commands, []
                if self._closing and not (commands or self._texts):
                    return
            for command in commands:
                command()
            if self._texts:
                self._step()

    def _begin(self, reply: Reply, asks: Sequence[Ask]) -> None:
        for number, ask in enumerate(asks):
            try:
                made = self.engine.submit(
                    ask.ids, ask.settings, seed=ask.seed, bias=ask.bias, banned=ask.banned,
                    ends=ask.ends, probabilities=ask.probabilities, top=ask.top,
                )  # fmt: skip
            except Exception as error:  # the next request must find the thread at work
                self._held -= len(asks) - number
                self._end(lambda one: one.reply is reply, _failed(error))
                reply.error = _failed(error)
                self._send(reply.loop, [(reply, Update(number, "", (), "failed"))])
                return
            self._texts[id(made)] = _Open(reply, number, made)
        self.metrics.count("minigpt_prompt_tokens_total", self.name, by=len(asks[0].ids))

    def _end(self, which: Callable[[_Open], bool], error: ApiError | None) -> None:
        found = [one for one in self._texts.values() if which(one)]
        for one in found:
            one.reply.error = error
            self.engine.cancel(one.completion)
        self._hand_over(found)

    def _step(self) -> None:
        try:
            moved = self.engine.step()
        except Exception as error:  # whatever it was, the next request must find the thread at work
            self._end(lambda one: True, _failed(error))
            self.engine.forget()
            return
        self._hand_over([self._texts[id(one)] for one in moved])

    def _hand_over(self, texts: Sequence[_Open]) -> None:
        """Send what is new of these texts to those who wait for it, and let go of what has ended."""
        now, drawn = time.perf_counter(), 0
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Reply, Update]]] = {}
        for one in texts:
            made, reply = one.completion, one.reply
            picked = made.picked[one.sent :]
            one.sent += len(picked)
            drawn += len(picked)
            if picked and reply.first_seconds is None:
                reply.first_seconds = now - reply.began
                self._observe("minigpt_first_token_seconds", reply.first_seconds)
            if made.finish is not None:
                del self._texts[id(made)]
                self._note_end(made.finish, now - reply.began)
            update = Update(one.number, made.piece, picked, made.finish)
            batches.setdefault(reply.loop, []).append((reply, update))
        self._note_drawn(drawn)
        for loop, batch in batches.items():
            self._send(loop, batch)

    def _send(self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Reply, Update]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_put_all, batch)

    def _note_end(self, finish: str, seconds: float) -> None:
        with self._changed:
            self._held -= 1
        self._seconds += 0.1 * (seconds - self._seconds)
        self.metrics.count("minigpt_texts_total", self.name, finish)
        self._observe("minigpt_text_seconds", seconds)

    def _note_drawn(self, count: int) -> None:
        now = time.monotonic()
        self.metrics.count("minigpt_generated_tokens_total", self.name, by=count)
        self._drawn.append((now, count))
        while now - self._drawn[0][0] > SPEED_SECONDS:
            self._drawn.popleft()

    def _observe(self, metric: str, seconds: float) -> None:
        self.metrics.observe(metric, self.name, seconds=seconds)


def stopping() -> ApiError:
    """Return what a client is told when the server stops."""
    return ApiError(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"})


def _failed(error: Exception) -> ApiError:
    """Return what a client is told of a failure; what it is not told stands on standard error."""
    if isinstance(error, UserError):
        return ApiError(500, first_line(error))
    _log.error("the engine has failed", exc_info=error)
    return ApiError(500, "the model has failed; the log of the server says why")


def _put_all(batch: Sequence[tuple[Reply, Update]]) -> None:
    for reply, update in batch:
        reply.put(update)
