"""The order of the house: who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minigpt

PACKAGE = Path(minigpt.__file__).parent
# From what knows nothing to what knows everything. A module imports from its own place or from those before it.
# A module of a package may have a place of its own: adapters are loaded as any model is, long before they are trained.
ORDER = [
    ["background", "errors", "machine", "timing"], ["extras", "files", "ranks"], ["meeting"],
    ["config", "progress"], ["download"], ["tokenizer"], ["data"], ["model"], ["loss_scale"], ["loss", "optim"],
    ["parts", "whole", "parallel"], ["runtime"], ["decisions"], ["rundir", "place", "trackers", "verdict"],
    ["saving", "resuming"], ["log"], ["drawing", "page"], ["curves", "figures"], ["report"], ["sampling"],
    ["inference"], ["finetune/token_rows"], ["finetune/lora"], ["finetune/peft_format"], ["interop"], ["evaluate"],
    ["guard"], ["fit"], ["rehearsal"], ["memory"], ["scaling"], ["beginning"], ["task"], ["job"], ["trial"], ["speed"],
    ["pretrain"], ["finetune"], ["needs"], ["inside"], ["serve"],
    ["bench", "demo", "doctor", "learn", "overfit", "plan", "hf"], ["plan_text"], ["cli"], ["__main__"],
]  # fmt: skip
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module: Path) -> str:
    """Return the name under which a module has its place: its own, else that of its package."""
    return known_as(list(module.with_suffix("").parts))


def known_as(parts: list[str]) -> str:
    own = "/".join(parts[:2])
    return own if own in PLACE else parts[0]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_imports_only_what_comes_before_it(module):
    if module == Path("__init__.py"):
        return
    assert room(module) in PLACE, f"{module} has no place in ORDER yet"
    for name in imported(PACKAGE / module):
        parts = name.split(".")
        other = known_as(parts[1:]) if len(parts) > 1 else ""
        if parts[0] == "minigpt" and other in PLACE:
            assert PLACE[other] <= PLACE[room(module)], (
                f"{module} knows {name}, which comes after it"
            )


def test_no_circles_inside_a_package():
    for package in (
        "tokenizer",
        "data",
        "model",
        "optim",
        "interop",
        "evaluate",
        "bench",
        "cli",
        "inference",
        "finetune",
        "inside",
        "learn",
        "serve",
    ):
        graph = {}
        for path in (PACKAGE / package).glob("*.py"):
            prefix = f"minigpt.{package}."
            known = {
                n.removeprefix(prefix).split(".")[0] for n in imported(path) if n.startswith(prefix)
            }
            graph[path.stem] = known & {p.stem for p in (PACKAGE / package).glob("*.py")}
        while graph:
            free = {name for name, known in graph.items() if not known & graph.keys() - {name}}
            assert free, f"{package}: {sorted(graph)} import each other in a circle"
            graph = {name: known for name, known in graph.items() if name not in free}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if room(m) in ("tokenizer", "config")], ids=str
)
def test_tokenizer_and_config_know_no_torch(module):
    assert not any(name.split(".")[0] == "torch" for name in imported(PACKAGE / module))


def test_the_model_knows_no_data_optimiser_device_or_process():
    for module in (m for m in MODULES if room(m) == "model"):
        foreign = [
            n for n in imported(PACKAGE / module) if n.startswith(("minigpt.data", "minigpt.optim"))
        ]
        foreign += [
            n
            for n in imported(PACKAGE / module)
            if n.startswith(("minigpt.runtime", "torch.distributed"))
        ]
        assert not foreign, f"{module} knows {foreign}"


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_help_does_not_import_torch():
    code = (
        "import sys, time; from minigpt.cli import run; status = run(time.monotonic(), ['--help']);"
        "assert status == 0; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    for verb in ("demo", "train", "plan", "sample", "eval"):
        assert verb in done.stdout


def test_importing_the_package_imports_nothing_else_of_it():
    code = "import sys, minigpt; assert [m for m in sys.modules if m.startswith('minigpt')] == ['minigpt']"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    for name in minigpt.__all__:
        assert callable(getattr(minigpt, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        minigpt.nothing  # noqa: B018


def test_there_is_no_print_outside_the_command_line():
    for module in MODULES:
        calls = [
            n
            for n in ast.walk(ast.parse((PACKAGE / module).read_text()))
            if isinstance(n, ast.Call)
        ]
        printing = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printing or module.parts[0] == "cli", f"{module} prints"
