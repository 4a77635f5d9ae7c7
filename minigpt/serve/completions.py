"""OpenAI's three paths: requests in, texts out, whole or as they are made.

/v1/models   /v1/completions   /v1/chat/completions
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from minigpt import __version__
from minigpt.inference.picking import Picked
from minigpt.serve.asking import Asked, ask_chat, ask_completion
from minigpt.serve.choices import Choice, Scored, chat_logprobs, completion_logprobs, echoed
from minigpt.serve.logs import GONE, facts_of
from minigpt.serve.models import Models
from minigpt.serve.schema import ChatRequest, CompletionRequest
from minigpt.serve.scoring import score
from minigpt.serve.streaming import Streamed
from minigpt.serve.worker import Reply, Update

_PROBLEM = {"type": "object", "properties": {"error": {"type": "object"}}, "required": ["error"]}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": _PROBLEM}}}
    for status, what in {
        400: "the request cannot be carried out", 401: "no key of this server", 403: "a foreign page",
        404: "no such model", 408: "the body came too slowly", 413: "the body is too large",
        421: "a foreign name of the host", 429: "the queue is full", 503: "the server is stopping",
    }.items()
}  # fmt: skip
router = APIRouter(prefix="/v1", responses=PROBLEMS)
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Return all models."""
    return {"object": "list", "data": [one.facts() for one in models_of(request)]}


@router.get("/models/{name:path}")
async def show_model(request: Request, name: str) -> dict[str, Any]:
    """Return one model."""
    return models_of(request).get(name).facts()


@router.post("/completions", responses=STREAM)
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Go on from a text."""
    return await _answer(request, body, ask_completion, _Completions)


@router.post("/chat/completions", responses=STREAM)
async def answer(request: Request, body: ChatRequest) -> Response:
    """Answer in a conversation."""
    return await _answer(request, body, ask_chat, _Chat)


def models_of(request: Request) -> Models:
    """Return the models of the server that a request came to."""
    return request.app.state.models


async def _answer(
    request: Request, body: Any, ask: Callable[..., Asked], shape: "type[_Answer]"
) -> Response:
    models = models_of(request)
    served = models.get(body.model)
    asked = await asyncio.to_thread(ask, body, served, models.settings)
    reply = served.worker.submit(asked.asks)
    made = shape(body, asked, reply, facts_of(request.scope))
    if body.stream:
        return Streamed(made.chunks(), made.close)
    try:
        return await _unless_gone(request, made)
    finally:
        made.close()


async def _unless_gone(request: Request, made: "_Answer") -> Response:
    """Return the whole answer; where the client goes away before it is there, nobody reads what is returned."""
    whole = asyncio.create_task(made.whole())
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(whole.result()) if whole.done() else Response(status_code=GONE)
    finally:
        whole.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Answer:
    """What comes back for one request, in one of OpenAI's two shapes."""

    prefix = kind = chunk_kind = ""

    def __init__(self, request: Any, asked: Asked, reply: Reply, facts: dict[str, Any]) -> None:
        self.request, self.asked, self.reply, self.facts = request, asked, reply, facts
        served, each = asked.served, len(asked.asks) // len(asked.prompts)
        self.tokenizer = served.tokenizer
        own_end = [] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
        self.choices = [
            Choice(index, self.tokenizer, ask.ends.union(own_end), asked.prompts[index // each])
            for index, ask in enumerate(asked.asks)
        ]
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.name,
            "system_fingerprint": f"minigpt-{__version__}",
        }  # fmt: skip

    async def whole(self) -> dict[str, Any]:
        """Return the answer once all texts have ended."""
        scored: list[list[Scored]] = [[] for _ in self.choices]
        async for updates in self.reply.updates():
            for choice, of_it in self._by_choice(updates):
                scored[choice.index] += choice.take(of_it)[1]
        await self.score_prompts()
        found = [
            self.choice(choice, scored) | self.prompt_ids(choice) | {"finish_reason": choice.finish}
            for choice, scored in zip(self.choices, scored, strict=True)
        ]
        return self.head | {"object": self.kind, "choices": found, "usage": self.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer as it is made."""
        options = self.request.stream_options
        head = self.head | {"object": self.chunk_kind}
        extra = {"usage": None} if options and options.include_usage else {}
        for choice in self.choices:
            if begin := self.begin(choice):
                yield head | {"choices": [begin]} | extra
        async for updates in self.reply.updates():
            for choice, of_it in self._by_choice(updates):
                piece, scored = choice.take(of_it)
                if piece or scored:
                    delta = self.delta(choice, piece, scored)
                    yield head | {"choices": [delta | {"finish_reason": None}]} | extra
                if choice.finish:
                    delta = self.delta(choice, "", [])
                    yield head | {"choices": [delta | {"finish_reason": choice.finish}]} | extra
        if extra:
            yield head | {"choices": [], "usage": self.usage()}

    def close(self) -> None:
        """Have the texts end that still go on, and note what there was for the log."""
        self.asked.served.worker.cancel(self.reply)
        reasons = sorted({choice.finish or "cancelled" for choice in self.choices})
        first = self.reply.first_seconds
        self.facts |= {
            "model": self.asked.served.name, "stream": self.request.stream, **self.usage(),
            "finish": ",".join(reasons), "first_token_seconds": first and round(first, 4),
        }  # fmt: skip

    def usage(self) -> dict[str, int]:
        """Return the tokens so far."""
        prompt, drawn = self.asked.prompt_tokens, sum(one.tokens for one in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}

    def _by_choice(self, updates: list[Update]) -> list[tuple[Choice, list[Update]]]:
        """Return what is new of each text: what waited together goes out together."""
        grouped: dict[int, list[Update]] = {}
        for update in updates:
            grouped.setdefault(update.number, []).append(update)
        return [(self.choices[number], of_it) for number, of_it in grouped.items()]

    def prompt_ids(self, choice: Choice) -> dict[str, Any]:
        """Return the ids that a text goes on from, where they are asked for; vLLM has them under this name."""
        wanted = self.request.return_token_ids
        return {"prompt_token_ids": list(self.asked.asks[choice.index].ids)} if wanted else {}

    def token_ids(self, scored: list[Scored]) -> dict[str, Any]:
        """Return the ids of tokens, where they are asked for."""
        wanted = self.request.return_token_ids
        return {"token_ids": [one.picked.token for one in scored]} if wanted else {}

    async def score_prompts(self) -> None:
        """Work out the log-probabilities of the prompts, where they are asked for."""

    def begin(self, choice: Choice) -> dict[str, Any] | None:
        """Return what stands before a text in a stream, if anything does."""
        raise NotImplementedError

    def choice(self, choice: Choice, scored: list[Scored]) -> dict[str, Any]:
        """Return a whole text."""
        raise NotImplementedError

    def delta(self, choice: Choice, piece: str, scored: list[Scored]) -> dict[str, Any]:
        """Return what is new of a text."""
        raise NotImplementedError


class _Completions(_Answer):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    async def score_prompts(self) -> None:
        top, each = self.request.logprobs, self.request.n
        if not self.request.echo or top is None:
            return
        model, known = self.asked.served.model, self.tokenizer.vocab_size
        # One at a time: where the client goes away, the next is not begun.
        for number, ask in enumerate(self.asked.asks[::each]):
            async with self.asked.served.scoring:
                thought = await asyncio.to_thread(score, model, ask.ids, known, top)
            tokens, text = [Picked(ask.ids[0]), *thought], self.asked.prompts[number]
            prompt = echoed(self.tokenizer, tokens, text)
            for choice in self.choices[number * each : (number + 1) * each]:
                choice.prompt = prompt

    def begin(self, choice: Choice) -> dict[str, Any] | None:
        prompt = self.prompt_ids(choice)
        if not choice.text and not prompt:
            return None
        return self.delta(choice, choice.text, []) | prompt | {"finish_reason": None}

    def choice(self, choice: Choice, scored: list[Scored]) -> dict[str, Any]:
        wanted = self.request.logprobs is not None
        found = completion_logprobs(self.tokenizer, choice.prompt + scored) if wanted else None
        named = {"index": choice.index, "text": choice.text, "logprobs": found}
        return named | self.token_ids(scored)

    def delta(self, choice: Choice, piece: str, scored: list[Scored]) -> dict[str, Any]:
        return self.choice(choice, scored) | {"text": piece}


class _Chat(_Answer):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def begin(self, choice: Choice) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        begun = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        return begun | self.prompt_ids(choice)

    def choice(self, choice: Choice, scored: list[Scored]) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        named = {"index": choice.index, "message": message, "logprobs": self._logprobs(scored)}
        return named | self.token_ids(scored)

    def delta(self, choice: Choice, piece: str, scored: list[Scored]) -> dict[str, Any]:
        delta = {"content": piece} if piece or scored else {}
        logprobs = self._logprobs(scored) if scored else None
        return {"index": choice.index, "delta": delta, "logprobs": logprobs} | self.token_ids(
            scored
        )

    def _logprobs(self, scored: list[Scored]) -> dict[str, Any] | None:
        return chat_logprobs(self.tokenizer, scored) if self.request.logprobs else None
