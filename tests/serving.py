"""Servers on a real socket, and what speaks to them: for several tests."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from minigpt.inference.opening import Decoding
from minigpt.model.transformer import GPT
from minigpt.serve.app import make_app
from minigpt.serve.models import Models
from minigpt.serve.running import serving
from minigpt.serve.settings import ServeSettings
from minigpt.serve.site import Site
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer

from .conftest import tiny
from .test_conversation import CHATML

BYTES = bpe_tokenizer([])
LETTERS = char_tokenizer([chr(97 + i) for i in range(26)])
JSON = {"Content-Type": "application/json"}
PATIENCE = 30.0  # seconds; nothing takes so long


def drawn(seed: int = 0, **shape: Any) -> GPT:
    """Return a model whose texts depend on all that they may depend on."""
    torch.manual_seed(seed)
    made = GPT(tiny(**({"vocab_size": 259, "block_size": 256} | shape)))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


@dataclass(frozen=True)
class World:
    """A server that runs.

    Attributes:
        url: where.
        models: that it serves.
    """

    url: str
    models: Models

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and body of an answer; JSON is read."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        ) as connection:
            connection.request(method, path, content, JSON | (headers or {}))
            answer = connection.getresponse()
            found = answer.read()
        named = {name.lower(): value for name, value in answer.getheaders()}
        is_json = named.get("content-type") == "application/json"
        return answer.status, named, json.loads(found) if is_json and found else found.decode()

    def complete(self, prompt: Any = "a", **fields: Any) -> tuple[int, dict[str, str], Any]:
        """Ask the first model for a text."""
        return self.ask("POST", "/v1/completions", {"prompt": prompt} | fields)

    def gauge(self, name: str, model: str = "plain") -> float:
        """Return what is measured at this moment."""
        return self.models.get(model).worker.gauges()[f"minigpt_{name}"]


@contextlib.contextmanager
def world(site: Site | None = None, **settings: Any) -> Generator[World]:
    """Serve three models: plain, chat (with a template), letters (26 of them)."""
    chosen = ServeSettings(**({"log": "none", "grace_seconds": 2.0} | settings))
    models = Models(chosen, Decoding(device="cpu", dtype="fp32"))
    models.add("plain", drawn(), BYTES)
    models.add("chat", drawn(1), BYTES, template=CHATML)
    models.add("letters", drawn(2, vocab_size=27, block_size=32), LETTERS)
    with contextlib.closing(models), serving(make_app(models, chosen, site), chosen) as url:
        yield World(url, models)


def until(claim: Callable[[], bool]) -> None:
    """Wait until a claim about another thread is true."""
    ends, never = time.monotonic() + PATIENCE, threading.Event()
    while not claim():
        assert time.monotonic() < ends, "it never got true"
        never.wait(0.005)


def tokenizer_of(model: GPT) -> Tokenizer:
    return BYTES if model.config.vocab_size == 259 else LETTERS
