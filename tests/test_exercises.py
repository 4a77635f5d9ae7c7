"""Each exercise is proven: what is right passes in whatever way it is written; each known mistake is told by its hint.

The mistakes are made in the solution (`check.py`), and once more in other words (`attempts.py`), for a hint is to come
from what code does.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import minigpt
from minigpt.learn.judge import judge
from minigpt.learn.path import EXERCISES, find
from minigpt.learn.versions import rivals, rules_of, solution
from minigpt.model.attention import attend, attend_by_hand
from minigpt.model.layers import make_norm
from minigpt.model.rope import rotary_frequencies, rotate
from minigpt.optim.muon import orthogonalize_one, update_scale
from minigpt.tokenizer.bpe import BPE, train_merges

from .attempts import KNOWN, OTHER, RIGHT
from .conftest import nonsense, tiny

ROOT = Path(minigpt.__file__).parent.parent
ALONE = [
    exercise for exercise in EXERCISES if exercise.name != "processes"
]  # takes ten seconds to start


def some(rows, first=1000):
    """Mark what is slow: all of the exercise that needs processes, and what comes after the first few of another."""
    params, seen = [], Counter()
    for number, (exercise, *rest) in enumerate(rows):
        seen[exercise.name] += 1
        fast = exercise in ALONE and seen[exercise.name] <= first
        marks = [] if fast else pytest.mark.slow
        params.append(pytest.param(exercise, *rest, id=f"{exercise.name}-{number}", marks=marks))
    return params


def code(name):
    return solution(find(name)).module


@pytest.mark.parametrize(
    ("exercise", "attempt"),
    some([(e, attempt) for e in EXERCISES for attempt in ("", *RIGHT[e.name])]),
)
def test_what_is_right_passes(exercise, attempt):
    verdict = judge(exercise, exercise.solution + attempt)
    assert verdict.passed, verdict
    assert len(verdict.held) == verdict.checks >= 4


@pytest.mark.parametrize(
    ("exercise", "hint", "attempt"),
    some([(e, *one) for e in EXERCISES for one in KNOWN[e.name]], first=2),
)
def test_a_mistake_in_other_words_is_told_by_its_hint(exercise, hint, attempt):
    verdict = judge(exercise, exercise.solution + attempt)
    assert ", ".join(verdict.hints) == hint, verdict
    assert len(verdict.advice) == len(verdict.hints)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exercise", "words", "attempt"), some([(e, *one) for e in EXERCISES for one in OTHER[e.name]])
)
def test_what_no_known_mistake_explains_is_shown(exercise, words, attempt):
    verdict = judge(exercise, exercise.solution + attempt, patience=0)
    assert not verdict.passed
    assert not verdict.advice
    assert words in verdict.received + verdict.remark


@pytest.mark.parametrize("exercise", some([(e,) for e in EXERCISES]))
def test_three_mistakes_are_told_by_their_hints(exercise):
    for rival in rivals(exercise)[:: len(rivals(exercise)) // 3][:3]:
        verdict = judge(exercise, rival.version.source, patience=0)
        assert verdict.hints == (rival.mistakes[0].name,), verdict


@pytest.mark.slow
@pytest.mark.parametrize("exercise", some([(e,) for e in EXERCISES]))
def test_every_mistake_is_told_by_its_hint(exercise):
    for rival in rivals(exercise):
        verdict = judge(exercise, rival.version.source, patience=0)
        assert verdict.hints == (rival.mistakes[0].name,), verdict


@pytest.mark.parametrize("exercise", some([(e,) for e in ALONE]))
def test_the_file_to_fill_says_what_is_to_be_written(exercise):
    verdict = judge(exercise, exercise.start)
    assert verdict.hints == ("unwritten",)
    assert "still to be written" in verdict.received


def test_names_of_mistakes_are_names():
    for exercise in EXERCISES:
        names = [mistake.name for mistake in rules_of(exercise)[1]]
        assert len(set(names)) == len(names) >= 3
        assert all(mistake.variants and mistake.hint for mistake in rules_of(exercise)[1])


def test_pages_are_short_and_point_to_what_is_there():
    for exercise in EXERCISES:
        assert 20 <= len(exercise.page.splitlines()) <= 60, exercise.name
        assert max(map(len, exercise.page.splitlines())) <= 130, exercise.name
        files = re.findall(r"`((?:minigpt|tests)/[\w/]+\.py)`", exercise.pointer)
        assert files, exercise.name
        sources = [(ROOT / file).read_text("utf-8") for file in files]
        defined = {
            node.name
            for source in sources
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        named = set(re.findall(r"`([A-Za-z_]\w*)`", exercise.pointer))
        assert named <= defined | {"peft", "mqa"}, f"{exercise.name}: {named - defined}"


def test_pages_show_commands_that_there_are():
    for exercise in EXERCISES:
        for name in re.findall(r"minigpt learn \w+ (\w+)", exercise.page):
            assert find(name)


# The solutions do what the real thing does.


def test_attention_is_that_of_minigpt_and_of_torch():
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    mask = torch.ones(5, 5).tril().bool()
    ours = code("attention").attend(query, key, value, mask)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(query, key, value, mask))
    torch.testing.assert_close(ours, attend_by_hand(query, key, value, mask))
    key, value = (torch.randn(2, 1, 5, 8) for _ in range(2))
    torch.testing.assert_close(code("grouped").attend(query, key, value), attend(query, key, value))


def test_rope_is_that_of_minigpt():
    x, frequencies = torch.randn(1, 2, 5, 8), rotary_frequencies(8, 500.0)
    torch.testing.assert_close(code("rope").frequencies(8, 500.0), frequencies)
    angles = torch.outer(torch.arange(5.0), frequencies)
    ours = code("rope").rotate(x, torch.arange(5), 500.0)
    torch.testing.assert_close(ours, rotate(x, angles.cos(), angles.sin()))


def test_norms_are_those_of_minigpt():
    x = torch.randn(3, 32)
    for kind, name in (("rmsnorm", "rms_norm"), ("layernorm", "layer_norm")):
        norm = make_norm(tiny(norm=kind, norm_eps=1e-5).resolve())
        ours = getattr(code("rmsnorm"), name)(x, norm.weight, 1e-5)
        torch.testing.assert_close(ours, norm(x))


def test_merges_are_those_of_minigpt():
    words = {word.encode(): 3 + len(word) for word in set(nonsense(400).split())}
    merges = train_merges(words, 20)
    ours = code("bpe")
    assert ours.train_merges({tuple(word): count for word, count in words.items()}, 20) == merges
    assert ours.encode("treetop", merges) == BPE(merges).encode("treetop")


def test_muon_is_that_of_minigpt():
    matrix = torch.randn(6, 4)
    torch.testing.assert_close(code("muon").orthogonal(matrix), orthogonalize_one(matrix))
    weight, _ = code("muon").muon_step(torch.zeros(6, 4), matrix, torch.zeros(6, 4), 0.1)
    torch.testing.assert_close(weight, -0.1 * update_scale(6, 4) * orthogonalize_one(matrix))
