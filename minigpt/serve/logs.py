"""Requests in, one line each out on standard error: for people, or as JSON."""

import json
import sys
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minigpt.errors import plain
from minigpt.serve.metrics import Metrics
from minigpt.serve.settings import Log

GONE = 499  # the client went away before it had an answer
UNMATCHED = "other"


def facts_of(scope: Scope) -> dict[str, Any]:
    """Return what is written about a request; its route adds what it knows."""
    return scope.setdefault("state", {}).setdefault("facts", {})


def write(facts: dict[str, Any], log: Log) -> None:
    """Write one line; no prompt, no text and no key is ever in it."""
    if log == "json":
        sys.stderr.write(json.dumps(facts) + "\n")
    elif log == "text":
        shown = " ".join(
            f"{name}={plain(value)}" for name, value in facts.items() if name != "time"
        )
        sys.stderr.write(f"{facts['time']} {shown}\n")
    sys.stderr.flush()


def now() -> str:
    """Return the time as a log has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Logged:
    """Writes a line for each request, and counts it."""

    def __init__(self, app: ASGIApp, *, log: Log, metrics: Metrics) -> None:
        self.app, self.log, self.metrics = app, log, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the request answered, and write what came of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, is_whole = time.perf_counter(), GONE, False

        async def noting(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                is_whole = True
            await send(message)

        facts = facts_of(scope)
        try:
            await self.app(scope, receive, noting)
        finally:
            whole = {
                "time": now(), "client": (scope.get("client") or ("",))[0], "method": scope["method"],
                "path": scope["path"], "status": status,
                "seconds": round(time.perf_counter() - began, 4),
            }  # fmt: skip
            if status != GONE and not is_whole:
                whole["cut"] = True
            # A path that somebody made up must not become a name in the metrics.
            route = getattr(scope.get("route"), "path", UNMATCHED)
            self.metrics.count("minigpt_requests_total", route, str(status))
            if self.log != "none":
                write(whole | facts, self.log)
