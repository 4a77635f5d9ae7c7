"""The optional packages by the extra of `pyproject.toml` that brings them, and what to say where one is missing."""

import contextlib
import importlib.metadata
from collections.abc import Generator

from minigpt.errors import UserError

EXTRAS = {
    "data": ("datasets", "zstandard"),
    "scale": ("datatrove", "orjson"),
    "hf": ("transformers",),
    "gguf": ("gguf",),
    "serve": ("fastapi", "uvicorn"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}


def command_for(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'minigpt[{extra}]'"


def version_of(package: str) -> str | None:
    """Return the version of a package that is installed, or None; a folder of its name here is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(extra: str, wanted_by: str) -> None:
    """Refuse to go on where a package of an extra is missing.

    Raises:
        UserError: it names the package and the command that installs it.
    """
    for package in EXTRAS[extra]:
        if version_of(package) is None:
            raise missing(package, wanted_by, command_for(extra))


@contextlib.contextmanager
def importing(extra: str, wanted_by: str) -> Generator[None]:
    """Say what to do where an import in the block does not find its package.

    Raises:
        UserError: it names the package and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(error.name or extra, wanted_by, command_for(extra)) from None


def missing(package: str, wanted_by: str, command: str) -> UserError:
    """Return the refusal of what needs a package that is not there."""
    return UserError(f"{wanted_by} needs the package {package}, which is not installed: {command}")
