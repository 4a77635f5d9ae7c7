import copy
import json
import sys

import pytest
import torch
import transformers

import minigpt
from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.interop.causal import CausalLM, load_causal
from minigpt.interop.loading import load_both
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer

from .conftest import nonsense, sentencepiece_like

TOKENIZER = bpe_tokenizer([])
SMALL = {
    "vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24,
    "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip
OTHERS = {
    "mistral": transformers.MistralConfig(**SMALL, sliding_window=8),
    "gemma2": transformers.Gemma2Config(**SMALL, head_dim=8, sliding_window=8, final_logit_softcapping=5.0),
    "gpt_oss": transformers.GptOssConfig(**SMALL, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "gpt_neox": transformers.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "mamba": transformers.MambaConfig(vocab_size=259, hidden_size=32, state_size=4, num_hidden_layers=2),
}  # fmt: skip


def make(name, folder, tokenizer=TOKENIZER):
    torch.manual_seed(0)
    config = copy.deepcopy(OTHERS[name])
    config.vocab_size = tokenizer.vocab_size
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_another_model_is_drawn_from_as_transformers_does(name, tmp_path):
    theirs = make(name, tmp_path)
    model, tokenizer = load_both(tmp_path)
    assert isinstance(model, CausalLM)
    ids = torch.tensor([tokenizer.encode("the cat")])
    torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    cache = model.new_cache()
    parts = [model(part, cache=cache) for part in ids.split([3, 1, 2, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), theirs(ids).logits, rtol=0, atol=1e-4)
    assert cache.length == ids.size(1)
    wanted = theirs.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.size(1) :].tolist()
    ends = wanted.index(256) if 256 in wanted else len(wanted)
    text = minigpt.generate(model, tokenizer, "the cat", max_tokens=12, temperature=0)
    assert text == tokenizer.decode(wanted[:ends])


@torch.no_grad()
def test_its_loss_is_that_of_transformers(tmp_path):
    theirs = make("gemma2", tmp_path)
    model, _ = load_both(tmp_path)
    ids = torch.randint(0, 259, (2, 20), generator=torch.Generator().manual_seed(0))
    loss, count = TrainStep(model)(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(loss / count, theirs(ids, labels=ids).loss)


def test_a_text_begins_with_what_its_tokenizer_puts_before_it(tmp_path):
    backend = sentencepiece_like(nonsense(400))
    theirs = make("mistral", tmp_path, minigpt.Tokenizer(backend, eos="</s>"))
    model, tokenizer = load_both(tmp_path)
    asked = transformers.AutoTokenizer.from_pretrained(tmp_path)("the cat", return_tensors="pt")
    assert asked.input_ids[0, 0] == 1
    wanted = theirs.generate(
        asked.input_ids, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=2
    )
    new = wanted[0, asked.input_ids.size(1) :].tolist()
    text = minigpt.generate(model, tokenizer, "the cat", max_tokens=8, temperature=0)
    assert text == b"".join(tokenizer.pieces[i] for i in new).decode(errors="replace")


def test_it_is_not_trained_written_or_read_across_documents(tmp_path):
    make("mistral", tmp_path)
    model, _ = load_both(tmp_path)
    with pytest.raises(
        UserError, match=r"a mistral model is not written or exported here: .* vLLM"
    ):
        model.save_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match=r"a mistral model is not trained here: .* TRL or"):
        TrainStep(model).train()
    assert not model.training
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(UserError, match="sees across the ends of documents"):
        model.hidden(ids, documents=ids)
    with pytest.raises(UserError, match="its model_type is 'mistral'; wanted one of"):
        GPT.from_pretrained(tmp_path)


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path):
    make("mistral", tmp_path)
    change(tmp_path, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"model\.layers\.2\..* is missing.* and 5 more"):
        load_both(tmp_path)
    change(tmp_path, num_hidden_layers=1)
    with pytest.raises(UserError, match=r"model\.layers\.1\..* is not part of the model"):
        load_both(tmp_path)
    change(tmp_path, num_hidden_layers=2, intermediate_size=64)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_both(tmp_path)


def test_what_transformers_does_not_know_is_refused_in_one_sentence(tmp_path):
    make("mistral", tmp_path)
    for model_type in ("marvellous", "clip", "bert"):
        change(tmp_path, model_type=model_type)
        with pytest.raises(UserError, match="cannot be loaded") as refused:
            load_causal(tmp_path, model_type)
        assert "\n" not in str(refused.value)


def test_code_in_a_directory_is_not_run(tmp_path):
    make("mistral", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    change(
        tmp_path,
        model_type="evil",
        auto_map={"AutoConfig": "evil.Model", "AutoModelForCausalLM": "evil.Model"},
    )
    with pytest.raises(UserError, match="cannot be loaded"):
        load_both(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_the_place_of_safetensors_is_not_opened(tmp_path):
    make("mistral", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be loaded by transformers: .*safetensors"):
        load_both(tmp_path)


def test_without_transformers_its_name_is_said(tmp_path, monkeypatch):
    make("mistral", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UserError,
        match=r"the mistral model in .* the package transformers, .*: pip install 'minigpt\[hf\]'",
    ):
        load_both(tmp_path)


def test_its_context_is_what_it_states(tmp_path):
    make("mistral", tmp_path)
    assert load_both(tmp_path)[0].config == ModelConfig(vocab_size=259, block_size=24)
