import dataclasses
import json
import os

import pytest
import torch
import transformers

import minigpt
from minigpt.config import LoraConfig
from minigpt.errors import ProofError, UserError
from minigpt.finetune.lora import swap_in
from minigpt.finetune.peft_format import write_adapter
from minigpt.interop import export as exporting
from minigpt.interop.export import chat_template, check_free, compare, export, import_model
from minigpt.interop.gguf import read_gguf
from minigpt.interop.loading import load
from minigpt.interop.pth import write_pth
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import SWITCHES, tiny
from .test_causal import make as make_other
from .test_layouts import Fused
from .test_lora import shaken
from .test_pth import as_bytes

TOKENIZER = bpe_tokenizer([(97, 98), (256, 99)])
FOR_GGUF = ["gpt2", "gpt2, untied", "llama", "llama, bias, multi-query", "qwen3", "arcee"]


def make_run(folder, name="llama", **switches):
    torch.manual_seed(0)
    model = GPT(tiny(vocab_size=TOKENIZER.vocab_size, **(SWITCHES[name] | switches))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    model.save_pretrained(folder, TOKENIZER)
    return model


@pytest.mark.parametrize("to", ["hf", "pth"])
@pytest.mark.parametrize("name", SWITCHES)
def test_an_export_is_the_model_bit_for_bit_and_says_so(name, to, tmp_path):
    model = make_run(tmp_path / "run", name)
    proof = export(tmp_path / "run", to, tmp_path / "out.pth")
    assert (proof.largest_difference, proof.positions) == (0, 24)
    assert proof.ids > 30 if to == "hf" else proof.ids == 0
    again, _ = load(tmp_path / "out.pth")
    assert again.config == model.config
    assert all(torch.equal(t, model.state_dict()[key]) for key, t in again.state_dict().items())
    assert sorted(os.listdir(tmp_path)) == ["out.pth", "run"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("name", FOR_GGUF)
def test_a_gguf_file_is_the_model_within_its_precision(name, dtype, tmp_path):
    make_run(tmp_path / "run", name)
    proof = export(tmp_path / "run", "gguf", tmp_path / "out.gguf", dtype=dtype)
    assert (proof.largest_difference == 0) == (dtype == "f32")
    assert proof.largest_share <= exporting.LARGEST_SHARE[dtype]
    assert proof.ids == TOKENIZER.vocab_size
    assert read_gguf(tmp_path / "out.gguf")[0].n_layer == 2


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_other_programs_get_the_precision_that_was_asked_for(dtype, tmp_path):
    make_run(tmp_path / "run")
    for to in ("hf", "pth"):
        proof = export(tmp_path / "run", to, tmp_path / to, dtype=dtype)
        assert 0 < proof.largest_share <= exporting.LARGEST_SHARE[dtype]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert str(theirs.dtype) == {"f16": "torch.float16", "bf16": "torch.bfloat16"}[dtype]


def test_what_comes_out_wrong_is_not_kept(tmp_path, monkeypatch):
    model = make_run(tmp_path / "run")
    monkeypatch.setattr(
        exporting, "write_pth", lambda path, config, state: write_pth(path, config, worse(state))
    )

    def worse(state):
        other = state["blocks.1.attention.key.weight"].flip(0)
        return state | {"blocks.1.attention.key.weight": other}

    for dtype in ("f32", "f16", "bf16"):
        with pytest.raises(
            ProofError,
            match=rf"and is not kept: .*1\.attention\.key\.weight .* more than {dtype} explains",
        ):
            export(tmp_path / "run", "pth", tmp_path / "out.pth", dtype=dtype)
    assert os.listdir(tmp_path) == ["run"]
    assert compare(model, model, tmp_path, "", 0).largest_difference == 0


def test_logits_that_move_without_their_tensors_are_no_proof(tmp_path, monkeypatch):
    make_run(tmp_path / "run", "llama")

    def other_rotation(path, config, state):
        write_pth(path, dataclasses.replace(config, rope_theta=100.0), state)

    monkeypatch.setattr(exporting, "write_pth", other_rotation)
    with pytest.raises(
        ProofError, match=r"is not the same model, and is not kept: .* at most 0\.0001"
    ):
        export(tmp_path / "run", "pth", tmp_path / "out.pth")
    assert os.listdir(tmp_path) == ["run"]


def test_a_tokenizer_that_comes_out_wrong_is_not_kept(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    right = exporting.write_model
    other = bpe_tokenizer([(98, 97), (256, 99)])
    monkeypatch.setattr(exporting, "write_model", lambda path, c, s, t: right(path, c, s, other))
    with pytest.raises(ProofError, match="the tokenizer that was written gives other ids"):
        export(tmp_path / "run", "hf", tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = make_run(tmp_path / "run")
    model.norm.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "run", TOKENIZER)
    with pytest.raises(UserError, match=r"norm\.weight holds numbers that are not finite"):
        export(tmp_path / "run", "pth", tmp_path / "out.pth")


def test_numbers_too_large_for_half_are_refused(tmp_path):
    model = make_run(tmp_path / "run")
    model.norm.weight.data[0] = 1e6
    model.save_pretrained(tmp_path / "run", TOKENIZER)
    with pytest.raises(
        UserError, match=r"norm\.weight has numbers that f16 cannot hold; take --quantize bf16"
    ):
        export(tmp_path / "run", "hf", tmp_path / "out", dtype="f16")
    assert os.listdir(tmp_path) == ["run"]


def test_a_chat_template_goes_along_from_either_place(tmp_path):
    make_run(tmp_path / "run")
    settings = tmp_path / "run" / "tokenizer_config.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"chat_template": "{{ older }}"})
    )
    export(tmp_path / "run", "hf", tmp_path / "first")
    assert (tmp_path / "first" / "chat_template.jinja").read_text() == "{{ older }}"
    (tmp_path / "run" / "chat_template.jinja").write_text("{{ newer }}")
    export(tmp_path / "run", "hf", tmp_path / "second")
    assert (tmp_path / "second" / "chat_template.jinja").read_text() == "{{ newer }}"
    export(tmp_path / "run", "gguf", tmp_path / "third.gguf")
    assert b"{{ newer }}" in (tmp_path / "third.gguf").read_bytes()


def test_a_chat_template_is_found_wherever_it_lies(tmp_path):
    step = tmp_path / "run" / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    assert chat_template(tmp_path / "run") is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ d }}"}]
    (tmp_path / "run" / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert chat_template(tmp_path / "run") == chat_template(step) == "{{ d }}"
    (tmp_path / "run" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8: byte 0"):
        chat_template(step)


def test_places_that_are_taken_are_refused_before_any_work(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for to, out, sentence in (
        ("hf", "file", "is a file; a folder was wanted"),
        ("hf", "run", "is not empty; choose another"),
        ("pth", "run", "is a folder; the name of a file was wanted"),
        ("pth", "file", "is there already; remove it, or choose another name"),
        ("gguf", "run/config.json", "is there already; remove it"),
        ("pth", "file/out.pth", "file; choose another place|cannot be"),
        ("hf", "link", "is a link; name a new place"),
        ("hf", "new/..", "is empty or the folder you are in"),
        ("pth", "x" * 300, "File name too long"),
        ("hf", "", "is empty or the folder you are in"),
    ):
        with pytest.raises(UserError, match=sentence):
            export(tmp_path / "nothing", to, tmp_path / out if out else type(tmp_path)())
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty", folder=True)
    export(tmp_path / "run", "hf", tmp_path / "empty")
    assert load(tmp_path / "empty")[1] is not None


def test_forms_that_do_not_exist_are_refused(tmp_path):
    make_run(tmp_path / "run", "own: gate")
    with pytest.raises(UserError, match="attention_gate"):
        export(tmp_path / "run", "gguf", tmp_path / "out.gguf")
    with pytest.raises(UserError, match="q8_0 is a form of GGUF; with --to hf take f16 or bf16"):
        export(tmp_path / "run", "hf", tmp_path / "out", dtype="q8_0")
    GPT(tiny()).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="comes without a tokenizer"):
        export(tmp_path / "bare", "gguf", tmp_path / "out.gguf")
    assert sorted(os.listdir(tmp_path)) == ["bare", "run"]


def test_a_model_of_another_architecture_is_not_written_and_who_does_it_is_said(tmp_path):
    make_other("mistral", tmp_path / "other")
    with pytest.raises(
        UserError, match=r"a mistral model is not written or exported here: .*convert_hf_to_gguf"
    ):
        export(tmp_path / "other", "pth", tmp_path / "out.pth")
    with pytest.raises(UserError, match="a mistral model is not written or exported here"):
        import_model(tmp_path / "other", tmp_path / "out")


def test_a_checkpoint_of_nanogpt_becomes_a_run_that_writes_and_is_measured(tmp_path):
    theirs = Fused(heads=4, bias=False)
    (tmp_path / "ckpt.pt").write_bytes(as_bytes({"model": theirs.state_dict()}))
    char_tokenizer([chr(i) for i in range(32, 32 + 65)]).save(tmp_path)
    lines = []
    proof = import_model(
        tmp_path / "ckpt.pt",
        tmp_path / "run",
        tokenizer=str(tmp_path),
        given={"n_head": 4},
        say=lines.append,
    )
    assert (proof.architecture, proof.largest_difference, proof.ids) == ("GPT2LMHeadModel", 0, 65)
    model, tokenizer = minigpt.load(tmp_path / "run")
    assert (model.config.n_head, tokenizer.vocab_size) == (4, 65)
    ids = torch.tensor([tokenizer.encode("THE CAT")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids), rtol=0, atol=1e-5)
    assert lines == []


def test_weights_may_be_imported_without_a_tokenizer_which_is_said(tmp_path):
    lines = []
    import_model(as_bytes(Fused().state_dict()), tmp_path / "run", say=lines.append)
    assert "it comes without a tokenizer" in lines[0]
    assert load(tmp_path / "run")[1] is None


def test_a_shape_that_a_directory_states_is_not_given_again(tmp_path):
    make_run(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"says its shape in its config\.json; leave --model\.n_head out"
    ):
        import_model(tmp_path / "run", tmp_path / "out", given={"n_head": 2})


@pytest.mark.parametrize(("name", "to"), [("gpt2", "hf"), ("qwen3", "hf"), ("llama", "pth")])
def test_an_adapter_is_written_merged_into_its_base(name, to, tmp_path):
    model = make_run(tmp_path / "run", name)
    (tmp_path / "run" / "chat_template.jinja").write_text("{{ messages }}")
    shaken(swap_in(model, LoraConfig(rank=2), rows=[3]))
    write_adapter(tmp_path / "adapter", model, "../run")
    proof = export(tmp_path / "adapter", to, tmp_path / "out.pth")
    assert proof.largest_difference == 0
    ids = torch.arange(24).view(2, 12)
    again, _ = load(tmp_path / "out.pth")
    torch.testing.assert_close(again(ids), model(ids), atol=1e-4, rtol=1e-5)
    if to == "hf":
        assert not (tmp_path / "out.pth" / "adapter_config.json").exists()
        assert (tmp_path / "out.pth" / "chat_template.jinja").read_text() == "{{ messages }}"
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out.pth")
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=1e-5)


def test_the_template_of_an_adapter_comes_before_that_of_its_base(tmp_path):
    model = make_run(tmp_path / "run")
    write_adapter(tmp_path / "adapter", swap_in(model, LoraConfig()), str(tmp_path / "run"))
    assert chat_template(tmp_path / "adapter") is None
    (tmp_path / "run" / "chat_template.jinja").write_text("base")
    assert chat_template(tmp_path / "adapter") == "base"
    (tmp_path / "adapter" / "chat_template.jinja").write_text("own")
    assert chat_template(tmp_path / "adapter") == "own"
