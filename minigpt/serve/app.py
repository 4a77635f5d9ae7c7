"""Models and settings in, the application out: routes, refusals, metrics, in one place."""

import functools
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from minigpt import __version__
from minigpt.errors import UserError
from minigpt.serve import completions
from minigpt.serve.arrivals import Arrivals
from minigpt.serve.arrivals import router as arrivals_router
from minigpt.serve.errors import on_failure, on_http_error, on_invalid, on_user_error
from minigpt.serve.guarding import Bounded, Guarded
from minigpt.serve.logs import Logged
from minigpt.serve.models import Models
from minigpt.serve.settings import ServeSettings
from minigpt.serve.site import Site
from minigpt.serve.site import router as site_router

health = APIRouter()


def make_app(models: Models, settings: ServeSettings, site: Site | None = None) -> FastAPI:
    """Return the application that answers for these models; they may come and go while it does.

    Args:
        models: at first.
        settings: of the server.
        site: what its page shows beside them.
    """
    app = FastAPI(
        title="minigpt", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.models, app.state.settings, app.state.is_stopping = models, settings, False
    site = site or Site()
    app.state.site, app.state.arrivals = site, Arrivals(models, settings, site.bounds)
    for router in (completions.router, health, site_router, arrivals_router):
        app.include_router(router)
    app.openapi = functools.cache(functools.partial(_described, app))
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(UserError, on_user_error)
    app.add_exception_handler(Exception, on_failure)
    # The last one is the outermost.
    app.add_middleware(Bounded, settings=settings)
    app.add_middleware(Guarded, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["Retry-After"],  # the OpenAI clients send many of their own
        )  # fmt: skip
    app.add_middleware(Logged, log=settings.log, metrics=models.metrics)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the description of all paths; a body that is not what was wanted is a 400 here, and never a 422."""
    found = FastAPI.openapi(app)
    for methods in found["paths"].values():
        for method in methods.values():
            method["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        found.get("components", {}).get("schemas", {}).pop(name, None)
    return found


@health.head("/health", include_in_schema=False)
@health.get("/health")
async def is_healthy(request: Request) -> JSONResponse:
    """Return whether requests are taken."""
    state = request.app.state
    is_well = all(one.worker.is_alive for one in state.models)
    said = "stopping" if state.is_stopping else "ok" if is_well else "failed"
    return JSONResponse({"status": said}, 200 if said == "ok" else 503)


@health.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Return what Prometheus reads."""
    text = request.app.state.models.metrics_text()
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
