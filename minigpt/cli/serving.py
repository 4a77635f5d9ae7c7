"""The verb that answers over HTTP: serve."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from minigpt.cli.app import FLAG, JSON, app, finish, say, text_of
from minigpt.cli.settings import DTYPE, QUANTIZE
from minigpt.errors import UserError
from minigpt.extras import require
from minigpt.files import expanded

if TYPE_CHECKING:
    from minigpt.inference.opening import Decoding
    from minigpt.serve.settings import ServeSettings

LIST = Parameter(negative="")


@app.command
def serve(
    run: str,
    /,
    *more: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    insecure: FLAG = False,
    allow_host: Annotated[tuple[str, ...], LIST] = (),
    allow_origin: Annotated[tuple[str, ...], LIST] = (),
    slots: int = 16,
    queue: int = 128,
    max_tokens: int = 4096,
    grace: float = 30.0,
    log: str = "text",
    runs: Path | None = None,
    device: str = "auto",
    dtype: DTYPE = "auto",
    quantize: QUANTIZE = "none",
    compile: FLAG = False,
    as_json: JSON = False,
) -> None:
    """Answer over HTTP as OpenAI's servers do, with a page to write, chat and look inside, until Ctrl-C.

    Example: minigpt serve runs/demo
    Then:    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" -d '{"prompt": "Return "}'

    Parameters
    ----------
    run
        A run, a Hugging Face directory, an adapter, hf:OWNER/NAME, or a file of weights; NAME=RUN gives it a name.
    more
        Further ones, each under its own name.
    host
        The address to listen on; any but 127.0.0.1 needs --api-key-file or --insecure.
    port
        0: one that is free.
    api_key_file
        A file with keys, one a line; clients send one of them as Authorization: Bearer KEY.
    insecure
        Listen on other addresses without asking anybody for a key.
    allow_host
        A further name that the server may be called by, behind a proxy for instance; several times for more.
    allow_origin
        A web page of another place, SCHEME://HOST[:PORT], that may call it from a browser; several times for more.
    slots
        Texts that a model writes at a time.
    queue
        Texts that wait for a slot; beyond that a request gets 429.
    max_tokens
        New tokens of one text at most, where a request lets it go on beyond the context.
    grace
        Seconds that what runs has to end in when the server is told to stop.
    log
        A line for each request on standard error: text, json or none.
    runs
        A folder of runs that the page shows, those that are training with live curves [default: runs, where there is
        such a folder].
    device
        auto, cpu, cuda or mps.
    compile
        Use a compiled step for a text alone; it is made once for a shape, and kept.
    """
    require("serve", "minigpt serve")
    from minigpt.inference.opening import Decoding
    from minigpt.serve.guarding import check_origins
    from minigpt.serve.models import check_names, name_of
    from minigpt.serve.settings import ServeSettings, check_limits, check_open, keys_in

    if wrong := check_origins(allow_origin):
        raise UserError(wrong)
    named = [_named(one) for one in (run, *more)]
    check_names([name or name_of(path) for name, path in named])
    keys = ()
    if api_key_file is not None:
        keys = keys_in(text_of(expanded(api_key_file)), api_key_file)
    settings = ServeSettings(
        host=host, keys=keys, hosts=tuple(name.lower() for name in allow_host), origins=allow_origin,
        slots=slots, queue=queue, most_tokens=max_tokens, grace_seconds=grace, log=log,  # ty: ignore[invalid-argument-type]
    )  # fmt: skip
    check_limits(settings)
    check_open(settings, insecure)
    folder = Path("runs") if runs is None else expanded(runs)
    if runs is not None and not folder.is_dir():
        raise UserError(f"--runs {runs} is no folder; pass one with runs in it")
    decoding = Decoding(device=device, dtype=dtype, quantize=quantize, compile=compile)
    finish(as_json, _answer(named, settings, decoding, folder, port, insecure))


def _answer(
    named: Sequence[tuple[str | None, str]], settings: "ServeSettings", decoding: "Decoding", runs: Path, port: int,
    insecure: bool,
) -> dict[str, object]:  # fmt: skip
    """Answer for these models until told to stop, and return what was true meanwhile."""
    from minigpt.serve.app import make_app
    from minigpt.serve.models import Models
    from minigpt.serve.running import listening_socket, serve
    from minigpt.serve.runs import Runs
    from minigpt.serve.settings import check_open
    from minigpt.serve.site import Site

    with contextlib.closing(listening_socket(settings.host, port)) as at:
        address, number = at.getsockname()[:2]
        settings = dataclasses.replace(settings, host=address)
        check_open(settings, insecure)  # a name may stand for any address
        models = Models(settings, decoding, say)
        with contextlib.closing(models):
            for name, path in named:
                served = models.load(path, name)
                chats = "chats" if served.template else "goes on from a text (no chat template)"
                say(f"{served.name}: context {served.context}, {chats}")
            shown = f"[{address}]" if ":" in address else address
            serve(
                make_app(models, settings, Site(Runs(runs))), settings, at,
                lambda: say(f"listening on http://{shown}:{number}; Ctrl-C stops it"),
            )  # fmt: skip
        say("stopped")
        said = dataclasses.asdict(settings)
        del said["keys"]
        facts = {"host": address, "port": number, "models": [one.name for one in models]}
        return facts | {"settings": said}


def _named(run: str) -> tuple[str | None, str]:
    """Return name and place of NAME=RUN; of a place alone, no name."""
    name, equals, place = run.partition("=")
    if not equals or expanded(run).exists():
        return None, run
    if not name or not place:
        raise UserError(f"{run} is no NAME=RUN; wanted a name, = and a run")
    return name, place
