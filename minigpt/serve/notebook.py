"""A call in a notebook in, the page in a frame out: choose a file of weights, write with it."""

import atexit
import contextlib
import html
import secrets

from minigpt.extras import require

HEIGHT = 760  # pixels of a notebook's output


class Page:
    """A server in a thread of this process, and the address of its page.

    Attributes:
        url: with the key that this server alone asks for; it listens on this machine alone.
    """

    def __init__(self, runs: tuple[str, ...], height: int) -> None:
        """Start the server.

        Args:
            runs: models to begin with, as `minigpt.load` takes them by name.
            height: of the frame, in pixels.

        Raises:
            UserError: a model cannot be loaded.
        """
        from minigpt.serve.app import make_app
        from minigpt.serve.models import Models
        from minigpt.serve.running import serving
        from minigpt.serve.settings import ServeSettings
        from minigpt.serve.site import Site

        key = secrets.token_urlsafe(24)
        settings = ServeSettings(keys=(key,), log="none", grace_seconds=0.0)
        self._open, self._height = contextlib.ExitStack(), height
        models = self._open.enter_context(contextlib.closing(Models(settings)))
        try:
            for run in runs:
                models.load(run)
            app = make_app(models, settings, Site(is_framed=True))
            address = self._open.enter_context(serving(app, settings))
        except BaseException:
            self._open.close()
            raise
        view = "write" if runs else "portal"
        self.url = f"{address}/#key={key}&{view}"
        atexit.register(self.close)

    def close(self) -> None:
        """Stop the server; the models that were brought go with it."""
        self._open.close()
        atexit.unregister(self.close)

    def _repr_html_(self) -> str:
        """Return the page in a frame, for a notebook."""
        return (
            f'<iframe title="minigpt" src="{html.escape(self.url)}" style="width: 100%; height: {self._height}px; '
            'border: 1px solid #8884; border-radius: 6px" allow="clipboard-write"></iframe>'
        )


def portal(*runs: str, height: int = HEIGHT) -> Page:
    """Return a page to bring a model to: choose or drop a file of weights, and write with it, on this machine's CPU.

    In a notebook it is shown in a frame; elsewhere open its `url` in a browser. It is there until it is closed, or this
    process ends. The browser has to run on the machine of the notebook, or reach its ports.

    Args:
        runs: models to begin with: runs, Hugging Face directories, files of weights.
        height: of the frame, in pixels.

    Raises:
        UserError: a model cannot be loaded, or a package of the extra `serve` is missing.
    """
    require("serve", "minigpt.portal")
    return Page(runs, height)
