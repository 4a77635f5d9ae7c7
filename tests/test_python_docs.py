import json
import platform
import sysconfig

import pytest

from minigpt.data.python_docs import python_docs

LONG = "It says so much." * 40
FILES = {
    "pydoc_data/topics.py": "topics = {'for': 'The for statement.\\n', 'if': 'ünïcode'}\n",
    "b/__init__.py": f'"""The package. {LONG}"""\n',
    "a.py": f'''"""First line.

    Indented. {LONG}
    """

class Shown:
    """A class."""

    def method(self, x: int = 1, *rest) -> None:
        """A method."""

        def inner():
            """Inside."""

    def _private(self):
        """Left out."""

async def run(**how):
    """An async function."""

def silent():
    pass
''',
    "short.py": '"""Too short."""\n',
    "broken.py": f'"""{LONG}"""\nprint "no Python 3"\n',
    "latin.py": "",
    "test/a.py": f'"""{LONG}"""\n',
    "b/tests/c.py": f'"""{LONG}"""\n',
    "site-packages/d.py": f'"""{LONG}"""\n',
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of a few files, and a cache that is empty."""
    for name, content in FILES.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (tmp_path / "library" / "latin.py").write_bytes(b'"""\xe4"""')
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "library")})
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "library"


def documents() -> list[str]:
    return [json.loads(line)["text"] for line in python_docs().read_text("utf-8").splitlines()]


def test_topics_come_first_then_the_docstrings_of_what_is_public(library):
    for_statement, if_statement, a, b = documents()
    assert (for_statement, if_statement) == ("The for statement.\n", "ünïcode")
    assert b == f"b\nThe package. {LONG}\n"
    assert a.split("\n\n") == [
        "a\nFirst line.",
        f"Indented. {LONG}",
        "a.Shown\nA class.",
        "a.Shown.method(self, x: int=1, *rest)\nA method.",
        "a.Shown.method.inner()\nInside.",
        "a.run(**how)\nAn async function.\n",
    ]


def test_a_library_without_topics_still_has_its_modules(library):
    (library / "pydoc_data" / "topics.py").unlink()
    assert [text.split("\n")[0] for text in documents()] == ["a", "b"]


def test_what_was_extracted_is_kept_by_the_version_of_python(library):
    kept = python_docs()
    assert platform.python_version() in kept.name
    (library / "a.py").unlink()
    before = kept.read_bytes()
    assert python_docs() == kept
    assert kept.read_bytes() == before
    kept.unlink()
    assert python_docs().read_bytes() != before


def test_this_python_says_much_about_itself():
    found = documents()
    assert len(found) > 150
    assert any("JSON" in document and "dumps(" in document for document in found)
    assert sum(map(len, found)) > 1_000_000
