"""The static site is built without a warning, leads nowhere wrong and fetches nothing from elsewhere."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

import minigpt

from .pages import ROOT

LEADS = re.compile(r'<(\w+)[^>]*?\s(?:href|src)="?([^"\s>]+)')
LOADED = {"script", "link", "img", "iframe", "source"}  # what a browser fetches by itself


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    for name in ("docs", "minigpt"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


def leads(page: Path) -> list[tuple[str, str]]:
    return LEADS.findall(page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for element, where in leads(page):
            assert element not in LOADED or not urlparse(where).netloc, f"{page.name}: {where}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_file_of_it(site):
    for page in site.rglob("*.html"):
        for _, where in leads(page):
            parts = urlparse(where)
            if parts.scheme or parts.netloc or not parts.path or page.name == "404.html":
                continue
            assert (page.parent / unquote(parts.path)).exists(), f"{page.name}: {where}"


@pytest.mark.slow
def test_docstrings_stand_in_the_reference(site):
    shown = "".join(
        page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html")
    )
    assert "::: " not in shown
    for name, module in minigpt._WHERE.items():
        assert f'id="{module}.{name}"' in shown
