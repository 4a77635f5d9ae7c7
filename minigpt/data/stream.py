"""A source in; its tokens out while it is still being read: shards are filled just ahead of whoever reads them.

It is a preparation that nobody waits for. The shards are those that `minigpt prepare` would write, and stay: a resumed
run reads them again and goes on filling behind the last whole one.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from minigpt.config import DataConfig
from minigpt.data import shards
from minigpt.data.encode import SHARD_TOKENS, write_part
from minigpt.data.preparation import Preparation, begin
from minigpt.data.shards import TokenSequence
from minigpt.data.tokens import Tokens, open_prepared

Say = Callable[[str], None]


class TokenStream(TokenSequence):
    """The tokens to train on, as far as they are there; `reach` fetches more."""

    def __init__(self, work: Preparation, say: Say) -> None:
        """Fill the shards of a preparation one by one; the next one is filled while others are read."""
        super().__init__([])
        self.held_out = TokenSequence([])
        self._work, self._say = work, say
        self._dtype = shards.token_dtype(work.job().tokenizer.vocab_size).str
        self._documents = 0  # read so far
        self._commits = self._run()
        self._pool = ThreadPoolExecutor(1)
        self._next: Future[Any] | None = self._pool.submit(next, self._commits, None)

    def reach(self, count: int) -> bool:
        """Wait until `count` tokens are there; return False where the text ends before."""
        while len(self) < count and self._next is not None:
            self._take()
        return len(self) >= count

    def close(self) -> None:
        """Wait for the shard that is being filled, and fill no more."""
        if self._next is not None:
            self._next.result()
        self._next = None
        self._pool.shutdown()
        self._commits.close()

    def fill_held_out(self) -> None:
        """Wait until the held-out documents are all there, which the first ones are."""
        wanted = self._work.job().split.value
        while self._next is not None and self._documents <= wanted:
            self._take()

    def _run(self) -> Generator[tuple[list[dict[str, Any]], int]]:
        """Yield what each recorded state of each part adds: shards, and the number of documents read by then."""
        for part, place in enumerate(self._work.places):
            known = 0
            for state in write_part(self._work.job(), part, place):
                yield state["shards"][known:], state["place"]["document"]
                known = len(state["shards"])

    def _take(self) -> None:
        assert self._next is not None
        found = self._next.result()
        if found is None:
            self._next = None
            self._pool.shutdown()
            self._work.finish(self._say)
            return
        self._next = self._pool.submit(next, self._commits, None)
        added, self._documents = found
        for shard in added:
            (array,) = shards.open_shards(self._work.folder, [shard], self._dtype)
            (self if shard["split"] == "train" else self.held_out).add(array)


def open_stream(config: DataConfig, say: Say = lambda line: None) -> Tokens:
    """Return the tokens of a source that go on growing; the held-out part is there at once.

    Raises:
        UserError: as `prepare`; later, in `reach`, when the source breaks off.
    """
    work = begin(config, say, shard_tokens=SHARD_TOKENS)
    work.held.close()  # several runs may read one stream; what they write is the same
    if work.is_whole:
        return open_prepared(work.folder)
    train = TokenStream(work, say)
    train.fill_held_out()
    train.reach(1)
    tokenizer = work.job().tokenizer
    facts = {
        "fingerprint": work.plan["fingerprint"],
        "source": work.source.name,
        "tokenizer": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
        "train": {"tokens": None},
        "val": {"tokens": len(train.held_out), "documents": int(work.job().split.value)},
    }
    return Tokens(tokenizer, train, TokenSequence(train.held_out.arrays), facts)
