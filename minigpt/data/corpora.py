"""The name of a source in, documents out: a file, a folder, standard input, or a corpus known by name."""

import ast
import inspect
import json
import platform
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.config import did_you_mean
from minigpt.errors import UserError
from minigpt.files import cache_folder, replacing
from minigpt.tokenizer.patterns import END_OF_TEXT

NAMED = ("python-docs",)
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Corpus:
    """Documents and where they come from.

    Attributes:
        notes: what a person should know about the reading (files left out, for instance).
    """

    name: str
    documents: list[str]
    notes: list[str] = field(default_factory=list)


def read_corpus(source: str) -> Corpus:
    """Return the documents of a source, in a fixed order. A text that holds `<|endoftext|>` is cut there.

    Raises:
        UserError: there is no such source, it holds no text, or it is not UTF-8.
    """
    path = Path(source).expanduser()
    if source == STANDARD_INPUT:
        corpus = Corpus("standard input", _cut(_decoded(sys.stdin.buffer.read(), "standard input")))
    elif source in NAMED:
        corpus = _python_docs()
    elif source.strip() and len(path.name) < 256 and path.is_dir():
        corpus = _folder(path)
    elif source.strip() and len(path.name) < 256 and path.is_file():
        corpus = Corpus(source, _cut(_read_file(path)))
    else:
        raise UserError(
            f"there is no text at {source!r}{did_you_mean(source, NAMED)}; "
            "pass a text file, a folder, - for standard input, or python-docs"
        )
    if not any(document.strip() for document in corpus.documents):
        raise UserError(f"{corpus.name} holds no text; pass a source with some")
    return corpus


def _cut(text: str) -> list[str]:
    return [document for document in text.split(END_OF_TEXT) if document]


def _folder(folder: Path) -> Corpus:
    """Every file of the folder, in the order of their paths, is a document; what is not text is left out and said."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder))
    documents: list[str] = []
    left_out: list[str] = []
    for path in paths:
        try:
            documents += _cut(_read_file(path))
        except UserError:
            left_out.append(path.name)
    if not documents:
        raise UserError(f"the folder {folder} holds no text file; pass a folder with UTF-8 text")
    notes = []
    if left_out:
        shown = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
        notes.append(
            f"left out {len(left_out)} of {len(paths)} files that are not UTF-8 text ({shown})"
        )
    return Corpus(str(folder), documents, notes)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _read_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return _decoded(content, str(path))


def _decoded(content: bytes, name: str) -> str:
    if b"\0" in content[:8192]:
        raise UserError(f"{name} is a binary file (it holds zero bytes); pass a text in UTF-8")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
            "save it as UTF-8 and try again"
        ) from None


# ------------------------------------------------------------------------------------------------------ python-docs

_EXTRACTION = 1  # a change of what is taken makes texts in the cache unfindable
_NOT_DOCUMENTATION = {
    "__pycache__", "ensurepip", "idlelib", "lib2to3", "lib-dynload", "pydoc_data", "site-packages", "dist-packages",
    "test", "tests", "turtledemo",
}  # fmt: skip


def _python_docs() -> Corpus:
    """The language reference and the docstrings that come with this Python, one document for a topic or a module.

    Extracting them takes some seconds, so the text is kept in the cache. It differs between versions of Python.
    """
    version = platform.python_version()
    kept = cache_folder() / "corpora" / f"python-docs-{version}-v{_EXTRACTION}.jsonl"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        library = Path(sysconfig.get_paths()["stdlib"])
        with replacing(kept) as temporary, temporary.open("w", encoding="utf-8") as file:
            for document in (*_topics(library), *_module_docs(library)):
                file.write(json.dumps(document) + "\n")
    documents = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    return Corpus(f"python-docs (Python {version})", documents)


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
