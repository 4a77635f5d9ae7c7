"""Recipes are carried out as they stand, by a shell: with smaller models, fewer steps, and texts of the same layout."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import transformers

from .conftest import nonsense
from .pages import DOCS, ROOT, Page, read
from .sameness import difference_of_words
from .smaller import smaller
from .talking import write_chats

RECIPES = [read(path) for path in sorted((DOCS / "recipes").glob("*.md"))]
SHIM = f"""#!{sys.executable}
import sys
from tests.smaller import carried_out
sys.exit(carried_out(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def materials(tmp_path_factory, trained, small_text):
    """What recipes take for given: texts, conversations, questions, models, and `minigpt` for a shell."""
    folder = tmp_path_factory.mktemp("materials")
    for name in ("my-text.txt", "shakespeare.txt"):
        (folder / name).write_text("ROMEO:\n" + small_text.read_text())
    (folder / "stories.txt").write_text(
        "<|endoftext|>\n".join(nonsense(40, seed) for seed in range(30))
    )
    write_chats(folder / "chats.jsonl")
    questions = [
        {"context": "the cat", "choices": ["sat on", "and then ran"], "answer": i % 2}
        for i in range(4)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    for name in ("base", "mine", "chat", "gpt2"):
        shutil.copytree(trained, folder / "runs" / name)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 320}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).save_pretrained(
        folder / "gpt2-like"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained / name, folder / "gpt2-like")
    (folder / "bin").mkdir()
    (folder / "bin" / "minigpt").write_text(SHIM)
    (folder / "bin" / "minigpt").chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RECIPES, ids=[page.path.stem for page in RECIPES])
def test_a_recipe_is_carried_out(page, materials, tmp_path):
    wanted = made_by(page)
    for path in materials.iterdir():
        # A recipe makes what it goes on with; what it takes for given is there.
        if path.name != "runs":
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    for run in (materials / "runs").iterdir():
        if f"runs/{run.name}" not in wanted:
            shutil.copytree(run, tmp_path / "runs" / run.name)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    ran = 0
    for number, block in enumerate(page.blocks):
        if block.why_not_run or block.language not in ("sh", "python"):
            continue
        program = (
            ["bash", "-eu", "-o", "pipefail"] if block.language == "sh" else [sys.executable, "-"]
        )
        done = subprocess.run(
            program,
            input=block.text,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (
            f"{page.name}:{block.line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
        ran += 1
        follows = page.blocks[number + 1 : number + 2]
        if block.language == "python" and follows and follows[0].follows == "python":
            assert difference_of_words(follows[0].text, done.stdout) is None
    assert ran
    for name in wanted:
        assert (tmp_path / name).exists(), name


def made_by(page: Page) -> set[str]:
    """Return what the commands of a page that are run are told to write."""
    found = set()
    for block in page.blocks:
        if block.language != "sh" or block.why_not_run:
            continue
        for line in block.text.splitlines():
            words = line.split()
            out = words[words.index("--out") + 1] if "--out" in words else "$"
            if words[:1] == ["minigpt"] and "$" not in out:
                found.add(out)
    return found


def test_little_of_the_recipes_is_left_out():
    left_out = [block for page in RECIPES for block in page.blocks if block.why_not_run]
    assert len(left_out) <= 9
    for block in left_out:
        assert block.why_not_run.startswith(("needs ", "serves ", "waits "))


def test_a_smaller_command_is_the_same_but_for_what_takes_long():
    line = "train --preset demo --data a.txt --minutes 5 --model.qk-norm=false --model.n-layer 9 --out r"
    words = line.split()
    made = smaller(words)
    assert made[:6] == ["train", "--preset", "demo", "--data", "a.txt", "--model.qk-norm=false"]
    assert made[made.index("--model.n-layer") + 1] == "1"
    assert "--minutes" not in made
    assert made[made.index("--out") + 1] == "r"
    assert smaller(["sample", "r", "--prompt", "a"])[-2:] == ["--max-tokens", "5"]
    assert "gpt2-like" in smaller(["train", "--from", "hf:openai-community/gpt2", "--data", "a"])
