"""Models by name in, what answers for each of them out: engine, tokenizer, chat template."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.errors import UserError, plain
from minigpt.inference.opening import Decoding, open_engine
from minigpt.inference.template import Template
from minigpt.interop.export import chat_template
from minigpt.interop.loading import load_both, located
from minigpt.model.transformer import GPT
from minigpt.serve.errors import ApiError
from minigpt.serve.metrics import Metrics
from minigpt.serve.settings import ServeSettings
from minigpt.serve.worker import Worker, stopping
from minigpt.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model that answers.

    Attributes:
        name: by which it is asked for.
        model: as it was loaded, to look into.
        tokenizer: of the model.
        template: how a conversation is written for it; None: it does not chat.
        ends: the tokens that end an answer, beside the end of text.
        worker: writes its texts.
        path: where it was loaded from, if from anywhere.
        created: when, in seconds since 1970.
        scoring: held by the request whose prompts are scored.
    """

    name: str
    model: GPT
    tokenizer: Tokenizer
    template: Template | None
    ends: frozenset[int]
    worker: Worker
    path: Path | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    scoring: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def context(self) -> int:
        """How many tokens it sees."""
        return self.model.config.block_size

    def facts(self) -> dict[str, object]:
        """Return what `/v1/models` says of it."""
        return {
            "id": self.name, "object": "model", "created": self.created, "owned_by": "minigpt",
            "max_model_len": self.context, "chat": self.template is not None,
        }  # fmt: skip


class Models:
    """The models of a server; they come and go while it runs."""

    def __init__(
        self,
        settings: ServeSettings,
        decoding: Decoding | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Begin without any.

        Args:
            settings: of the server.
            decoding: how each of them computes; default: auto.
            say: called with what is decided while one is opened.
        """
        self.settings, self.decoding, self.say = settings, decoding or Decoding(), say
        self.metrics = Metrics()
        self._served: Mapping[str, Served] = {}  # never changed, but put in the place of another
        self._changing = threading.Lock()

    def __iter__(self) -> Iterator[Served]:
        """Yield all, in the order in which they came."""
        return iter(tuple(self._served.values()))

    def load(self, run: str, name: str | None = None) -> Served:
        """Add a run, a Hugging Face directory, an adapter, hf:OWNER/NAME or a file of weights.

        Args:
            run: where it lies.
            name: default: the last part of that.

        Raises:
            UserError: it cannot be loaded, or the name is taken.
        """
        name = name or name_of(run)
        self._refuse_taken(name)
        place = located(run)
        path = place if isinstance(place, Path) else None
        return self.add(name, *load_both(place), template=chat_template(place), path=path)

    def add(
        self,
        name: str,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        template: str | None = None,
        path: Path | None = None,
    ) -> Served:
        """Add a model that is loaded already; from now on it answers.

        Raises:
            UserError: the name is taken, the template is damaged, or the model cannot compute as it should.
        """
        self._refuse_taken(name)
        compiled = None if template is None else Template(template, tokenizer)
        ends = frozenset() if compiled is None else compiled.ends()
        engine = open_engine(
            model, tokenizer, self.decoding, slots=self.settings.slots, wait=False, say=self.say
        )
        with self._changing:
            self._refuse_taken(name)  # another may have come meanwhile
            worker = Worker(name, engine, self.settings.queue, self.metrics)
            made = Served(
                name=name, model=model, tokenizer=tokenizer, template=compiled, ends=ends, worker=worker, path=path
            )  # fmt: skip
            self._served = {**self._served, name: made}
        return made

    def remove(self, name: str) -> None:
        """Have a model go; what it writes is ended with an error."""
        with self._changing:
            found = self.get(name)
            self._served = {key: one for key, one in self._served.items() if one is not found}
        found.worker.end_all(ApiError(404, f"the model {plain(name)} was taken away"))
        found.worker.close()

    def get(self, name: str | None) -> Served:
        """Return the model of a name; None: the first.

        Raises:
            ApiError: there is none (404).
        """
        served = self._served
        if name is None and served:
            return next(iter(served.values()))
        if name is None or name not in served:
            raise ApiError(
                404, f"there is no model {plain(name)}; there are {', '.join(map(plain, served)) or 'none'}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return served[name]

    def drain(self) -> None:
        """Take no more requests; what runs goes on."""
        for one in self:
            one.worker.drain()

    def end_all(self) -> None:
        """End what runs, since the server stops."""
        for one in self:
            one.worker.end_all(stopping())

    def close(self) -> None:
        """End all, and the threads."""
        for one in self:
            one.worker.close()

    def metrics_text(self) -> str:
        """Return what Prometheus reads."""
        return self.metrics.text(
            (metric, (one.name,), value)
            for one in self
            for metric, value in one.worker.gauges().items()
        )

    def _refuse_taken(self, name: str) -> None:
        check_names([*self._served, name])


def check_names(names: Sequence[str]) -> None:
    """Refuse a name that two models have.

    Raises:
        UserError: one is doubled.
    """
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(
                f"two models are called {plain(name)}; name one of them: OTHER={plain(name)}"
            )


def name_of(run: str) -> str:
    """Return the name that a model has by where it lies.

    >>> name_of("runs/demo/"), name_of("hf:openai-community/gpt2"), name_of("runs/demo/checkpoints/step-00000250")
    ('demo', 'openai-community/gpt2', 'demo/step-00000250')
    """
    if run.startswith("hf:"):
        return run.removeprefix("hf:")
    path = Path(run).expanduser()
    path = path if path.name else path.resolve()
    if path.parent.name == "checkpoints":
        return f"{path.parent.parent.resolve().name}/{path.name}"
    return path.name
