import re
import tomllib
from pathlib import Path

import pytest

from minigpt.errors import UserError
from minigpt.extras import EXTRAS, command_for, require

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def test_the_extras_are_those_of_the_project():
    declared = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(declared) - {"dev"}
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
    assert command_for("hf") == "pip install 'minigpt[hf]'"
