"""No input; out comes the documentation of this Python as JSON lines: a corpus that is there without a network."""

import ast
import inspect
import json
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from minigpt.files import cache_folder, replacing

_EXTRACTION = 2  # a change of what is taken makes texts in the cache unfindable
_NOT_DOCUMENTATION = {
    "__pycache__", "ensurepip", "idlelib", "lib2to3", "lib-dynload", "pydoc_data", "site-packages", "dist-packages",
    "test", "tests", "turtledemo",
}  # fmt: skip


def python_docs() -> Path:
    """Return a file with the language reference and the docstrings of this Python, one topic or module a line.

    Extracting them takes some seconds, so the text is kept in the cache. It differs between versions of Python.
    """
    version = platform.python_version()
    kept = cache_folder() / "corpora" / f"python-docs-{version}-v{_EXTRACTION}.jsonl"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        library = Path(sysconfig.get_paths()["stdlib"])
        with replacing(kept) as temporary, temporary.open("w", encoding="utf-8") as file:
            for document in (*_topics(library), *_module_docs(library)):
                file.write(json.dumps({"text": document}) + "\n")
    return kept


def _topics(library: Path) -> Iterator[str]:
    file = library / "pydoc_data" / "topics.py"
    if not file.is_file():
        return  # some distributions package the topics apart
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            yield from ast.literal_eval(statement.value).values()


def _module_docs(library: Path) -> Iterator[str]:
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).with_suffix("")
        if _NOT_DOCUMENTATION.intersection(name.parts):
            continue
        try:
            module = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue  # a few files of the library are broken on purpose
        text = "\n\n".join(_docstrings(module, ".".join(name.parts).removesuffix(".__init__")))
        if len(text) > 500:
            yield text + "\n"


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    """Yield a heading and the docstring of a module, its classes and its functions, in the order of the file."""
    text = ast.get_docstring(node, clean=False) if isinstance(node, _DOCUMENTED) else None
    if text and text.strip():
        yield f"{name}{_signature(node)}\n{inspect.cleandoc(text)}"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DOCUMENTED[1:]) and not child.name.startswith("_"):
            yield from _docstrings(child, f"{name}.{child.name}")


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"({ast.unparse(node.args)})"
    return ""
