"""The README keeps its word: its counts are counted, its files there; what all pages share is in `test_docs.py`."""

import re

import minigpt
from minigpt.config import presets
from minigpt.model.families import FAMILIES

from .pages import DOCS, ROOT, read
from .test_budget import CORE, PACKAGE, lines_of_code

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


def test_there_are_commands_of_every_verb():
    commands = read(ROOT / "README.md").commands
    assert {command.words[0] for command in commands} == set(VERBS)


def test_there_are_commands_for_torchrun_slurm_and_datatrove():
    commands = [str(c) for name in ("several.md", "beyond.md") for c in read(DOCS / name).commands]
    assert sum("--executor" in command for command in commands) == 3
    assert sum(command.startswith("minigpt train ") for command in commands) >= 5


def test_the_counts_of_lines_are_true():
    counts = {name: lines_of_code((PACKAGE / name).read_text()) for name in CORE}
    for name, count in counts.items():
        assert re.search(rf"`minigpt/{name}` \|.*\| {count} \|", README), (
            f"{name} has {count} lines"
        )
    assert f"<!-- core -->{sum(counts.values())}<!-- /core -->" in README


def test_files_presets_and_architectures_are_there():
    for path in re.findall(r"`?(minigpt/[\w/]+(?:\.py|/))", README):
        assert (ROOT / path).exists(), path
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
