import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt.config import LoraConfig
from minigpt.errors import UserError
from minigpt.finetune.adapter_form import AdapterForm, ChatForm
from minigpt.finetune.chatml import CHATML
from minigpt.finetune.lora import swap_in
from minigpt.interop.export import chat_template
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer

from .conftest import SWITCHES
from .talking import write_base
from .test_lora import shaken

TOKENIZER = bpe_tokenizer([])
ROWS = (257, 258)


def adapted(base, seed=0):
    return shaken(swap_in(GPT.from_pretrained(base), LoraConfig(rank=2), rows=ROWS), seed)


def written(folder, *, exact, **switches):
    base = write_base(folder / "base", **switches)
    model, form = adapted(base), AdapterForm(str(base), CHATML)
    form.write(folder / "out", model, form.tensors(model), TOKENIZER, exact=exact)
    return model, form


@pytest.mark.parametrize("name", SWITCHES)
def test_a_checkpoint_of_an_adapter_is_read_to_the_last_bit(name, tmp_path):
    model, form = written(tmp_path, exact=True, **SWITCHES[name] | {"n_head": 4})
    found = form.read(tmp_path / "out", adapted(tmp_path / "base", seed=1))
    assert found.keys() == form.tensors(model).keys()
    assert all(torch.equal(found[name], p) for name, p in form.tensors(model).items())


@pytest.mark.parametrize("tied", [True, False])
def test_the_directory_alone_says_it_nearly(tied, tmp_path):
    model, form = written(tmp_path, exact=False, tie_embeddings=tied)
    assert not (tmp_path / "out" / "trained.safetensors").exists()
    found = form.read(tmp_path / "out", adapted(tmp_path / "base", seed=1))
    wanted = form.tensors(model)
    assert found.keys() == wanted.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[key].detach(), rtol=0, atol=1e-6)


def test_what_is_written_is_what_was_given_and_not_what_the_model_has_become(tmp_path):
    base = write_base(tmp_path / "base")
    model, form = adapted(base), AdapterForm(str(base), CHATML)
    before = {name: p.detach().clone() for name, p in form.tensors(model).items()}
    shaken(model, seed=5)
    form.write(tmp_path / "out", model, before, TOKENIZER, exact=False)
    found = form.read(tmp_path / "out", model)
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=1e-6)


def test_it_is_talked_with_as_it_was_tuned(tmp_path):
    written(tmp_path, exact=False)
    assert chat_template(tmp_path / "out") == CHATML


@pytest.mark.parametrize("exact", [True, False])
def test_another_adapter_is_refused(exact, tmp_path):
    _, form = written(tmp_path, exact=exact)
    other = swap_in(GPT.from_pretrained(tmp_path / "base"), LoraConfig(rank=3), rows=ROWS)
    with pytest.raises(UserError, match="another adapter"):
        form.read(tmp_path / "out", other)
    other = swap_in(GPT.from_pretrained(tmp_path / "base"), LoraConfig(rank=2), rows=(3, 4))
    if not exact:
        with pytest.raises(UserError, match="rows of other tokens"):
            form.read(tmp_path / "out", other)


def test_numbers_that_are_none_are_refused(tmp_path):
    model, form = written(tmp_path, exact=True)
    path = tmp_path / "out" / "trained.safetensors"
    tensors = load_file(path)
    tensors["blocks.0.attention.query.lora_A"][0, 0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(UserError, match="not finite"):
        form.read(tmp_path / "out", model)


def test_all_weights_come_with_their_template_and_what_ends_an_answer(tmp_path):
    base = write_base(tmp_path / "base")
    model, form = GPT.from_pretrained(base), ChatForm(CHATML, frozenset([258]))
    form.write(tmp_path / "out", model, form.tensors(model), TOKENIZER, exact=True)
    assert chat_template(tmp_path / "out") == CHATML
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [258, TOKENIZER.eos_id]
    found = form.read(tmp_path / "out", model)
    assert all(torch.equal(found[name], t) for name, t in model.state_dict().items())
