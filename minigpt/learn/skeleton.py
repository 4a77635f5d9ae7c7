"""The source of a solution in, the file to fill out: what is called, with what and what for, but not how.

So a file to fill never disagrees with its solution. The body of a function becomes its docstring and
`raise NotImplementedError`; a function whose name begins with an underscore, one that a learner may or may not come to
need, goes; one under a line `# Given.` stays as it is.
"""

import ast

GIVEN = "# Given."


def skeleton(solution: str, opening: str) -> str:
    """Return the file to fill, with `opening` as its docstring."""
    tree, lines = ast.parse(solution), solution.splitlines()
    new: dict[int, list[str]] = {}  # what comes in place of a line, by its index
    docstring = tree.body[0]
    _put(new, _span(docstring), [f'"""{opening}"""'])
    for function in _functions(tree, lines):
        first, last = _span(function)
        if function.name.startswith("_") and not function.name.startswith("__"):
            _put(new, (first, last), [])
            while last + 1 < len(lines) and not lines[last + 1]:  # the blank lines behind it
                last += 1
                new[last] = []
            continue
        kept = function.body[: _kept(function)]
        indent = " " * function.body[0].col_offset
        begin = _span(kept[-1])[1] + 1 if kept else _span(function.body[0])[0]
        _put(new, (begin, last), [f"{indent}raise NotImplementedError"])
    made = [out for index, line in enumerate(lines) for out in new.get(index, [line])]
    return "\n".join(made).rstrip() + "\n"


def _functions(tree: ast.Module, lines: list[str]) -> list[ast.FunctionDef]:
    """Return the functions and methods whose bodies are for the learner."""
    found = []
    for node in tree.body:
        if lines[_span(node)[0] - 1] == GIVEN:
            continue
        if isinstance(node, ast.FunctionDef):
            found.append(node)
        elif isinstance(node, ast.ClassDef):
            found += [
                inner
                for inner in node.body
                if isinstance(inner, ast.FunctionDef)
                and lines[_span(inner)[0] - 1].strip() != GIVEN
            ]
    return found


def _kept(function: ast.FunctionDef) -> int:
    """Return how many statements stay: the docstring, and the call without which no module of torch is one."""
    kept = 0
    for statement in function.body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not is_docstring and ast.unparse(statement) != "super().__init__()":
            break
        kept += 1
    return kept


def _span(node: ast.stmt) -> tuple[int, int]:
    """Return the indices of the first and the last line of a statement, with its decorators."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    assert node.end_lineno is not None
    return first - 1, node.end_lineno - 1


def _put(new: dict[int, list[str]], span: tuple[int, int], text: list[str]) -> None:
    new.update({index: [] for index in range(span[0], span[1] + 1)})
    new[span[0]] = text
