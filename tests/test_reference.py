"""The reference has every public name and setting; MINIGPT_WRITE_DOCS=1 writes its sentences and tables anew."""

import dataclasses
import inspect
import os
import re
import tomllib
import typing

import pytest

import minigpt
from minigpt import config

from .pages import DOCS, ROOT, Page, all_pages, read

REFERENCE = DOCS / "reference"
INDEX, SETTINGS = REFERENCE / "index.md", REFERENCE / "settings.md"
WRITES = bool(os.environ.get("MINIGPT_WRITE_DOCS"))
START, END = "<!-- settings -->\n", "<!-- end of settings -->\n"


def row(name: str, page: str) -> str:
    sentence = inspect.getdoc(getattr(minigpt, name)).splitlines()[0]
    return f"| [`minigpt.{name}`]({page}) | {sentence} |"


def test_every_public_name_stands_there_with_the_first_line_of_its_docstring():
    text = INDEX.read_text(encoding="utf-8")
    found = re.findall(r"^\| \[`minigpt\.(\w+)`\]\(([\w.]+)\) \|.*$", text, re.MULTILINE)
    assert sorted(name for name, _ in found) == minigpt.__all__
    if WRITES:
        for name, page in found:
            text = re.sub(
                rf"^\| \[`minigpt\.{name}`\].*$",
                row(name, page).replace("\\", r"\\"),
                text,
                flags=re.MULTILINE,
            )
        INDEX.write_text(text, encoding="utf-8")
    for name, page in found:
        assert row(name, page) in text
        where = f"::: {minigpt._WHERE[name]}.{name}\n"
        assert where in (REFERENCE / page).read_text(encoding="utf-8")


def table(name: str, section: type) -> str:
    hints = typing.get_type_hints(section)
    lines = [f"## [{name}]\n", f"{section.__doc__.strip().splitlines()[0]}\n"]
    lines += ["| setting | default | what it is |", "|---|---|---|"]
    for item in dataclasses.fields(section):
        choices = typing.get_args(hints[item.name]) if _is_choice(hints[item.name]) else ()
        one_of = f"; one of {', '.join(f'`{choice}`' for choice in choices)}" if choices else ""
        words = item.metadata["doc"].replace("|", "\\|")
        lines.append(f"| `{item.name}` | {shown(item.default)} | {words}{one_of} |")
    return "\n".join(lines) + "\n\n"


def _is_choice(hint: object) -> bool:
    return typing.get_origin(hint) is typing.Literal


def shown(default: object) -> str:
    """Return a default as TOML has it."""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f'`"{default}"`'.replace("\n", "\\n") if isinstance(default, str) else f"`{default}`"


def test_every_setting_stands_there():
    before, *_ = SETTINGS.read_text(encoding="utf-8").partition(START)
    wanted = "\n" + "".join(table(*section) for section in config.SECTIONS.items())
    if WRITES:
        SETTINGS.write_text(before + START + wanted + END, encoding="utf-8")
    assert SETTINGS.read_text(encoding="utf-8") == before + START + wanted + END


def pages_in(nav: list) -> list[str]:
    """Return the pages of a navigation, in their order."""
    found = []
    for entry in nav:
        for item in entry.values() if isinstance(entry, dict) else [entry]:
            found += [item] if isinstance(item, str) else pages_in(item)
    return found


NAV = pages_in(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])


def test_every_page_stands_in_the_navigation():
    names = {
        page.path.relative_to(DOCS).as_posix() for page in all_pages() if DOCS in page.path.parents
    }
    assert sorted(NAV) == sorted(names)


def test_the_map_names_every_page_of_the_navigation_in_its_order():
    text = read(DOCS / "index.md").text.partition("## The core")[2]  # before it some are named, too
    links = [link.partition("#")[0] for link in Page(DOCS / "index.md", text).links]
    assert [link for link in links if link in NAV] == NAV[1:]


FUNCTIONS = [name for name in minigpt.__all__ if inspect.isfunction(getattr(minigpt, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_and_what_it_raises(name):
    text = inspect.getdoc(getattr(minigpt, name))
    assert "Raises:" in text
    for parameter in inspect.signature(getattr(minigpt, name)).parameters:
        assert f"{parameter}:" in text
