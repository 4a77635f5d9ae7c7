import asyncio
import dataclasses
import threading

import pytest

from minigpt.config import SampleConfig
from minigpt.errors import UserError
from minigpt.inference.decoder import Decoder
from minigpt.inference.engine import Engine
from minigpt.serve.errors import ApiError
from minigpt.serve.metrics import Metrics
from minigpt.serve.worker import Ask, Worker

from .serving import BYTES, drawn, until


class Gate(Decoder):
    """Slots that take a step only when the test lets them; the first token of a text comes without one."""

    def __init__(self, slots: int) -> None:
        super().__init__(drawn(), slots=slots)
        self.tokens, self.steps = threading.Semaphore(0), 0
        self.fails_with: Exception | None = None

    def step(self, ids, places):
        assert self.tokens.acquire(timeout=30)
        self.steps += 1
        if self.fails_with is not None:
            raise self.fails_with
        return super().step(ids, places)


@pytest.fixture
def gate():
    return Gate(slots=2)


@pytest.fixture
def worker(gate):
    made = Worker("m", Engine(gate, BYTES), 2, Metrics())
    yield made
    gate.tokens.release(1000)
    made.close()


def ask(max_tokens: int = 100, seed: int = 0) -> Ask:
    settings = SampleConfig(max_tokens=max_tokens, on_full="slide", temperature=1.0)
    eos = [BYTES.eos_id]
    return Ask(
        ids=BYTES.encode("the"), settings=settings, seed=seed, bias={}, banned=eos, ends=frozenset(),
        probabilities=False, top=0,
    )  # fmt: skip


async def text_of(reply) -> str:
    return "".join([one.piece async for found in reply.updates() for one in found])


def test_texts_come_back_as_the_engine_writes_them(worker, gate):
    gate.tokens.release(100)

    async def both():
        replies = [worker.submit([ask(9, seed)]) for seed in range(2)]
        return [await text_of(reply) for reply in replies]

    engine = Engine(Decoder(drawn()), BYTES)
    begun = (engine.submit("the", ask(9).settings, seed=i, banned=[BYTES.eos_id]) for i in range(2))
    alone = ["".join(engine.run(one)) for one in begun]
    assert asyncio.run(both()) == alone


def test_one_that_nobody_waits_for_frees_its_place_before_the_next_step(worker, gate):
    async def run():
        first = worker.submit([ask(), ask()])
        waiting = worker.submit([ask()])
        gate.tokens.release(1)
        until(lambda: len(worker.engine.live) == 2)
        worker.cancel(first)  # the second step may have begun
        gate.tokens.release(1)
        until(lambda: len(worker.engine.live) == 1)
        assert gate.steps <= 2
        worker.cancel(waiting)
        gate.tokens.release(1)
        until(lambda: not worker.engine.live)

    asyncio.run(run())
    assert worker.gauges()["minigpt_waiting"] == 0


def test_more_than_it_holds_is_turned_away_and_told_when_to_come_back(worker, gate):
    async def run():
        worker.submit([ask(), ask(), ask()])
        with pytest.raises(ApiError) as caught:
            worker.submit([ask(), ask()])
        last = worker.submit([ask()])
        assert worker.gauges()["minigpt_waiting"] >= 2
        with pytest.raises(ApiError):
            worker.submit([ask()])
        worker.cancel(last)
        gate.tokens.release(2)
        until(lambda: worker._held == 3)
        worker.submit([ask()])  # there is a place again
        return caught.value

    error = asyncio.run(run())
    assert error.status_code == 429
    assert 1 <= int(error.headers["Retry-After"]) <= 60


def test_a_reader_that_takes_nothing_keeps_nobody_waiting(worker, gate):
    gate.tokens.release(1000)

    async def run():
        slow = worker.submit([ask(200)])
        assert len(await text_of(worker.submit([ask(50, 1)]))) > 0
        until(lambda: not worker.engine.live)
        found = [update async for updates in slow.updates() for update in updates]
        assert sum(len(one.picked) for one in found) == 200
        assert found[-1].finish == "length"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("the weights are damaged"), "the weights are damaged"),
        (RuntimeError("secret"), "the model has failed"),
    ],
)
def test_a_step_that_fails_ends_what_runs_and_the_next_request_is_answered(
    worker, gate, error, said, caplog
):
    async def run():
        reply = worker.submit([ask()])
        gate.fails_with = error
        gate.tokens.release(1)
        with pytest.raises(ApiError, match=said) as caught:
            await text_of(reply)
        assert caught.value.status_code == 500
        gate.fails_with = None
        gate.tokens.release(100)
        return await text_of(worker.submit([ask(9)]))

    assert asyncio.run(run())
    logged = [record.exc_info[1] for record in caplog.records if record.name == "minigpt"]
    assert logged == [error] * isinstance(error, RuntimeError)


def test_a_text_that_cannot_be_begun_leaves_the_thread_at_work(worker, gate):
    gate.tokens.release(100)
    impossible = dataclasses.replace(ask(), banned=range(BYTES.vocab_size))

    async def run():
        with pytest.raises(ApiError, match="the model has failed"):
            await text_of(worker.submit([ask(), impossible, ask()]))
        return await text_of(worker.submit([ask(3)]))

    assert asyncio.run(run())
    assert worker._held == 0
    assert worker.is_alive


def test_what_runs_goes_on_while_it_drains_and_nothing_new_is_taken(worker, gate):
    async def run():
        reply = worker.submit([ask(9)])
        worker.drain()
        with pytest.raises(ApiError) as caught:
            worker.submit([ask()])
        gate.tokens.release(100)
        return caught.value.status_code, await text_of(reply)

    status, text = asyncio.run(run())
    assert status == 503
    assert text


def test_closing_ends_what_runs_with_an_error(gate):
    worker = Worker("m", Engine(gate, BYTES), 2, Metrics())

    async def run():
        reply = worker.submit([ask()])
        until(lambda: worker.engine.live)
        gate.tokens.release(1000)
        worker.close()
        with pytest.raises(ApiError, match="stopping"):
            await text_of(reply)

    asyncio.run(run())
    assert not worker._thread.is_alive()


def test_a_loop_that_is_gone_disturbs_nobody(worker, gate):
    async def leave():
        worker.submit([ask(5)])

    asyncio.run(leave())
    gate.tokens.release(100)
    until(lambda: worker._held == 0)
    assert asyncio.run(_answered(worker))


async def _answered(worker) -> str:
    return await text_of(worker.submit([ask(3)]))


def test_it_counts_what_it_does(worker, gate):
    gate.tokens.release(100)
    asyncio.run(_answered(worker))
    text = worker.metrics.text([])
    assert 'minigpt_generated_tokens_total{model="m"} 3' in text
    assert 'minigpt_prompt_tokens_total{model="m"} 3' in text
    assert 'minigpt_texts_total{model="m",finish="length"} 1' in text
    assert 'minigpt_first_token_seconds_count{model="m"} 1' in text
    assert worker.gauges()["minigpt_tokens_per_second"] == 0.3
