"""What a request did wrong in, an answer in OpenAI's shape out: {"error": {message, type, param, code}}."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from minigpt.config import did_you_mean
from minigpt.errors import UserError, plain
from minigpt.serve.schema import FIELDS

TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
}  # fmt: skip


class ApiError(HTTPException):
    """A request that is not carried out, and why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """Return what the client reads."""
        return error_body(self.status_code, self.detail, self.param, self.code)

    def response(self) -> JSONResponse:
        """Return it as a response."""
        return JSONResponse(self.body(), self.status_code, self.headers)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a path or a method that is not there, and what a route refuses."""
    assert isinstance(error, HTTPException)
    if isinstance(error, ApiError):
        return error.response()
    said = {404: "there is nothing at this path", 405: "this path does not take this method"}
    message = said.get(error.status_code, str(error.detail))
    return JSONResponse(error_body(error.status_code, message), error.status_code, error.headers)


async def on_user_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what the engine refuses: a character that is not known, a conversation that the template does not take."""
    assert isinstance(error, UserError)
    return JSONResponse(error_body(400, plain(error, 1000)), 400)


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a body that is not what was wanted; each field once, by its name.

    Of a field of several types each is tried: that it is of none is said only where nothing else is wrong with it.
    """
    assert isinstance(error, RequestValidationError)
    found: dict[str, str] = {}
    problems = error.errors()
    better = {_union(problem["loc"]) for problem in problems if not _is_of_type(problem)}
    for problem in problems:
        if _is_of_type(problem) and _union(problem["loc"]) in better:
            continue
        found.setdefault(_place(problem["loc"]), _sentence(problem))
    message = "; ".join(f"{name}: {said}" if name else said for name, said in found.items())
    return JSONResponse(error_body(400, message[:2000], next(iter(found)) or None), 400)


async def on_failure(request: Request, error: Exception) -> JSONResponse:
    """Answer a defect of ours, without a word on what it was; the log has it."""
    return JSONResponse(error_body(500, "the server has failed; its log says why"), 500)


def _place(loc: Iterable[Any]) -> str:
    """Return the name of a field, such as messages.0.role, without the kinds of a union that were tried."""
    inner = list(loc)[1:]
    known = [str(part) for part in inner[1:] if isinstance(part, int) or part in FIELDS]
    return ".".join([plain(part, 80) for part in inner[:1] if isinstance(part, str)] + known)


def _is_of_type(problem: Mapping[str, Any]) -> bool:
    return problem["type"].endswith("_type")


def _union(loc: Sequence[Any]) -> tuple[Any, ...]:
    """Return the part of a place before the first kind of a union that was tried there; the whole, if there is none."""
    inner = itertools.takewhile(lambda part: isinstance(part, int) or part in FIELDS, loc[2:])
    return (*loc[:2], *inner)


def _sentence(problem: Mapping[str, Any]) -> str:
    name = str(problem["loc"][-1])
    if problem["type"] == "extra_forbidden":
        return f"this server does not know the field{did_you_mean(name, FIELDS)}"
    if problem["type"] == "json_invalid":
        return f"the body is no JSON ({problem['ctx']['error']})"
    if problem["type"] == "missing" and len(problem["loc"]) == 1:
        return "there is no body; wanted JSON, with Content-Type: application/json"
    if problem["type"] == "model_attributes_type" and len(problem["loc"]) == 1:
        return "the body is no JSON object; wanted one, with Content-Type: application/json"
    return str(problem["msg"])
