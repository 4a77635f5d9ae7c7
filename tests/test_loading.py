import io
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

import minigpt
from minigpt.config import LoraConfig
from minigpt.errors import UserError
from minigpt.files import cache_folder
from minigpt.finetune.lora import adapters, merge, swap_in
from minigpt.finetune.peft_format import write_adapter
from minigpt.interop import loading
from minigpt.interop.loading import base_of, download_model, fitting, load, load_both
from minigpt.interop.pth import write_pth
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import shared, tiny
from .test_causal import make as make_other
from .test_layouts import Fused
from .test_lora import shaken
from .test_pth import as_bytes

TOKENIZER = char_tokenizer("abcdefghijklmnopqrstuvwxyz ")


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    GPT(tiny()).save_pretrained(folder, TOKENIZER)
    return folder


def weights_of(model):
    return [tensor.flatten()[:3].tolist() for tensor in model.state_dict().values()]


def test_a_model_is_loaded_by_every_name_it_has(run, tmp_path):
    wanted, tokenizer = minigpt.load(run)
    write_pth(tmp_path / "model.pth", wanted.config, wanted.state_dict())
    shutil.copy(run / "tokenizer.json", tmp_path)
    content = (tmp_path / "model.pth").read_bytes()
    names = [
        str(run),
        run / "model.safetensors",
        tmp_path / "model.pth",
        str(tmp_path / "model.pth"),
    ]
    for name in (*names, content, io.BytesIO(content)):
        model, found = minigpt.load(name)
        assert weights_of(model) == weights_of(wanted)
        assert not model.training
        assert (
            found is None
            if isinstance(name, bytes | io.BytesIO)
            else found.pieces == tokenizer.pieces
        )
    assert minigpt.load(content, tokenizer)[1] is tokenizer
    assert minigpt.load(content, str(run))[1].pieces == tokenizer.pieces


def test_what_was_inferred_is_said(caplog):
    with caplog.at_level(logging.WARNING, "minigpt"):
        minigpt.load(as_bytes(Fused().state_dict()))
    assert caplog.messages[0].startswith(
        "the checkpoint: read off its tensors: 2 layers, 64 channels, 65 ids"
    )


def test_weights_with_as_many_rows_as_gpt2_take_its_tokenizer(monkeypatch):
    asked = []
    made = bpe_tokenizer([])
    monkeypatch.setattr(loading, "find_tokenizer", lambda name: asked.append(name) or made)
    model = GPT(tiny(vocab_size=50304, n_embd=8, n_head=2))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    with pytest.raises(UserError, match="how many heads its 8 channels make"):
        load(buffer)
    write = as_bytes(Fused().state_dict() | {"transformer.wte.weight": torch.ones(50304, 64)})
    state = torch.load(io.BytesIO(write), weights_only=True)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    assert load(as_bytes(state))[1] is made
    assert asked == ["gpt2"]


def test_gpt2s_own_tokenizer_is_read_from_the_files_that_lie_with_a_model(tmp_path):
    gpt2 = shared("gpt2")
    GPT(tiny(vocab_size=50304)).save_pretrained(tmp_path)
    shutil.copy(gpt2 / "vocab.bpe", tmp_path / "merges.txt")
    shutil.copy(gpt2 / "encoder.json", tmp_path / "vocab.json")
    assert load(tmp_path)[1].vocab_size == 50257


def test_characters_of_nanogpt_are_taken_without_an_end_of_text():
    characters = char_tokenizer([chr(i) for i in range(33, 33 + 65)])
    assert characters.vocab_size == 66
    model, tokenizer = load(as_bytes(Fused().state_dict()), characters)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.specials) == (65, None, {})
    assert tokenizer.encode("ABC") == characters.encode("ABC")
    assert isinstance(minigpt.generate(model, tokenizer, "AB", max_tokens=3), str)


def test_a_tokenizer_that_does_not_fit_is_refused_with_both_sizes(tmp_path):
    GPT(tiny(vocab_size=20)).save_pretrained(tmp_path, TOKENIZER)
    with pytest.raises(UserError, match="the tokenizer has 28 ids but the model was built for 20"):
        load(tmp_path)
    padded = GPT(tiny(vocab_size=40))
    assert fitting(TOKENIZER, padded, "here") is TOKENIZER


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no model at .*none; pass a run, .* \.pth"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match=r"there is no model at .*none\.pth"):
        load(tmp_path / "none.pth")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"there is no model at .*notes\.txt"):
        load(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"has no config\.json"):
        load(tmp_path)
    GPT(tiny()).save_pretrained(tmp_path)
    assert load(tmp_path)[1] is None
    with pytest.raises(
        UserError, match=r"comes without a tokenizer; .* minigpt import PATH --tokenizer PATH"
    ):
        load_both(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"})[:-3])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load(tmp_path)


def test_a_model_of_the_hub_is_fetched_once_without_pickles_or_code(run, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, *, local_dir, allow_patterns):
        asked.append((name, allow_patterns))
        if len(asked) > 1:
            raise OSError("no network")
        shutil.copytree(run, local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    first = load("hf:someone/small")
    assert weights_of(first[0]) == weights_of(load(run)[0])
    assert not any(pattern.endswith(("bin", "py", "pt", "*")) for pattern in asked[0][1])
    assert weights_of(load("hf:someone/small")[0]) == weights_of(first[0])
    assert [name for name, _ in asked] == ["someone/small"] * 2
    assert (cache_folder() / "models" / "someone--small" / "config.json").is_file()
    with pytest.raises(
        UserError, match=r"hf:someone/other cannot be fetched \(no network\); download it elsewhere"
    ):
        load("hf:someone/other")


def test_without_a_network_the_hub_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="hf:nobody/nothing cannot be fetched") as refused:
        download_model("nobody/nothing")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["", "a", "a/b/c", "../b", "a/..", "a/.b", "a/b c", "/etc/passwd", "a\\b/c"]
)
def test_what_names_no_model_of_the_hub_is_refused_before_anything_is_fetched(name):
    with pytest.raises(UserError, match="names no model; wanted hf:OWNER/NAME"):
        load(f"hf:{name}")


# ------------------------------------------------------------------------------------------------------------ adapters

BPE = bpe_tokenizer([(97, 98), (256, 99)])


def make_adapter(folder, base, rows=()):
    """Write an adapter of a model; return the model with the adapter merged into it."""
    model, _ = load(folder / "base")
    shaken(swap_in(model, LoraConfig(rank=2), rows=rows))
    write_adapter(folder / "adapter", model, base)
    return merge(model).eval()


def make_base(folder, **switches):
    torch.manual_seed(0)
    GPT(tiny(vocab_size=BPE.vocab_size, **switches)).save_pretrained(folder, BPE)


def test_an_adapter_is_loaded_with_its_base_merged_or_to_go_on_with(tmp_path):
    make_base(tmp_path / "base")
    model = make_adapter(tmp_path, str(tmp_path / "base"), rows=[257])
    merged, tokenizer = load(tmp_path / "adapter")
    apart, _ = load(str(tmp_path / "adapter"), merged=False)
    ids = torch.tensor([[*tokenizer.encode("abc abc"), 257]])
    torch.testing.assert_close(merged(ids), model(ids), atol=1e-5, rtol=0)
    torch.testing.assert_close(apart(ids), model(ids), atol=1e-5, rtol=0)
    assert not merged.training
    assert not apart.training
    assert merged.state_dict().keys() == model.state_dict().keys()
    assert adapters(apart)
    assert tokenizer.fingerprint() == BPE.fingerprint()
    assert load_both(tmp_path / "adapter")[1].fingerprint() == BPE.fingerprint()


def test_the_path_of_a_base_counts_from_here_or_from_the_adapter(tmp_path, monkeypatch):
    make_base(tmp_path / "base")
    make_adapter(tmp_path, "../base")
    assert base_of(tmp_path / "adapter").resolve() == tmp_path / "base"
    monkeypatch.chdir(tmp_path)
    make_adapter(tmp_path, "base")
    assert base_of(tmp_path / "adapter") == Path("base")
    load("adapter")


def test_a_base_of_the_hub_is_fetched_by_its_name(tmp_path, monkeypatch):
    make_base(tmp_path / "base")
    make_adapter(tmp_path, "hf:some-one/small-1.0")
    asked = []
    monkeypatch.setattr(
        loading, "download_model", lambda name: asked.append(name) or tmp_path / "base"
    )
    load(tmp_path / "adapter")
    assert asked == ["some-one/small-1.0"]


def test_an_adapter_without_a_usable_base_is_refused(tmp_path):
    make_base(tmp_path / "base")
    for base, text in (
        ("", "names no model that it belongs to; put a path or a name of the Hub under"),
        ("/not/there/\x1b", r"belongs to the model /not/there/\\x1b, which is not there; put its"),
        ("a\0b", r"belongs to the model a\\x00b, which is not there"),
        ("../adapter", "which is an adapter itself; merge that one first: minigpt export"),
    ):
        make_adapter(tmp_path, base)
        with pytest.raises(UserError, match=text):
            load(tmp_path / "adapter")


def test_an_adapter_brings_its_own_tokenizer(tmp_path):
    make_base(tmp_path / "base")
    make_adapter(tmp_path, "../base")
    other = bpe_tokenizer([(97, 98)])
    other.save(tmp_path / "adapter")
    assert load(tmp_path / "adapter")[1].fingerprint() == other.fingerprint()


def test_an_adapter_of_a_model_that_transformers_computes_is_refused(tmp_path):
    make_base(tmp_path / "base")
    make_adapter(tmp_path, "../other")
    make_other("gpt_neox", tmp_path / "other")
    with pytest.raises(UserError, match="a gpt_neox model is not adapted here: sample and eval"):
        load(tmp_path / "adapter")
