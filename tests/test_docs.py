"""The docs keep their word: quotes, code, what it prints and draws, commands and links.

MINIGPT_WRITE_DOCS=1 finds the lines of quotes anew, where their words still stand in the file, and writes the figures.
"""

import contextlib
import io
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from cyclopts import MissingArgumentError

from minigpt import cli
from minigpt.cli import settings
from minigpt.config import DataConfig, ModelConfig, TrainConfig

from .pages import DOCS, ROOT, Block, Command, Page, all_pages, read, slug
from .sameness import difference_of_drawings, difference_of_words

PAGES = all_pages()
TOLD = [
    page for page in PAGES if page.path.parent.name != "recipes"
]  # the others: tests/test_recipes.py
WRITES = bool(os.environ.get("MINIGPT_WRITE_DOCS"))
TRAINS = re.compile(r"\.backward\(|\bfit\(|\bupdate\(|\.train\(|optimizer\.step\(")
# What is said in another way where a page is tried, so that it takes less time or finds what is there.
INSTEAD = {
    "README.md": {
        "minigpt.RunConfig(train=minigpt.TrainConfig(minutes=5))": "minigpt.RunConfig(**small)"
    },
    "docs/serving.md": {'"poet"': '"chat"'},
}
SMALL = {
    "model": ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16),
    "data": DataConfig(source="my-text.txt", vocab_size=300),
    "train": TrainConfig(steps=2, batch_size=2, dtype="fp32", compile="off"),
}  # what RunConfig takes for a run of a second


def each(pages: list[Page]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=[page.name for page in pages])


# ------------------------------------------------------------------------------------------------------------ quotes


def lines_of(path: str, first: int, last: int) -> str:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines(keepends=True)
    return textwrap.dedent("".join(lines[first - 1 : last]))


def places_of(text: str, path: str) -> list[tuple[int, int]]:
    """Return the first and last lines of each place in a file where a text stands, however far it is set in."""
    lines, length = len((ROOT / path).read_text(encoding="utf-8").splitlines()), text.count("\n")
    every = ((first, first + length - 1) for first in range(1, lines - length + 2))
    return [place for place in every if lines_of(path, *place) == text]


def is_true(quote: Block) -> bool:
    path, first, last = quote.cited.groups()
    return (ROOT / path).exists() and lines_of(path, int(first), int(last or first)) == quote.text


def cited_anew(page: Page) -> str:
    """Return a page whose quotes name the lines where their words stand now, where that is one place."""
    lines = page.text.splitlines(keepends=True)
    for quote in page.quotes:
        places = [] if is_true(quote) else places_of(quote.text, quote.cited[1])
        if len(places) == 1:
            number = max(i for i in range(quote.line - 1) if lines[i].strip() == quote.before)
            first, last = places[0]
            name = f"{first}-{last}" if last > first else str(first)
            lines[number] = f"`{quote.cited[1]}:{name}`\n"
    return "".join(lines)


@each([page for page in PAGES if page.quotes])
def test_quotes_are_what_stands_in_the_files(page):
    if WRITES:
        page.path.write_text(cited_anew(page), encoding="utf-8")
        page = read(page.path)
    for quote in page.quotes:
        assert is_true(quote), f"{page.name}:{quote.line}: {quote.before} does not hold these lines"


def test_a_quote_that_has_moved_is_found_and_one_that_has_changed_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "a.py").write_text(
        "x = 1\ndef f():\n    if x:\n        return x\n\nif x:\n    x = 2\n"
    )
    text = "Look:\n\n`a.py:{}`\n\n```python\n{}```\n"
    right = Page(Path("p.md"), text.format("3-4", "if x:\n    return x\n"))
    assert is_true(right.quotes[0])
    stale = Page(Path("p.md"), text.format("1-2", "if x:\n    return x\n"))
    assert not is_true(stale.quotes[0])
    assert cited_anew(stale) == right.text
    changed = Page(Path("p.md"), text.format("3-4", "if x:\n    return 2 * x\n"))
    twice = Page(Path("p.md"), text.format("2", "x\n"))
    for page in (changed, twice):
        assert not is_true(page.quotes[0])
        assert cited_anew(page) == page.text
    one_line = Page(Path("p.md"), text.format("9", "x = 2\n"))
    assert "`a.py:7`" in cited_anew(one_line)


# -------------------------------------------------------------------------------------------- code, output and figures


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None]:
    """Be in a folder, with one thread, and leave nothing behind in torch."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    random = torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        torch.set_rng_state(random)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def carry_out(page: Page, folder: Path, put: Callable[[str], str] = str) -> list[str]:
    """Run the code of a page in a folder; return where it prints something else than the page shows."""
    names, wrong = {"__name__": "__main__", "small": SMALL}, []
    with alone(folder):
        for block, shown in page.code:
            if block.why_not_run:
                continue
            # Lines of a traceback are those of the page.
            code = compile("\n" * (block.line - 1) + put(block.text), str(page.path), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, names)
            if shown is not None and (found := difference_of_words(shown, printed.getvalue())):
                wrong.append(f"{page.name}:{block.line}: {found}")
    return wrong


@pytest.fixture
def portals(monkeypatch):
    """Close what a page leaves open."""
    from minigpt.serve import notebook

    made, start = [], notebook.Page.__init__

    def started(portal, *given):
        start(portal, *given)
        made.append(portal)

    monkeypatch.setattr(notebook.Page, "__init__", started)
    yield
    for portal in made:
        portal.close()


@pytest.fixture
def put(request, tmp_path):
    """Lay out what a page takes for given (a run, a text, a server); return what adapts its code to that."""

    def prepared(page: Page) -> Callable[[str], str]:
        instead = dict(INSTEAD.get(page.name, {}))
        code = "".join(block.text for block, _ in page.code if not block.why_not_run)
        if "runs/demo" in code:
            shutil.copytree(request.getfixturevalue("trained"), tmp_path / "runs/demo")
        if "my-text.txt" in code or instead:
            shutil.copy(request.getfixturevalue("small_text"), tmp_path / "my-text.txt")
        if "127.0.0.1:8000" in code:
            instead["127.0.0.1:8000"] = f"127.0.0.1:{request.getfixturevalue('world').port}"
        for text in instead:
            assert text in code, f"{page.name} does not say {text} any more"

        def replaced(text: str) -> str:
            for one, other in instead.items():
                text = text.replace(one, other)
            return text

        return replaced

    return prepared


@pytest.mark.slow
@each([page for page in TOLD if page.code])
def test_the_code_of_a_page_does_what_the_page_shows(page, tmp_path, put, portals):
    wrong = carry_out(page, tmp_path, put(page))
    assert not wrong, "\n".join(wrong)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    own = {path for path in page.figures if re.fullmatch(r"figures/[\w.-]+\.svg", path)}
    assert own == {f"figures/{name}" for name in drawn}, "shown and drawn are not the same figures"
    trained = any(TRAINS.search(block.text) for block, _ in page.code)
    for name, made in drawn.items():
        path = page.path.parent / "figures" / name
        found = difference_from(path, made, trained)
        if found and WRITES:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made, encoding="utf-8")
            found = difference_from(path, made, trained)
        assert found is None, f"{page.name}: {name}: {found}; MINIGPT_WRITE_DOCS=1 draws it anew"


def difference_from(path: Path, made: str, trained: bool) -> str | None:
    if not path.exists():
        return "there is no such file"
    return difference_of_drawings(path.read_text(encoding="utf-8"), made, trained)


def test_next_to_no_code_is_left_out():
    left_out = {
        page.name: [block.why_not_run for block, _ in page.code if block.why_not_run]
        for page in TOLD
    }
    assert {name: len(reasons) for name, reasons in left_out.items() if reasons} == {
        "docs/watching.md": 2  # SwanLab, which has an environment of its own
    }


def test_every_figure_is_shown_by_a_page_whose_code_draws_it():
    for path in DOCS.rglob("figures/*"):
        pages = [page for page in PAGES if page.path.parent == path.parent.parent]
        showing = [page for page in pages if f"figures/{path.name}" in page.figures]
        assert showing, f"no page shows {path.relative_to(ROOT)}"
        assert any(page.code for page in showing)


@each([page for page in PAGES if page.figures])
def test_a_figure_is_said_in_a_sentence(page):
    for path, words in page.figures.items():
        assert len(words.split()) >= 4, f"{page.name}: say what {path} shows"


PROGRAM = """# A page

```python
x = 2.0
print("x is", x)
```

```text
x is {}
```

`a.py:1`

```python
this is no code
```

<!-- not run: needs the moon -->

```python
1 / 0
```
"""


def test_what_is_printed_is_compared_and_quotes_are_not_run(tmp_path):
    assert carry_out(Page(Path("p.md"), PROGRAM.format("2.01")), tmp_path) == []
    (wrong,) = carry_out(Page(Path("p.md"), PROGRAM.format("2.5")), tmp_path)
    assert wrong == "p.md:4: line 1: the page shows 'x is 2.5', printed was 'x is 2.0'"


@pytest.mark.parametrize(
    ("shown", "made"),
    [
        ("a 1.00", "a  1.01\n"),
        ("1,000 of b", "1,010 of b"),
        ("0.03 -0.0", "0.04 0.0"),
        ("3e-4", "3.02e-4"),
    ],
)
def test_numbers_may_differ_a_little(shown, made):
    assert difference_of_words(shown, made) is None


@pytest.mark.parametrize(
    ("shown", "made"), [("a 1", "b 1"), ("1.00", "1.03"), ("a", "a\nb"), ("5 x", "x"), ("8", "9")]
)
def test_words_and_numbers_that_differ_are_told(shown, made):
    assert difference_of_words(shown, made)


SVG = '<svg><text class="soft" x="10">loss 2.0</text><polyline points="0,0 10,0 20,0"/>{}</svg>'
SAME = SVG.format("")


@pytest.mark.parametrize(
    ("change", "same", "same_if_trained"),
    [
        (("", ""), True, True),
        (("20,0", "20,2"), True, True),
        (("0,0 10,0", "0,0 4,0 10,1"), True, True),  # another corner on the same line
        (("20,0", "20,9"), False, True),
        (("20,0", "20,30"), False, False),
        (("soft", "title"), False, False),
        (("loss", "gain"), False, False),
        (("2.0", "2.3"), False, False),
        (("</svg>", "<text/></svg>"), False, False),
        (("x=", "y="), False, False),
    ],
)
def test_drawings_may_differ_by_a_few_units(change, same, same_if_trained):
    other = SAME.replace(*change)
    assert (difference_of_drawings(SAME, other) is None) == same
    assert (difference_of_drawings(SAME, other, trained=True) is None) == same_if_trained


# ---------------------------------------------------------------------------------------------------------- commands


def take(command: Command) -> None:
    """Have the program read a command, as it does before it carries it out.

    Raises:
        CycloptsError: it is not one.
        UserError: a setting of it is wrong.
    """
    if command.words[-1:] == ("--help",):
        return
    try:
        _, bound, _ = cli.app.parse_args(command.words, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        if command.is_whole:
            raise
        return
    if command.words[:1] in (("train",), ("plan",)):
        given = bound.arguments
        short = {"data.source": given.get("data"), "train.minutes": given.get("minutes")}
        options = given.get("options") or settings.NO_OPTIONS
        settings.settings_of(given.get("preset"), [], options, short)


@each([page for page in PAGES if page.commands])
def test_every_command_is_one_that_the_program_takes(page):
    for command in page.commands:
        try:
            take(command)
        except Exception as error:
            error.add_note(f"{page.name}: {command}")
            raise


FOUND = """Say `minigpt look`, `minigpt eval RUN --quantize
int8` or `FOO=1 torchrun … -m minigpt train …`, not `minigpt.load`; minigpt is small.

    OMP_NUM_THREADS=1 torchrun --standalone -m minigpt train --preset demo     what it is for
    sbatch --nodes=4 docs/train.sbatch --data books

```sh
cat a.txt | .venv/bin/minigpt train --data - \\
    --minutes 5 > log  # quickly
minigpt plan --processes N --train.seed=S && echo minigpt
python -c "from minigpt import GPT"
```

| `minigpt sample runs/demo --prompt "Return  "` |

```text
minigpt train --no-such
```
"""


def test_commands_are_found_wherever_they_stand():
    found = Page(Path("p.md"), FOUND).commands
    assert [(" ".join(command.words), command.is_whole) for command in found] == [
        ("train --preset demo", True),
        ("train --data books", True),
        ("train --data - --minutes 5", True),
        ("plan --processes 512 --train.seed=512", True),
        ("look", False),
        ("eval RUN --quantize int8", True),
        ("train", False),
        ("sample runs/demo --prompt Return ", True),
    ]


@pytest.mark.parametrize("words", ["trian", "train --no-such 1", "sample", "train --optim.lr fast"])
def test_a_wrong_command_is_not_taken(words):
    with pytest.raises(Exception, match=r"trian|no-such|requires|optim.lr"):
        take(Command(tuple(words.split()), is_whole=True))


# ------------------------------------------------------------------------------------------------------------- links


def broken_links(page: Page) -> list[str]:
    broken = []
    for link in page.links:
        path, _, heading = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        there = target.exists() or not path
        if there and heading and target.suffix == ".md":
            there = heading in (read(target) if path else page).headings
        if not there:
            broken.append(link)
    return broken


@each(PAGES)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_link_to_a_page_or_heading_that_is_not_there_is_told(tmp_path):
    (tmp_path / "b.md").write_text("# One `two`: three\n\n## Same\n\n## Same\n")
    text = "[a](b.md) [a](b.md#one-two-three) [a](b.md#same-1) [a](#here) `[a](no)`\n\n## Here\n"
    assert broken_links(Page(tmp_path / "a.md", text)) == []
    text = "[a](c.md) ![a](b.svg) [a](b.md#two) [a](#there)\n\n## Here\n"
    assert broken_links(Page(tmp_path / "a.md", text)) == ["c.md", "b.svg", "b.md#two", "#there"]
    assert slug("What `minigpt` does, and *why*") == "what-minigpt-does-and-why"
