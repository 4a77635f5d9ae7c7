import re
import tomllib
from pathlib import Path

import pytest

from minigpt import extras
from minigpt.errors import UserError
from minigpt.extras import EXTRAS, command_for, importing, require

PACKAGE = Path(extras.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def test_the_extras_are_those_of_the_project():
    declared = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(declared) - {"dev", "docs"}
    for extra, packages in EXTRAS.items():
        names = {re.split(r"[>=<\[ ]", line)[0] for line in declared[extra]} - {"minigpt"}
        assert set(packages) == names


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("minigpt.extras.version_of", lambda name: None)
    with pytest.raises(
        UserError, match=r"x needs the package gguf, .*pip install 'minigpt\[gguf\]'"
    ):
        require("gguf", "x")
    monkeypatch.setattr("minigpt.extras.version_of", lambda name: name)
    require("gguf", "x")


def test_an_import_that_finds_nothing_says_the_same():
    with (
        pytest.raises(UserError, match=r"^x needs the package nowhere, .*: pip install 'minigpt\[hf\]'$"),
        importing("hf", "x"),
    ):  # fmt: skip
        import nowhere
    with pytest.raises(ImportError, match="cannot import name"), importing("hf", "x"):
        from json import nowhere  # noqa: F401 - a package that is there, but another version of it


def test_nobody_else_words_it():
    for path in PACKAGE.rglob("*.py"):
        assert "pip install 'minigpt" not in path.read_text() or path.name == "extras.py", path


def test_the_command_names_the_extra():
    assert command_for("hf") == "pip install 'minigpt[hf]'"
