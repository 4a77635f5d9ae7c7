import time
import types

import pytest
import torch

from minigpt.learn.outcome import Answer, Failure, look_at
from minigpt.learn.rules import Check
from minigpt.learn.versions import Version


def looked(source, look=lambda module: module.f(torch.ones(2)), seconds=20.0):
    return look_at(Check(look), Version(source, "f.py"), seconds)


def test_an_answer_comes_with_the_call():
    found = looked("def f(x):\n    return x + 1")
    assert isinstance(found, Answer)
    assert found.call == "f(x=[1, 1])"
    assert found.value.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("source", "kind", "what"),
    [
        ("def f(x:", "syntax", "the file is no Python"),
        ("\0", "syntax", "the file is no Python"),
        ("def g(x):\n    return x", "missing", "the file has no f"),
        ("def f(x):\n    raise NotImplementedError", "unwritten", "f is still to be written"),
        ("def f(x):\n    return g(x)\ndef g(x):\n    raise NotImplementedError", "unwritten", "g is still"),
        ("def f(x, y):\n    return x", "signature", "f takes other arguments"),
        ("def f():\n    return 1", "signature", "f takes other arguments"),
        ("def f(x):\n    return x[5]", "raised", "IndexError"),
        ("def f(x):\n    exit(3)", "raised", "SystemExit"),
        ("def f(x):\n    return input()", "raised", "OSError"),
        ("import nothing_of_the_kind", "raised", "ModuleNotFoundError"),
        ("1 / 0", "raised", "ZeroDivisionError"),
        ("raise SystemExit", "raised", "SystemExit"),
        ("def f(x):\n    x += 1\n    return x", "changed", "f changes what it is given, x: masked_fill leaves"),
        ("def f(x):\n    return f(x)", "raised", "RecursionError"),
        ("f = 3", "unusable", "what is in the file, which cannot be used ('int' object is not callable)"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_general_is_told(source, kind, what):
    found = looked(source)
    assert isinstance(found, Failure)
    assert found.kind == kind
    assert what in found.what


def test_lines_are_those_of_the_file_alone():
    found = looked("import torch\ndef f(x):\n    y = 2\n    return torch.cat([x, y])")
    assert found.lines == ("line 4, in f: return torch.cat([x, y])",)
    assert looked("x = (\n1 +\n").lines[0].startswith("line ")


def test_lists_and_dictionaries_are_not_to_be_changed_either():
    source = "def f(x):\n    x.pop(0)\n    return 1"
    for given, kind in (([1, 2], "list"), ({0: [1, 2]}, "dict")):
        found = looked(source, lambda module, given=given: module.f(given))
        assert found.kind == "changed"
        assert f"work on a copy of the {kind}" in found.what
        assert len(given) > 0


def test_what_is_handed_over_are_copies():
    given = [torch.ones(2), [1, 2], {"a": [3]}, torch.nn.Parameter(torch.ones(1))]
    source = "def f(x):\n    x[0].zero_(); x[1].clear(); x[2]['a'].append(4); x[3].data.zero_()"
    assert looked(source, lambda module: module.f(given)).kind == "changed"
    assert [given[0].tolist(), given[1], given[2], given[3].item()] == [
        [1, 1],
        [1, 2],
        {"a": [3]},
        0,
    ]


def test_parameters_may_be_changed():
    source = "def f(x):\n    x.data += 1\n    return x"
    found = looked(source, lambda module: module.f(torch.nn.Parameter(torch.ones(1))))
    assert isinstance(found, Answer)


def test_methods_are_looked_at_too():
    source = "class A:\n    def go(self, x):\n        return x[3]\n"
    found = looked(source, lambda module: module.A().go([1]))
    assert found.call == "A().go(x=[1])"
    source = "import torch\nclass A(torch.nn.Module):\n    def forward(self, x):\n        raise NotImplementedError\n"
    assert (
        looked(source, lambda module: module.A()(torch.ones(1))).what
        == "forward is still to be written"
    )


def test_an_answer_that_cannot_be_used_is_shown():
    found = looked("def f(x):\n    return None", lambda module: module.f(1).shape)
    assert (found.kind, found.form, found.number) == ("unusable", "None", 0)
    assert found.what.startswith("None, which cannot be used (")


def test_what_is_built_in_is_called_though_it_tells_no_names():
    source = "import torch.nn.functional as F\nf = F.scaled_dot_product_attention"
    found = looked(source, lambda module: module.f(*[torch.ones(1, 1, 1, 1)] * 3))
    assert found.value.tolist() == [[[[1]]]]
    assert found.call.startswith("f(argument_1=[[[[1]]]], ")


def test_what_python_wants_to_know_of_a_module_is_there():
    source = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class A:
    text: str
    def f(self): return len(self.text)
"""
    assert looked(source, lambda module: module.A("abc").f()).value == 3


def test_an_endless_loop_ends():
    began = time.monotonic()
    found = looked("def f(x):\n    while True:\n        x = x + 1", seconds=0.2)
    assert (found.kind, found.what) == ("endless", "it took more than 0.2 s")
    assert found.lines[-1].startswith("line ")
    assert found.call == "f(x=[1, 1])"
    assert time.monotonic() - began < 20


def test_an_endless_loop_that_catches_everything_of_its_kind_ends():
    source = "def f(x):\n    while 1:\n        try:\n            x = x + 1\n        except Exception:\n            pass"
    assert looked(source, seconds=0.2).kind == "endless"


def test_random_numbers_that_nobody_seeded_are_the_same():
    source = "import random, torch\ndef f(x):\n    return [random.random(), torch.rand(1)]"
    one, other = looked(source), looked(source)
    assert one.value == other.value


def test_warnings_of_the_code_are_its_own_affair():
    assert isinstance(
        looked("import warnings\ndef f(x):\n    warnings.warn('old')\n    return x"), Answer
    )


def test_the_code_is_no_module_of_ours():
    found = looked("def f(x):\n    return __name__", lambda module: module.f(1))
    assert found.value == "<exercise>"
    assert isinstance(Version("x = 1", "x.py").module, types.ModuleType)
