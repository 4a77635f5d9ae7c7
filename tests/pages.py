"""A page of the docs in, its parts out: quotes, code and what it prints, figures, commands, links and headings."""

import re
import shlex
import textwrap
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)(`{3,}|~{3,})([\w+-]*)")
CITED = re.compile(r"`([\w./-]+):(\d+)(?:-(\d+))?`")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
SHELL = ("", "sh", "bash", "shell", "console")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
PROGRAM = re.compile(r"(?:^|(?<=[\s/(]))(?<!from )minigpt (?=\S)")
# Words of a line up to two spaces, behind which stands what the line is for.
STRETCH = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"']|\s(?!\s))*""")
OPEN_ENDED = ("…", "...", "OPTIONS", "CHANGE")  # stand for any further options


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        line: that of its first line, from 1.
        language: after the opening fence.
        text: dedented, each line with its end.
        before: the last line above it with something on it.
        follows: the language of the block right above it, with empty lines between alone; None: words are between.
    """

    line: int
    language: str
    text: str
    before: str
    follows: str | None

    @property
    def cited(self) -> re.Match[str] | None:
        """The file and the lines that it quotes."""
        return CITED.fullmatch(self.before.strip())

    @property
    def why_not_run(self) -> str | None:
        found = NOT_RUN.fullmatch(self.before.strip())
        return found and found[1]

    @property
    def is_code(self) -> bool:
        return self.language == "python" and not self.cited


@dataclass(frozen=True)
class Command:
    """Words behind `minigpt`.

    Attributes:
        words: as the program gets them, but for those that stand for any options.
        is_whole: False: a verb in a sentence, say, which leaves out what it needs.
    """

    words: tuple[str, ...]
    is_whole: bool

    def __str__(self) -> str:
        return shlex.join(("minigpt", *self.words))


@dataclass(frozen=True)
class Page:
    """A file of Markdown."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix() if self.path.is_absolute() else str(self.path)

    @cached_property
    def _parts(self) -> tuple[list[Block], list[str]]:
        """Its blocks, and its other lines: those of blocks are empty there."""
        blocks, rest = [], []
        lines, fence, before, follows = iter(enumerate(self.text.splitlines(), 1)), None, "", None
        for number, line in lines:
            rest.append("")
            if fence := FENCE.match(line):
                inside = []
                for _, line in lines:  # up to the closing fence
                    rest.append("")
                    if line.strip().startswith(fence[2]) and not line.strip(" `~"):
                        break
                    inside.append(line + "\n")
                else:
                    raise AssertionError(f"{self.name}:{number}: the fence is not closed")
                text = textwrap.dedent("".join(inside))
                blocks.append(Block(number + 1, fence[3], text, before, follows))
                before, follows = line, "quote" if blocks[-1].cited else fence[3]
            else:
                rest[-1] = line
                if line.strip():
                    before, follows = line, None
        return blocks, rest

    @property
    def blocks(self) -> list[Block]:
        return self._parts[0]

    @property
    def quotes(self) -> list[Block]:
        return [block for block in self.blocks if block.cited]

    @property
    def code(self) -> list[tuple[Block, str | None]]:
        """Blocks of Python that are no quotes, each with the output that stands below it."""
        printed = {
            i: block.text
            for i, block in enumerate(self.blocks)
            if (block.language, block.follows) == ("text", "python")
        }
        return [(block, printed.get(i + 1)) for i, block in enumerate(self.blocks) if block.is_code]

    @cached_property
    def _indented(self) -> list[bool]:
        """Whether a line is of a block that is set in by four spaces."""
        found, inside, gap = [], False, True
        for line in self._parts[1]:
            if line.strip():
                inside = line.startswith("    ") and (gap or inside)
            gap = not line.strip()
            found.append(inside and not gap)
        return found

    @property
    def prose(self) -> str:
        """All but code; spans of code are in it."""
        lines = zip(self._parts[1], self._indented, strict=True)
        return "\n".join("" if is_code else line for line, is_code in lines)

    @property
    def shell(self) -> Iterator[str]:
        """Lines for a shell; what goes on after a backslash is one."""
        lines = zip(self._parts[1], self._indented, strict=True)
        texts = ["\n".join(line for line, is_code in lines if is_code)]
        texts += [block.text for block in self.blocks if block.language in SHELL]
        for text in texts:
            yield from (line.strip() for line in re.sub(r" *\\\n\s*", " ", text).splitlines())

    @property
    def commands(self) -> list[Command]:
        """Commands of this program."""
        found = [words for line in self.shell for words in _commands_in(line)]
        spans = [" ".join(span.split()) for span in SPAN.findall(self.prose)]
        begins = re.compile(r"(?:\S*/|.*-m )?minigpt \S")
        mentions = [words for span in spans if begins.match(span) for words in _commands_in(span)]
        return [
            *(_command(words, False) for words in dict.fromkeys(found)),
            *(_command(words, True) for words in dict.fromkeys(mentions)),
        ]

    @property
    def links(self) -> list[str]:
        """Where links and pictures lead, within the repository."""
        targets = LINK.findall(SPAN.sub("", self.prose))
        return [target for target in targets if not re.match(r"[a-z]+:", target)]

    @property
    def figures(self) -> dict[str, str]:
        """The pictures it shows, by the path that stands there, and what each is said to show."""
        return {path: words for words, path in FIGURE.findall(self.prose)}

    @property
    def headings(self) -> list[str]:
        """The names by which GitHub links to its headings."""
        found: list[str] = []
        for title in re.findall(r"^#{1,6} +(.+?) *#*$", self.prose, re.MULTILINE):
            name = plain = slug(title)
            number = 0
            while name in found:
                number += 1
                name = f"{plain}-{number}"
            found.append(name)
        return found


def slug(title: str) -> str:
    """Return the name by which GitHub links to a heading."""
    title = LINK.sub(lambda link: link[0].partition("]")[0][1:], title)
    kept = (
        letter
        for letter in title.strip().lower()
        if letter in " -_" or unicodedata.category(letter)[0] in "LNM"
    )
    return "".join(kept).replace(" ", "-")


def _command(words: tuple[str, ...], is_mention: bool) -> Command:
    given = [word.rstrip("…") for word in words if word not in OPEN_ENDED]
    bare = is_mention and all(re.fullmatch("[a-z]+", word) for word in given)
    return Command(tuple(given), not bare and len(given) == len(words))


def _commands_in(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command in a line, numbers in the place of single letters."""
    line = re.sub(r"\bsbatch .*?train\.sbatch ", "minigpt train ", line)
    for start in PROGRAM.finditer(line):
        parts = shlex.shlex(
            STRETCH.match(line, start.end())[0], posix=True, punctuation_chars="|&;<>"
        )
        parts.whitespace_split = True
        words = []
        for word in parts:
            if set(word) <= set("|&;<>"):
                break
            words.append(re.sub(r"(?<==)[A-Z]$|^[A-Z]$", "512", word))
        yield tuple(words)


def read(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


def all_pages() -> list[Page]:
    """Return README, CONTRIBUTING and the pages of the docs."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    return [read(path) for path in paths]
