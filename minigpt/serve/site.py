"""The page, and what it asks for beside OpenAI's paths: models, settings, alternatives, views of the inside, runs.

The files of the page are the package's own and stand in a table: a name that is not in it leads nowhere. Each answer is
JSON, as the functions that it comes from describe it.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from minigpt import config
from minigpt.config import SampleConfig
from minigpt.errors import UserError
from minigpt.inside.views import look, most_tokens
from minigpt.interop.causal import CausalLM, unsupported
from minigpt.model.size import parameter_count
from minigpt.page import template
from minigpt.rundir import RunDir
from minigpt.serve.alternatives import alternatives
from minigpt.serve.errors import ApiError
from minigpt.serve.models import Models, Served
from minigpt.serve.runs import MOST_COMPARED, Over, Runs
from minigpt.serve.schema import CompletionRequest, TokenId
from minigpt.serve.uploads import Bounds, amount

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
# Nothing from elsewhere, nothing inline; {} is who may show the page in a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors {}"
)
ANYWHERE = "* vscode-webview: file:"  # the star stands for web pages alone
Result = TypeVar("Result")
router = APIRouter()


@dataclass(frozen=True)
class Site:
    """What the page shows beside the models.

    Attributes:
        runs: a folder.
        bounds: of what is uploaded.
        is_framed: whether pages of other places may show it in a frame, as a notebook does.
    """

    runs: Runs = field(default_factory=lambda: Runs(None))
    bounds: Bounds = field(default_factory=Bounds)
    is_framed: bool = False
    # Of what takes all cores for a moment, one at a time; the texts that are written go on beside it.
    turn: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))


# -------------------------------------------------------------------------------------------------------------- files


@functools.cache
def files() -> dict[str, bytes]:
    """Return the files of the page by name."""
    own = resources.files("minigpt.serve") / "page"
    inside = resources.files("minigpt.inside")
    found = {
        file.name: file.read_bytes() for file in own.iterdir() if file.name.endswith(tuple(TYPES))
    }
    found |= {name: template(name).encode() for name in ("house.css", "captions.js")}
    return found | {name: (inside / name).read_bytes() for name in ("look.css", "look.js")}


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def index(request: Request) -> Response:
    """Return the page."""
    return _file(request, "index.html")


@router.get("/page/{name}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    """Return one of its files."""
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    content = files().get(name)
    if content is None:
        raise ApiError(404, "the page has no such file")
    framing = ANYWHERE if request.app.state.site.is_framed else "'none'"
    headers = {"Content-Security-Policy": POLICY.format(framing), "Cache-Control": "no-cache"}
    return Response(content, media_type=TYPES[Path(name).suffix], headers=headers)


# -------------------------------------------------------------------------------------------------------------- facts


def drawing_settings(most_tokens: int) -> list[dict[str, Any]]:
    """Return the settings of drawing that a request may have, each with its sentence, default and range."""
    kinds = typing.get_type_hints(SampleConfig)
    names = {int: "integer", float: "number", tuple[str, ...]: "texts"}
    return [
        {
            "name": item.name,
            "doc": item.metadata["doc"],
            "default": item.default,
            "kind": names.get(kinds[item.name], "choice"),
            "choices": typing.get_args(kinds[item.name]) if kinds[item.name] not in names else [],
            "minimum": item.metadata["minimum"],
            "maximum": most_tokens if item.name == "max_tokens" else item.metadata["maximum"],
        }
        for item in dataclasses.fields(SampleConfig)
        if item.name in CompletionRequest.model_fields and item.name != "prompt"
    ]


@router.get("/api/page")
async def page_facts(request: Request) -> dict[str, Any]:
    """Return what the page needs to know of the server."""
    state = request.app.state
    bounds = state.arrivals.bounds
    return {
        "settings": drawing_settings(state.settings.most_tokens),
        "upload": {"bytes": bounds.bytes, "words": amount(bounds.bytes), "models": bounds.models},
        "most_compared": MOST_COMPARED,
    }


@router.get("/api/models")
def page_models(request: Request) -> dict[str, Any]:
    """Return the models, with what the page shows of them."""
    models: Models = request.app.state.models
    names: dict[str, str] = request.app.state.arrivals.names
    return {"models": [_facts(one, names.get(one.name)) for one in models]}


def _facts(served: Served, label: str | None) -> dict[str, Any]:
    inner, c = isinstance(served.model, CausalLM), served.model.config
    shape = (
        ""
        if inner
        else f"{parameter_count(c):,} parameters, {c.n_layer} layers, context {c.block_size:,}"
    )
    return {
        "id": served.name, "label": label or served.name, "uploaded": label is not None, "shape": shape,
        "chat": served.template is not None, "looks": 0 if inner else most_tokens(served.model),
        "prompt": _own_prompt(served.path),
    }  # fmt: skip


def _own_prompt(path: Path | None) -> str:
    """Return the prompt that a run draws its samples from, as the first one to try."""
    if path is None or not (path / "run.toml").is_file():
        return ""
    try:
        return RunDir(path).config.sample.prompt.lstrip("\n")
    except UserError:  # the settings were damaged since; the model answers all the same
        return ""


# ------------------------------------------------------------------------------------------------------- the inside


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str | None = None


class AlternativesRequest(_Asked):
    """The body of `POST /api/alternatives`: a text up to the token in question, and how it was drawn."""

    ids: Annotated[list[TokenId], Field(min_length=2, max_length=2**16)]
    begin: int = Field(ge=1, description="how many of the ids are the prompt")
    settings: dict[str, Any] = Field(default_factory=dict, max_length=40)


class LookRequest(_Asked):
    """The body of `POST /api/look`."""

    text: str


@router.post("/api/alternatives")
async def show_alternatives(request: Request, body: AlternativesRequest) -> dict[str, Any]:
    """Return what could have stood in the place of the last token of a text."""
    served = _looked_into(request, body.model)
    settings = config.build([("the request", {"sample": body.settings})]).sample
    most, last = served.tokenizer.vocab_size, len(body.ids) - 1
    if max(body.ids) >= most or body.begin > last:
        raise ApiError(
            400, f"wanted ids below {most}, and a begin of at most {last}, so that there is a token that was drawn",
            param="ids",
        )  # fmt: skip
    return await _in_turn(
        request,
        lambda: alternatives(served.model, served.tokenizer, body.ids, body.begin, last, settings),
    )


@router.post("/api/look")
async def look_inside(request: Request, body: LookRequest) -> Response:
    """Return what goes on inside a model for a text, as `renderLook` takes it."""
    served = _looked_into(request, body.model)

    def looked() -> Response:
        return JSONResponse(look(served.model, served.tokenizer, body.text).packed)

    return await _in_turn(request, looked)


def _looked_into(request: Request, name: str | None) -> Served:
    served: Served = request.app.state.models.get(name)
    if isinstance(served.model, CausalLM):
        raise unsupported(served.model.inner.config.model_type, "looked into")
    return served


async def _in_turn(request: Request, work: Callable[[], Result]) -> Result:
    return await to_thread.run_sync(work, limiter=request.app.state.site.turn)


# --------------------------------------------------------------------------------------------------------------- runs

Name = Annotated[str, Query(max_length=1000)]


@router.get("/api/runs")
def list_runs(request: Request) -> dict[str, Any]:
    """Return a line on each run."""
    return {"runs": _runs(request).listed()}


@router.get("/api/runs/shown")
def show_run(request: Request, name: Name) -> dict[str, Any]:
    """Return one run as it stands."""
    return _runs(request).view(name)


@router.get("/api/runs/compared")
def compare_runs(
    request: Request,
    name: Annotated[list[Name], Query(min_length=1, max_length=MOST_COMPARED)],
    over: Over = "step",
) -> dict[str, Any]:
    """Return several runs in one chart."""
    return _runs(request).comparison(name, over)


def _runs(request: Request) -> Runs:
    return request.app.state.site.runs
