"""Uploads in, models that answer out: one at a time, at most so many, each in a folder of its own that soon is gone.

    POST /api/upload?name=…&tokenizer=BYTES&settings=BYTES    body: tokenizer.json, config.json, then the weights
    -> {"stage": "unpack", …}  {"stage": "blueprint", …}  {"stage": "mapping", …}  {"stage": "ready", "model": …}
    DELETE /api/upload?model=…

A line {"error": sentence} ends an upload that is refused after its stages have begun. What is on the disk is removed
when the model is in memory, or when it is not to be.
"""

import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from minigpt.errors import UserError, plain
from minigpt.serve.errors import ApiError
from minigpt.serve.models import Models
from minigpt.serve.portal import Opened, Stage, open_upload
from minigpt.serve.settings import ServeSettings
from minigpt.serve.uploads import SETTINGS, TOKENIZER, Bounds, check_sizes, receive

LONGEST_NAME = 60  # characters of a file's name that are shown
router = APIRouter(prefix="/api/upload")
_log = logging.getLogger(__name__)


class Arrivals:
    """The models that were uploaded.

    Attributes:
        bounds: of each.
        names: what a person calls each of them, by the name under which it answers.
    """

    def __init__(self, models: Models, settings: ServeSettings, bounds: Bounds) -> None:
        most = min(bounds.bytes, settings.most_upload_bytes)
        self.models, self.bounds = models, dataclasses.replace(bounds, bytes=most)
        self.names: dict[str, str] = {}
        self._count = 0
        self._now: Path | None = None  # the folder of what is on its way

    def begin(self, size: int | None, beside: Mapping[str, int]) -> Path:
        """Return a new folder for one upload; no other is taken until `end`.

        Raises:
            ApiError: there is no room for another, or it is too large.
        """
        if self._now is not None:
            raise ApiError(
                429, "another upload is on its way; send this one when it has arrived",
                code="upload_busy", headers={"Retry-After": "5"},
            )  # fmt: skip
        if len(self.names) >= self.bounds.models:
            raise ApiError(
                409, f"{len(self.names)} models were uploaded, and no more are kept; remove one of them",
                code="too_many_uploads",
            )  # fmt: skip
        try:
            check_sizes(size, beside, self.bounds)
        except UserError as error:
            raise ApiError(413, str(error), code="upload_too_large") from None
        self._now = Path(tempfile.mkdtemp(prefix="minigpt-upload-"))
        return self._now

    def add(self, opened: Opened, name: str) -> str:
        """Have a model answer; return the name by which it does."""
        self._count += 1
        own = f"upload-{self._count}"
        self.models.add(own, opened.model, opened.tokenizer, template=opened.template)
        self.names[own] = name
        return own

    def remove(self, name: str) -> None:
        """Take an uploaded model away.

        Raises:
            ApiError: there is none of this name (404).
        """
        if self.names.pop(name, None) is None:
            raise ApiError(404, f"no model {plain(name)} was uploaded", code="model_not_found")
        self.models.remove(name)

    def end(self, folder: Path) -> None:
        """Remove the folder of an upload, if that is still to be done; the next may begin."""
        if self._now == folder:
            shutil.rmtree(folder, ignore_errors=True)
            self._now = None

    async def stages(
        self, folder: Path, name: str, given: Mapping[str, Any]
    ) -> AsyncGenerator[str]:
        """Yield a line of JSON for each stage of an upload that was received."""
        steps = open_upload(folder, name, self.bounds, given)

        def following() -> dict[str, Any]:
            try:
                try:
                    stage: Stage = next(steps)
                except StopIteration as end:
                    return {"stage": "ready", "sentences": [], "model": self.add(end.value, name)}
            except UserError as error:
                return {"error": str(error)}
            except (
                Exception
            ):  # a defect of ours; the stream has begun, and is to have its last line
                _log.exception("an upload cannot be loaded")
                return {"error": f"{name} cannot be loaded; the log of the server says why"}
            return {"stage": stage.name, "sentences": stage.sentences}

        is_over = False
        while not is_over:
            said = await to_thread.run_sync(following)
            is_over = "error" in said or said["stage"] == "ready"
            if is_over:  # who reads the last line finds nothing left
                self.end(folder)
            yield json.dumps(said) + "\n"


def shown_name(name: str) -> str:
    """Return the name of a file as it may be shown; it is used for nothing else.

    >>> shown_name("C:\\\\models\\\\my model.pth"), shown_name("../../etc/passwd"), shown_name("")
    ('my model.pth', 'passwd', 'the file')
    """
    last = PurePosixPath(name.replace("\\", "/")).name
    return plain(last, LONGEST_NAME) or "the file"


class _Lines(StreamingResponse):
    """The stages of an upload as they come; whatever ends them, its folder is removed."""

    def __init__(
        self, arrivals: Arrivals, folder: Path, name: str, given: Mapping[str, Any]
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        lines = arrivals.stages(folder, name, given)
        super().__init__(lines, media_type="application/x-ndjson", headers=headers)
        self._arrivals, self._folder = arrivals, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._arrivals.end(self._folder)


Size = Annotated[int, Query(ge=0, le=2**40)]


@router.post("")
async def upload(
    request: Request,
    name: Annotated[str, Query(max_length=1000)] = "",
    tokenizer: Size = 0,
    settings: Size = 0,
    n_head: Annotated[int | None, Query(ge=1, le=2**14)] = None,
) -> Response:
    """Take a model, and tell its stages as they are reached."""
    arrivals: Arrivals = request.app.state.arrivals
    length = request.headers.get("content-length", "")
    beside = {TOKENIZER: tokenizer, SETTINGS: settings}
    folder = arrivals.begin(int(length) if length.isdecimal() else None, beside)
    given = {} if n_head is None else {"n_head": n_head}
    try:
        await receive(request.stream(), beside, folder, arrivals.bounds)
    except BaseException:
        arrivals.end(folder)
        raise
    return _Lines(arrivals, folder, shown_name(name), given)


@router.delete("")
async def remove(request: Request, model: Annotated[str, Query(max_length=200)]) -> dict[str, str]:
    """Take an uploaded model away."""
    arrivals: Arrivals = request.app.state.arrivals
    await to_thread.run_sync(arrivals.remove, model)
    return {"removed": model}
