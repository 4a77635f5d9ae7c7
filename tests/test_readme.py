"""The README keeps its word: its commands are parsed, its counts counted, its files there."""

import re
import shlex
from pathlib import Path

import pytest

import minigpt
from minigpt import cli
from minigpt.cli import settings
from minigpt.config import presets
from minigpt.model.families import FAMILIES

from .test_budget import CORE, PACKAGE, lines_of_code

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERBS = (
    "demo",
    "train",
    "plan",
    "sample",
    "eval",
    "prepare",
    "tokenizer",
    "bench",
    "import",
    "export",
    "report",
    "doctor",
    "chat",
    "finetune",
    "look",
    "serve",
    "learn",
)
COMMANDS = sorted(
    set(re.findall(rf"(?:\.venv/bin/|`)(minigpt (?:{'|'.join(VERBS)})[^`\n]*)", README))
)
# Those of pages on more than one machine: as an example, in a table, or behind torchrun's.
PAGES = README + "".join(
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("several.md", "beyond.md")
)
FAR = sorted(
    set(re.findall(r"(?:^ {4}|-m |\| `)(minigpt (?:train|prepare) [^`\n]*)", PAGES, re.MULTILINE))
)
FAR += [
    f"minigpt train {options}"
    for options in re.findall(r"^ {4}.*sbatch .*docs/train.sbatch (.*)$", PAGES, re.MULTILINE)
]


def test_there_are_commands_of_every_verb():
    assert {command.split()[1] for command in COMMANDS} == set(VERBS)
    assert len(COMMANDS) >= 9


def test_there_are_commands_for_torchrun_slurm_and_datatrove():
    assert sum("--executor" in command for command in FAR) == 3
    assert len(FAR) >= 10


@pytest.mark.parametrize("command", [*COMMANDS, *FAR])
def test_every_command_is_one_that_the_program_takes(command):
    _, bound, _ = cli.app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    options = bound.arguments.get("options")
    if command.startswith(("minigpt train", "minigpt plan")):
        short = {
            "data.source": bound.arguments.get("data"),
            "train.minutes": bound.arguments.get("minutes"),
        }
        settings.settings_of(
            bound.arguments.get("preset"), [], options or settings.NO_OPTIONS, short
        )


def test_the_counts_of_lines_are_true():
    counts = {name: lines_of_code((PACKAGE / name).read_text()) for name in CORE}
    for name, count in counts.items():
        assert re.search(rf"`minigpt/{name}` \|.*\| {count} \|", README), (
            f"{name} has {count} lines"
        )
    assert f"<!-- core -->{sum(counts.values())}<!-- /core -->" in README


def test_files_presets_architectures_and_links_are_there():
    for path in re.findall(r"`?(minigpt/[\w/]+(?:\.py|/))", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / path).exists(), f"{page.name}: {path}"
    for name in presets():
        assert f"`{name}`" in README
    for family in list(FAMILIES.values())[:-1]:
        assert f"`{family.architecture}`" in README


def test_the_python_of_the_readme_uses_public_names():
    for name in re.findall(r"minigpt\.([A-Za-z]\w*)\(", README):
        assert name in minigpt.__all__, name


def test_the_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
