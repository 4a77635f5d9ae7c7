"""Chunks in, server-sent events out, to a client that may go away at any moment."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from minigpt.serve.errors import ApiError

DONE = "data: [DONE]\n\n"


def event(content: Any) -> str:
    """Return one event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Yield chunks as events, an error as OpenAI's client knows it, and the end."""
    try:
        async for chunk in chunks:
            yield event(chunk)
    except ApiError as error:  # the status has been sent long ago
        yield event(error.body())
        return
    yield DONE


class Streamed(StreamingResponse):
    """Events as they come; whatever ends them, `at_end` is called."""

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], at_end: Callable[[], None]) -> None:
        headers = {
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }  # a proxy is not to collect them
        super().__init__(events(chunks), media_type="text/event-stream", headers=headers)
        self.at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.at_end()
