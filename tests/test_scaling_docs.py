"""The table of docs/scaling.md is what its commands print; MINIGPT_WRITE_DOCS=1 writes it anew."""

import json
import os
import re
import shlex
import time
from pathlib import Path

import pytest
import torch

from minigpt.cli import run

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"
HEAD = (
    "| model | GPUs | shared by | memory, GB | sent, GB | step, s | tokens/s, thousands | checkpoint: GB / waits, s / written, s |\n"  # noqa: E501
    "|---|---:|---|---:|---:|---:|---:|---:|\n"
)
MANY = "--train.batch-size 1024"
ROWS = [
    *(("124M", n, MANY if n == 1024 else "") for n in (1, 8, 64, 1024)),
    *(("1B", n, MANY if n == 1024 else "") for n in (1, 8, 64, 1024)),
    *(("7B", n, "") for n in (1, 8, 64, 1024)),
    ("7B", 1024, "--parallel hsdp"),
]


def page() -> str:
    return PAGE.read_text()


def facts(model: str, processes: int, options: str, capsys) -> dict:
    """Return what the command in the page says of a model on so many GPUs."""
    command = re.search(rf"^    {model} +minigpt (plan .*) N$", page(), re.M)[1]
    words = shlex.split(f"{command} {processes} {options} --no-trial --json")
    assert run(time.monotonic(), words) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def shown(number: float) -> str:
    """Return three figures, and all that stand before the point."""
    digits = max(0, 2 - len(f"{number:.0f}") + 1) if number >= 1 else 3
    return f"{number:,.{digits}f}"


def span(least: float, most: float) -> str:
    low, high = shown(least), shown(most)
    return low if low == high else f"{low} – {high}"


def row(model: str, found: dict) -> str:
    scale = found["scale"]
    peak, saved, times = scale["memory"]["peak_bytes"], scale["checkpoint"], scale["time"]
    memory = shown(peak / 1e9)
    cells = [
        model,
        f"{scale['processes']:,}",
        {"none": "–"}.get(scale["kind"], scale["kind"]),
        f"**{memory}**" if peak > scale["device_bytes"] else memory,
        shown(scale["communication"]["sent_bytes"] / 1e9),
        span(times["seconds_at_least"], times["seconds_at_most"]),
        span(times["tokens_per_second_at_least"] / 1e3, times["tokens_per_second_at_most"] / 1e3),
        " / ".join(
            shown(n) for n in (saved["bytes"] / 1e9, saved["wait_seconds"], saved["write_seconds"])
        ),
    ]
    return f"| {' | '.join(cells)} |\n"


def table_in_page() -> list[str]:
    return page().partition(START)[2].partition(END)[0].splitlines(keepends=True)


same_torch = pytest.mark.skipif(
    torch.cuda.is_available() or not torch.__version__.startswith("2.13."),
    reason="the table is of torch 2.13 on a machine without a GPU",
)


FAST, SLOW = (1,), (3, 5, 12)  # rows that are looked at; all of them take most of a minute


def compare(numbers, capsys):
    for number in numbers:
        model, processes, options = ROWS[number]
        assert row(model, facts(model, processes, options, capsys)) == table_in_page()[2 + number]


@same_torch
def test_the_second_row_of_the_table_is_what_its_command_says(capsys):
    compare(FAST, capsys)


@pytest.mark.slow
@same_torch
def test_the_table_is_what_the_commands_say(capsys):
    if os.environ.get("MINIGPT_WRITE_DOCS"):
        made = HEAD + "".join(row(model, facts(model, n, more, capsys)) for model, n, more in ROWS)
        before, after = page().partition(START)[0], page().partition(END)[2]
        PAGE.write_text(before + START + made + END + after)
    assert len(table_in_page()) == 2 + len(ROWS)
    compare(SLOW, capsys)
