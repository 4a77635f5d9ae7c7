"""The core stays small enough to be read in an afternoon."""

import ast
import io
import tokenize
from pathlib import Path

import minigpt

PACKAGE = Path(minigpt.__file__).parent
CORE = [
    "tokenizer/bpe.py",
    "model/layers.py",
    "model/rope.py",
    "model/attention.py",
    "model/transformer.py",
    "fit.py",
    "sampling.py",
]
BUDGET = 400


def lines_of_code(source: str) -> int:
    """Return the number of lines that hold code: no blank lines, comments or docstrings."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skipped = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_counting_leaves_out_blanks_comments_and_docstrings():
    source = '"""Doc.\n\nMore."""\n\n# comment\nx = 1  # why\n\n\n'
    source += 'def f():\n    """Doc."""\n    return (\n        x\n    )\n'
    assert lines_of_code(source) == 5


def test_the_core_stays_under_400_lines_of_code(capsys):
    counts = {name: lines_of_code((PACKAGE / name).read_text()) for name in CORE}
    with capsys.disabled():
        listed = ", ".join(f"{Path(name).name} {count}" for name, count in counts.items())
        print(f"\ncore: {sum(counts.values())} lines of code ({listed})")
    assert sum(counts.values()) < BUDGET


def test_the_core_has_one_statement_on_a_line_of_at_most_100_characters():
    for name in CORE:
        source = (PACKAGE / name).read_text()
        starts = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
        assert len(starts) == len(set(starts)), f"{name}: two statements on a line"
        docstring_lines = _docstring_lines(source)
        for number, line in enumerate(source.splitlines(), 1):
            code = line.split("  # ")[0] if number not in docstring_lines else ""
            assert len(code) <= 100, f"{name}:{number} is {len(code)} characters long"


def _docstring_lines(source: str) -> set[int]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            found |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


def test_every_module_has_tests_and_says_what_it_does():
    """The exercises of `learn` are alike, and one test proves all of them: test_exercises.py."""
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} has no docstring"
        alike = PACKAGE / "learn" / "exercises" in path.parents or path.parent.name == "cli"
        if path.stem not in ("__init__", "__main__", "errors") and not alike:
            assert f"test_{path.stem}" in tests, f"there is no test_{path.stem}.py"
