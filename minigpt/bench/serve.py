"""Shapes in; tokens per second and the time to a first token out, of one client and of many at once, over HTTP.

The server is a process of its own, as it is in use; its clients share the machine with it. Each client sends one
request after the other and waits for its end. Weights and prompts are random, greedy, without an end of text, so that
every request draws as many tokens.
"""

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from minigpt.bench.rows import Row, row
from minigpt.bench.sample import SHAPES, write_random_model
from minigpt.config import ModelConfig
from minigpt.errors import RunError, UserError
from minigpt.inference.opening import Decoding

SERVED = {
    "tiny": ModelConfig(vocab_size=512, block_size=512, n_layer=2, n_head=4, n_embd=128),
    "12m": SHAPES["12m"],
}
PROMPT_TOKENS = 16
START_SECONDS = 120.0
LONGEST_SECONDS = 300.0  # for one answer

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Load:
    """What came of so many clients.

    Attributes:
        tokens_per_second: of all together.
        first_seconds: from each request to its first token.
    """

    tokens_per_second: float
    first_seconds: list[float]


def bench_serve(
    *,
    shapes: Collection[str] = tuple(SERVED),
    clients: Collection[int] = (1, 64),
    tokens: int = 64,
    requests: int = 4,
    slots: int = 16,
    stream: bool = True,
    say: Say = lambda line: None,
) -> list[Row]:
    """Return rows of figures.

    Args:
        shapes: of `SERVED`.
        clients: how many at once; several counts, one after the other.
        tokens: new ones of each request.
        requests: of each client.
        slots: of the server.
        stream: whether answers come as they are made.
        say: called with what is going on.

    Raises:
        UserError: a name that is not known.
        RunError: the server does not start.
    """
    if unknown := [name for name in shapes if name not in SERVED]:
        raise UserError(f"--shape {unknown[0]} is not known; wanted {', '.join(SERVED)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            write_random_model(Path(folder) / shape, SERVED[shape], ())
            with _served(Path(folder) / shape, slots) as port:
                _load(port, 1, tokens, 1, stream)  # warm
                for count in clients:
                    say(f"{shape}, {count} at once …")
                    found = _load(port, count, tokens, requests, stream)
                    rows += _rows(f"{shape} x {count}", found)
    return rows


def _rows(what: str, found: Load) -> Iterator[Row]:
    yield row(f"tokens {what}", "minigpt", found.tokens_per_second, "tokens/s")
    if found.first_seconds:
        median = statistics.median(found.first_seconds)
        yield row(f"first token {what}", "minigpt", 1000 * median, "ms")


@contextlib.contextmanager
def _served(folder: Path, slots: int) -> Generator[int]:
    """Serve a model in a process of its own; yield the port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, slots, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(START_SECONDS):
            raise RunError(f"the server did not start in {START_SECONDS:.0f} seconds")
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(folder: Path, slots: int, answer: Connection) -> None:
    """Serve until the process is told to stop."""
    from minigpt.serve.app import make_app
    from minigpt.serve.models import Models
    from minigpt.serve.running import listening_socket, serve
    from minigpt.serve.settings import ServeSettings

    settings = ServeSettings(slots=slots, log="none", grace_seconds=1.0)
    models = Models(settings, Decoding(device="cpu", dtype="fp32"))
    models.load(str(folder))
    at = listening_socket(settings.host, 0)
    port = at.getsockname()[1]
    serve(make_app(models, settings), settings, at, lambda: answer.send(port))
    models.close()


def _load(port: int, clients: int, tokens: int, requests: int, stream: bool) -> Load:
    """Have so many clients send their requests, all at once."""
    dice = torch.Generator().manual_seed(clients)
    prompts = torch.randint(256, (clients, PROMPT_TOKENS), generator=dice).tolist()
    bodies = [
        {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": stream}
        for prompt in prompts
    ]  # fmt: skip
    first: list[float] = []

    async def client(body: dict[str, object]) -> None:
        for _ in range(requests):
            first.append(await _ask(port, body))

    async def all_clients() -> None:
        await asyncio.gather(*map(client, bodies))

    began = time.perf_counter()
    asyncio.run(all_clients())
    seconds = time.perf_counter() - began
    return Load(clients * requests * tokens / seconds, first if stream else [])


async def _ask(port: int, body: dict[str, object]) -> float:
    """Send one request and read its answer to the end; return the seconds to the first event, or to the end."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    async with asyncio.timeout(LONGEST_SECONDS):
        began, first = time.perf_counter(), None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RunError(f"the server answered {status.decode(errors='replace').strip()}")
        async for line in reader:
            if first is None and line.startswith(b"data: "):
                first = time.perf_counter() - began
        writer.close()
    return time.perf_counter() - began if first is None else first
