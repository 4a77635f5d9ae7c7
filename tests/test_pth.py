import io
import os
import pickle
import sys
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from minigpt.errors import UserError
from minigpt.interop.pth import read_checkpoint, write_pth
from minigpt.model.families import fill
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny
from .test_layouts import IDS, Fused

NANO = Fused(bias=False)
NANO_SHAPE = {
    "n_head": 1,
    "n_layer": 2,
    "n_embd": 64,
    "block_size": 16,
    "vocab_size": 65,
    "bias": False,
}


def as_bytes(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def logits(source):
    found = read_checkpoint(source)
    with torch.no_grad():
        return fill(GPT(found.config), found.tensors, "it").eval()(IDS)


@pytest.fixture(scope="module")
def wanted():
    with torch.no_grad():
        return NANO(IDS)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in NANO.state_dict().items()}


CONTENTS = {
    "a state dict": NANO.state_dict(),
    "nanoGPT's checkpoint": {
        "model": prefixed("_orig_mod."), "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "model_args": NANO_SHAPE, "iter_num": 3, "best_val_loss": torch.tensor(1.5), "config": {"out_dir": "out"},
    },
    "of DataParallel": {"state_dict": prefixed("module."), "epoch": 1},
    "compiled, then distributed": {"model_state_dict": prefixed("module._orig_mod.")},
    "distributed, then compiled": prefixed("_orig_mod.module."),
    "compiled block by block": {
        name.replace("h.0.", "h.0._orig_mod."): t for name, t in NANO.state_dict().items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_a_checkpoint_is_read_from_a_path_from_bytes_and_from_a_stream(name, wanted, tmp_path):
    content = as_bytes(CONTENTS[name])
    (tmp_path / "ckpt.pt").write_bytes(content)
    for source in (tmp_path / "ckpt.pt", content, io.BytesIO(content)):
        torch.testing.assert_close(logits(source), wanted, rtol=0, atol=1e-5)


def test_the_old_format_of_torch_is_read(wanted):
    old = as_bytes(NANO.state_dict(), _use_new_zipfile_serialization=False)
    torch.testing.assert_close(logits(old), wanted, rtol=0, atol=1e-5)


def test_safetensors_are_read_without_a_config(wanted, tmp_path):
    state = {n: t for n, t in NANO.state_dict().items() if n != "lm_head.weight"}
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    for source in (tmp_path / "weights.safetensors", safetensors.torch.save(state)):
        torch.testing.assert_close(logits(source), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SWITCHES)
def test_our_state_dict_keeps_its_shape_and_every_bit(name, tmp_path):
    torch.manual_seed(0)
    model = GPT(tiny(**SWITCHES[name]))
    write_pth(tmp_path / "model.pth", model.config, model.state_dict())
    found = read_checkpoint(tmp_path / "model.pth")
    assert (found.config, found.notes) == (model.config, [])
    plain = torch.load(tmp_path / "model.pth", weights_only=True)
    assert type(plain) is OrderedDict
    assert plain.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.tensors[name], tensor)
        assert torch.equal(plain[name], tensor)
    again = GPT(model.config)
    assert not any(again.load_state_dict(plain))
    assert os.listdir(tmp_path) == ["model.pth"]


def test_a_config_beside_a_file_says_what_its_tensors_are(tmp_path):
    model = GPT(tiny(**SWITCHES["llama"])).eval()
    model.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(as_bytes(state))
    for name in ("model.safetensors", "pytorch_model.bin"):
        found = read_checkpoint(tmp_path / name)
        assert found.config == model.config
        assert torch.equal(found.tensors["blocks.1.mlp.up.weight"], model.blocks[1].mlp.up.weight)


class Runs:
    """A pickle that makes a file when it is opened, if anything opens it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class RunsByName(Runs):
    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class RunsInBuild(Runs):
    def __reduce__(self):
        return (threading.Thread, (), {"_target": Path.touch, "_args": (self.path,)})


@pytest.mark.parametrize("kind", [Runs, RunsByName, RunsInBuild])
@pytest.mark.parametrize("place", ["alone", "beside tensors", "inside"])
@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_nothing_runs(kind, place, form, tmp_path):
    evil = kind(tmp_path / "ran")
    content = {
        "alone": evil,
        "beside tensors": NANO.state_dict() | {"extra": evil},
        "inside": {"model": NANO.state_dict(), "model_args": NANO_SHAPE | {"n_head": evil}},
    }[place]
    if form == "plain pickle":
        made = pickle.dumps(content, protocol=2)
    else:
        made = as_bytes(content, _use_new_zipfile_serialization=form == "zip")
    (tmp_path / "ckpt.pt").write_bytes(made)
    for source in (tmp_path / "ckpt.pt", made):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserError) as refused:
                read_checkpoint(source)
        assert "nothing was run" in str(refused.value) or "no checkpoint of PyTorch" in str(
            refused.value
        )
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_the_refusal_names_what_was_asked_for():
    with pytest.raises(
        UserError,
        match=r"asks for posix\.system when it is opened.*save model\.state_dict\(\) alone",
    ):
        read_checkpoint(as_bytes({"a": RunsByName("never")}))


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_a_file_cut_anywhere_is_refused_in_one_sentence(form):
    state = NANO.state_dict()
    if form == "safetensors":
        whole = safetensors.torch.save({"a.weight": torch.ones(30)})
    else:
        whole = as_bytes(state, _use_new_zipfile_serialization=form == "zip")
    for part in (0, 1, 5, 8, 9, 30, 100, len(whole) // 2, len(whole) - 9):
        with pytest.raises(UserError, match="the checkpoint cannot be loaded: it ") as refused:
            read_checkpoint(whole[:part])
        assert "\n" not in str(refused.value)


REFUSED = {
    "it holds a list; wanted a state dict": [1, 2],
    "it holds no tensors": {},
    "a is a int; wanted a state dict": {"a": 1},
    "7 is a Tensor; wanted a state dict, tensors by name": {7: torch.ones(1)},
    "a is a dict; wanted a state dict": {"a": {"b": torch.ones(1)}},
    "a is no plain tensor: sparse, quantised, or larger": {"a": torch.ones(3, 3).to_sparse()},
    "b is no plain tensor: .* larger than what is stored": {"b": torch.zeros(1).expand(10**12)},
    "c is no plain tensor": {"c": torch.empty(3, device="meta")},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_no_state_dict_is_refused(sentence):
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(as_bytes(REFUSED[sentence]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_layer": 10**9}, "n_layer is 1000000000; wanted"),
        ({"n_layers": 2}, "unknown setting model.n_layers"),
        ({7: 2}, "unknown setting model.7"),
        ({"n_head": "four"}, "model.n_head is 'four'; wanted a whole number"),
        ({"vocab_size": 7}, r"embedding\.weight is \(29, 32\), wanted \(7, 32\)"),
    ],
)
def test_settings_in_the_metadata_are_checked_like_any_other(settings, sentence, tmp_path):
    model = GPT(tiny())
    write_pth(tmp_path / "m.pth", model.config, model.state_dict())
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    state._metadata[""]["minigpt"] |= settings
    with pytest.raises(UserError, match=sentence):
        logits(as_bytes(state))


def test_a_path_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"none\.pth cannot be loaded: it cannot be read: No such file"
    ):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "name", ["module.transformer.ln_f.weight", "_orig_mod.transformer.ln_f.weight"]
)
def test_one_tensor_under_two_names_is_refused(name):
    with pytest.raises(
        UserError, match=r"transformer\.ln_f\.weight is there twice, with and without a prefix"
    ):
        read_checkpoint(as_bytes(NANO.state_dict() | {name: torch.ones(64)}))


def test_a_shape_that_a_file_states_is_not_given_again(tmp_path):
    model = GPT(tiny())
    write_pth(tmp_path / "m.pth", model.config, model.state_dict())
    with pytest.raises(UserError, match=r"its shape is in the metadata; leave --model\.n_head out"):
        read_checkpoint(tmp_path / "m.pth", {"n_head": 2})
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its shape is in the config\.json beside it; leave"):
        read_checkpoint(tmp_path / "model.safetensors", {"n_head": 2})


def test_what_is_nested_too_deeply_is_refused():
    deep: list = []
    for _ in range(3000):
        deep = [deep]
    state = NANO.state_dict()
    state._metadata[""]["minigpt"] = {"n_layer": deep}
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    made = as_bytes(state)
    sys.setrecursionlimit(limit)
    with pytest.raises(UserError, match="cannot be loaded: it is nested too deeply"):
        read_checkpoint(made)
