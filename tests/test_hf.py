"""Our own architecture inside `transformers`: everything held against the model that wrote the directory."""

import copy
import importlib
import json
import random
import sys

import pytest
import torch
import torch.nn.functional as F
import transformers

import minigpt
import minigpt.hf
from minigpt.model.attention import Cache
from minigpt.model.families import family_of
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import SWITCHES, tiny
from .test_transformer import EVERY_COMBINATION, model

OWN = {name: switches for name, switches in SWITCHES.items() if name.startswith("own:")}
OWN |= {f"{name}, untied": switches | {"tie_embeddings": False} for name, switches in OWN.items()}
OWN["own: stretched rope"] = {
    "attention_gate": "silu", "rope_scaling": "llama3", "rope_factor": 4.0, "rope_old_context": 6, "rope_theta": 50.0,
}  # fmt: skip
OTHERS = [s for s in EVERY_COMBINATION if family_of(tiny(**s)) == "minigpt"]
OWN |= {f"random {i}": s for i, s in enumerate(random.Random(0).sample(OTHERS, 8))}
# One with rotary and one with learned positions, where the rest does not matter.
TWO = ["own: gate", "own: learned with rmsnorm, untied"]
LETTERS = char_tokenizer(
    [chr(97 + i) for i in range(26)] + [" ", "."]
)  # 29 ids, the last one ends a text
IDS = torch.randint(0, 28, (3, 12), generator=torch.Generator().manual_seed(0))
GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 28}


def loaded(folder, **options) -> minigpt.hf.MiniGPTForCausalLM:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options)


@pytest.fixture
def pair(request, tmp_path):
    """A model of ours and what `transformers` makes of the directory that it wrote."""
    ours = model(**OWN[request.param])
    ours.save_pretrained(tmp_path / "ours", LETTERS)
    return ours, loaded(tmp_path / "ours")


every = pytest.mark.parametrize("pair", OWN, indirect=True)
both = pytest.mark.parametrize("pair", TWO, indirect=True)


@torch.no_grad()
def greedy(ours: GPT, row: torch.Tensor, new: int) -> list[int]:
    """Return a row and what our own model finds likeliest after it, one full pass for each token."""
    ids = row[None]
    for _ in range(new):
        ids = torch.cat([ids, ours(ids)[:, -1:].argmax(-1)], dim=1)
    return ids[0].tolist()


def same_tensors(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def padded(widths, length=8, side="left"):
    """Return rows of `length` of which so many positions are padding, and the mask that says so."""
    ids, mask = IDS[: len(widths), :length].clone(), torch.ones(len(widths), length).long()
    for row, width in enumerate(widths):
        out = slice(0, width) if side == "left" else slice(length - width, length)
        ids[row, out], mask[row, out] = 28, 0
    return ids, mask


# --------------------------------------------------------------------------------------------------- load and save


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_it_loads_whole_and_silently_with_our_logits(name, tmp_path, capfd, caplog):
    ours = model(**OWN[name])
    ours.save_pretrained(tmp_path, LETTERS)
    transformers.logging.set_verbosity_warning()
    transformers.logging.enable_propagation()
    theirs, info = loaded(tmp_path, output_loading_info=True)
    transformers.logging.disable_propagation()
    transformers.logging.set_verbosity_error()
    assert not any(info.values())
    assert not caplog.records
    assert "minigpt" not in capfd.readouterr().err
    assert type(theirs) is minigpt.hf.MiniGPTForCausalLM
    assert not theirs.training
    assert same_tensors(ours, theirs)
    assert (theirs(IDS).logits - ours(IDS)).abs().max() < 1e-6


@every
def test_what_transformers_saves_is_read_here_bit_for_bit(pair, tmp_path):
    ours, theirs = pair
    for name, options in {"one": {}, "sharded": {"max_shard_size": "10KB"}}.items():
        theirs.save_pretrained(tmp_path / name, **options)
        assert (tmp_path / name / "model.safetensors").exists() == (name == "one")
        again = GPT.from_pretrained(tmp_path / name)
        assert again.config == ours.config
        assert same_tensors(again, ours)
        assert same_tensors(loaded(tmp_path / name), ours)


@both
def test_a_directory_of_transformers_with_its_tokenizer_is_a_run(pair, tmp_path):
    ours, theirs = pair
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "theirs")
    again, letters = minigpt.load(tmp_path / "theirs")
    assert same_tensors(again, ours)
    assert letters.eos_id == 28
    assert letters.encode("a cat.") == LETTERS.encode("a cat.") == tokenizer("a cat.")["input_ids"]


def test_what_we_shard_is_loaded_whole(tmp_path):
    ours = model(**OWN["own: gate"])
    ours.save_pretrained(tmp_path, max_shard_bytes=10_000)
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert same_tensors(loaded(tmp_path), ours)


@every
@torch.no_grad()
def test_in_bfloat16_it_computes_what_our_own_model_does(pair, tmp_path):
    ours = pair[0].to(torch.bfloat16)
    theirs = loaded(tmp_path / "ours", dtype=torch.bfloat16)
    assert {t.dtype for t in (*theirs.parameters(), *theirs.buffers())} == {torch.bfloat16}
    assert torch.equal(theirs(IDS).logits, ours(IDS))
    assert torch.equal(pair[1].to(torch.bfloat16)(IDS).logits, ours(IDS))
    ours.save_pretrained(tmp_path / "half")
    assert loaded(tmp_path / "half").dtype == torch.bfloat16


@both
def test_the_configuration_says_what_other_tools_look_for(pair):
    ours, theirs = pair
    figures = {
        "vocab_size": 29, "max_position_embeddings": 12, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": ours.config.n_kv_head, "eos_token_id": 28,
        "intermediate_size": ours.config.mlp_hidden, "tie_word_embeddings": ours.config.tie_embeddings,
    }  # fmt: skip
    assert {name: getattr(theirs.config, name) for name in figures} == figures
    assert theirs.config.shape == ours.config
    assert theirs.generation_config.eos_token_id == 28
    assert theirs.get_input_embeddings() is theirs.embedding
    assert theirs.get_output_embeddings() is theirs.head


def test_a_model_made_from_a_configuration_starts_as_ours_does():
    shape = tiny(**OWN["own: gate"])
    config = minigpt.hf.MiniGPTConfig(minigpt={"vocab_size": 29, **vars(shape)})
    torch.manual_seed(3)
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    torch.manual_seed(3)
    assert same_tensors(theirs, GPT(shape))
    assert theirs.head.weight is theirs.embedding.weight
    half = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert half(IDS).logits.dtype == torch.bfloat16


def test_tensors_that_a_directory_lacks_are_named_and_drawn(tmp_path):
    shape = tiny(**OWN["own: learned with rmsnorm"])
    GPT(shape).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["minigpt"]["n_layer"] = 3
    (tmp_path / "config.json").write_text(json.dumps(settings))
    theirs, info = loaded(tmp_path, output_loading_info=True)
    assert all(key.startswith("blocks.2.") for key in info["missing_keys"])
    assert torch.equal(theirs.blocks[2].mlp_norm.weight, torch.ones(32))
    assert 0 < theirs.blocks[2].mlp.up.weight.std() < 0.1


@both
@torch.no_grad()
def test_its_modules_serve_as_our_own_model_too(pair, tmp_path):
    ours, theirs = pair
    assert minigpt.generate(theirs.gpt, LETTERS, "a cat", max_tokens=9) == minigpt.generate(
        ours, LETTERS, "a cat", max_tokens=9
    )
    assert not theirs.blocks[0].training
    theirs.gpt.save_pretrained(tmp_path / "again")
    assert same_tensors(GPT.from_pretrained(tmp_path / "again"), ours)
    twin = copy.deepcopy(theirs)
    twin.head.weight.zero_()
    assert not twin(IDS).logits.any()
    assert theirs(IDS).logits.any()


@pytest.mark.parametrize("pair", ["own: gate", "own: gate, untied"], indirect=True)
@torch.no_grad()
def test_new_tokens_change_no_old_logit_and_the_shape_follows(pair, tmp_path):
    ours, theirs = pair
    theirs.resize_token_embeddings(35, mean_resizing=False)
    assert theirs(IDS).logits.shape == (3, 12, 35)
    assert (theirs(IDS).logits[..., :29] - ours(IDS)).abs().max() < 1e-6
    theirs.save_pretrained(tmp_path / "larger")
    again = GPT.from_pretrained(tmp_path / "larger")
    assert again.config.vocab_size == 35
    assert torch.equal(again(IDS), theirs(IDS).logits)


# --------------------------------------------------------------------------------------------------------- generate


@every
def test_greedy_text_is_ours_with_a_cache_and_without(pair):
    ours, theirs = pair
    wanted = [greedy(ours, row, 8) for row in IDS[:, :4]]
    for use_cache in (True, False):
        made = theirs.generate(IDS[:, :4], max_new_tokens=8, use_cache=use_cache, **GREEDY)
        assert made.tolist() == wanted


@every
def test_a_prompt_padded_on_the_left_goes_on_as_it_does_alone(pair):
    ours, theirs = pair
    ids, mask = padded([3, 0, 6])
    wanted = [greedy(ours, row[keep.bool()], 4) for row, keep in zip(ids, mask, strict=True)]
    for use_cache in (True, False):
        made = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=4, use_cache=use_cache, **GREEDY
        )
        for row, keep, alone in zip(made, mask, wanted, strict=True):
            assert row[int((keep == 0).sum()) :].tolist() == alone


@every
@torch.no_grad()
def test_padding_changes_no_logit_however_the_cache_grows(pair):
    ours, theirs = pair
    for widths in ([3, 0, 6], [2, 2, 5], [4, 4, 4], [0, 0, 0]):
        ids, mask = padded(widths, length=12)
        whole = theirs(ids, attention_mask=mask).logits
        for cuts in ((5, 7), (2, 2, 8), (9, 1, 1, 1)):  # a first part may be padding alone
            cache, parts, end = transformers.DynamicCache(), [], 0
            for size in cuts:
                new = slice(end, end := end + size)
                out = theirs(ids[:, new], attention_mask=mask[:, :end], past_key_values=cache)
                assert out.past_key_values is cache
                parts.append(out.logits)
            grown = torch.cat(parts, dim=1)
            assert cache.get_seq_length() == 12
            for row, width in enumerate(widths):
                alone = ours(ids[row : row + 1, width:])[0]
                assert (whole[row, width:] - alone).abs().max() < 1e-5
                assert (grown[row, width:] - alone).abs().max() < 1e-5


@both
@torch.no_grad()
def test_padding_on_the_right_and_empty_rows_change_nothing(pair):
    ours, theirs = pair
    ids, mask = padded([3, 0, 8], side="right")
    logits = theirs(ids, attention_mask=mask).logits
    for row, width in enumerate([3, 0]):
        alone = ours(ids[row : row + 1, : 8 - width])[0]
        assert (logits[row, : 8 - width] - alone).abs().max() < 1e-5


@both
def test_the_prompt_may_be_read_in_chunks_and_guessed_from(pair):
    ours, theirs = pair
    ids, mask = padded([3, 0, 6])
    made = theirs.generate(ids, attention_mask=mask, max_new_tokens=4, **GREEDY)
    chunked = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=4, prefill_chunk_size=3, **GREEDY
    )
    assert chunked.tolist() == made.tolist()
    guessed = theirs.generate(IDS[:1, :5], max_new_tokens=7, prompt_lookup_num_tokens=2, **GREEDY)
    assert guessed.tolist() == [greedy(ours, IDS[0, :5], 7)]


@both
def test_the_same_seed_draws_the_same_text_and_padded_ids_are_never_drawn(pair, tmp_path):
    ours, _ = pair
    ours.save_pretrained(tmp_path / "padded", char_tokenizer("abcdefghi"))
    theirs = loaded(tmp_path / "padded")

    def drawn(seed):
        torch.manual_seed(seed)
        return theirs.generate(
            IDS[:, :2] % 9, do_sample=True, temperature=100.0, max_new_tokens=10, min_new_tokens=10
        )

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert drawn(0).max() < 10


@torch.no_grad()
def beams(ours: GPT, row: torch.Tensor, width: int, new: int) -> list[int]:
    """Return the likeliest continuation that a search of this width finds, written out."""
    found = [(0.0, row.tolist())]
    for _ in range(new):
        longer = []
        for score, ids in found:
            chances = ours(torch.tensor([ids]))[0, -1].log_softmax(-1)
            longer += [(score + float(chances[i]), [*ids, i]) for i in range(len(chances))]
        found = sorted(longer, reverse=True)[:width]
    return found[0][1]


@both
def test_beam_search_finds_what_a_search_written_out_finds(pair):
    ours, theirs = pair
    ids, mask = padded([0, 2], length=5)
    wanted = [beams(ours, row[keep.bool()], 3, 6) for row, keep in zip(ids, mask, strict=True)]
    greedily = [greedy(ours, row[keep.bool()], 6) for row, keep in zip(ids, mask, strict=True)]
    assert wanted != greedily
    for use_cache in (True, False):
        made = theirs.generate(
            ids, attention_mask=mask, num_beams=3, max_new_tokens=6, use_cache=use_cache, **GREEDY
        )
        assert [made[0].tolist(), made[1, 2:].tolist()] == wanted


def test_a_text_pipeline_writes_what_our_own_sampler_writes(tmp_path):
    tokenizer = bpe_tokenizer([(97, 32), (98, 97)])
    ours = model(**OWN["own: gate"], vocab_size=tokenizer.vocab_size)
    ours.save_pretrained(tmp_path, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    write = transformers.pipeline("text-generation", loaded(tmp_path), tokenizer=theirs)
    prompts = ["ba b", "aba a b ", "a"]
    made = write(prompts, max_new_tokens=6, do_sample=False, return_full_text=False, batch_size=3)
    for prompt, texts in zip(prompts, made, strict=True):
        wanted = minigpt.generate(ours, tokenizer, prompt, max_tokens=6, temperature=0)
        assert texts[0]["generated_text"] == wanted


# ------------------------------------------------------------------------------------------------------------ train


@every
def test_the_loss_and_its_gradients_are_ours(pair):
    ours, theirs = pair
    labels = IDS.clone()
    labels[0, :5] = -100
    out = theirs.train()(IDS, labels=labels)
    assert out.past_key_values is None
    wanted = F.cross_entropy(ours(IDS)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert (out.loss - wanted).abs() < 1e-6
    out.loss.backward()
    wanted.backward()
    for (name, parameter), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert other.grad.any(), name
        assert (parameter.grad - other.grad).abs().max() < 1e-6, name
    counted = theirs(IDS, labels=labels, num_items_in_batch=torch.tensor(7)).loss
    assert (counted - wanted * (labels[:, 1:] != -100).sum() / 7).abs() < 1e-5


@both
def test_a_few_steps_learn_one_batch_also_where_rows_are_padded(pair):
    _, theirs = pair
    ids, mask = padded([3, 0, 6])
    labels = ids.masked_fill(mask == 0, -100)
    optimizer = torch.optim.AdamW(theirs.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        losses.append(theirs(ids, attention_mask=mask, labels=labels, use_cache=True).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]


def test_dropout_is_active_in_training_alone():
    shape = vars(tiny(**OWN["own: gate"], dropout=0.5))
    theirs = minigpt.hf.MiniGPTForCausalLM(minigpt.hf.MiniGPTConfig(minigpt=shape))
    assert not torch.equal(theirs.train()(IDS).logits, theirs(IDS).logits)
    assert torch.equal(theirs.eval()(IDS).logits, theirs(IDS).logits)


@pytest.mark.filterwarnings("default")  # of the Trainer's own
@both
def test_the_trainer_trains_evaluates_and_saves_what_we_read(pair, tmp_path):
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    _, theirs = pair
    ids, mask = padded([3, 0, 6])
    rows = [
        {"input_ids": row, "attention_mask": keep, "labels": row.masked_fill(keep == 0, -100)}
        for row, keep in zip(ids, mask, strict=True)
    ]
    settings = transformers.TrainingArguments(
        str(tmp_path / "out"), max_steps=8, per_device_train_batch_size=1, gradient_accumulation_steps=3,
        learning_rate=1e-2, save_steps=8, use_cpu=True, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(theirs, settings, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.predict(rows).predictions.shape == (3, 8, 29)
    assert same_tensors(GPT.from_pretrained(tmp_path / "out" / "checkpoint-8"), theirs)


@both
@torch.no_grad()
def test_the_ordinary_arguments_do_what_they_do_elsewhere(pair):
    _, theirs = pair
    out = theirs(IDS)
    assert out.past_key_values.get_seq_length() == 12
    assert theirs(IDS, use_cache=False).past_key_values is None
    assert torch.equal(theirs(IDS, logits_to_keep=2).logits, out.logits[:, -2:])
    assert torch.equal(
        theirs(IDS, logits_to_keep=torch.tensor([1, 5])).logits, out.logits[:, [1, 5]]
    )
    assert torch.equal(theirs(IDS, return_dict=False)[0], out.logits)
    assert torch.equal(theirs(IDS, position_ids=torch.arange(12)[None]).logits, out.logits)
    assert torch.equal(theirs(IDS, output_attentions=False, inputs_embeds=None).logits, out.logits)


# ----------------------------------------------------------------------------------------------------------- refuse


OFFLOADED = transformers.DynamicCache()
OFFLOADED.offloading = True  # as offloading=True makes it where there is a second device


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"input_ids": None}, "pass input_ids"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 2, 32)}, "not support inputs_embeds"),
        ({"output_attentions": True}, "does not support output_attentions"),
        ({"output_hidden_states": True}, "does not support output_hidden_states"),
        ({"token_type_ids": torch.zeros(3, 12)}, "does not support token_type_ids"),
        ({"position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]])}, "packed rows"),
        ({"attention_mask": torch.ones(3, 11)}, r"the shape \(3, 11\); wanted \(3, 12\)"),
        ({"attention_mask": torch.ones(3, 1, 12, 12)}, r"wanted \(3, 12\)"),
        ({"attention_mask": torch.tensor([[1] * 12, [0] + [1] * 5 + [0] + [1] * 5, [1] * 12])}, "a hole in row 1"),
        ({"attention_mask": torch.ones(3, 12), "position_ids": torch.zeros(1, 12)}, "packed rows"),
        ({"past_key_values": ((None, None),)}, "not in a tuple"),
        ({"past_key_values": OFFLOADED}, "a DynamicCache that is not offloaded"),
        ({"past_key_values": Cache(tiny())}, "not in a Cache"),
    ],
)  # fmt: skip
def test_what_it_does_not_do_is_refused_in_a_sentence(arguments, sentence):
    theirs = minigpt.hf.MiniGPTForCausalLM(
        minigpt.hf.MiniGPTConfig(minigpt=vars(tiny(**OWN["own: gate"])))
    )
    with pytest.raises(ValueError, match=sentence):
        theirs(**({"input_ids": IDS} | arguments))


@both
def test_generation_that_it_cannot_do_is_refused(pair):
    _, theirs = pair
    ids, mask = padded([3, 0, 6], side="right")
    with pytest.raises(ValueError, match="padding_side = 'left'"):
        theirs.generate(ids, attention_mask=mask, max_new_tokens=3, **GREEDY)
    for kind in ("static", "offloaded_static"):
        with pytest.raises(ValueError, match="not in a StaticCache; leave cache_implementation"):
            theirs.generate(IDS[:, :4], max_new_tokens=3, cache_implementation=kind, **GREEDY)
    with pytest.raises(ValueError, match="13 positions, but block_size is 12"):
        theirs.generate(IDS, max_new_tokens=3, **GREEDY)
    theirs.config.output_hidden_states = True
    with pytest.raises(ValueError, match="does not support output_hidden_states"):
        theirs(IDS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab_size": 30}, "vocab_size is 30, but the shape under 'minigpt' says 29"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, but the shape"),
        ({"minigpt": None}, "needs its shape"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(change, sentence, tmp_path):
    GPT(tiny(**OWN["own: gate"])).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=sentence):
        transformers.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("there", [None, type(sys)("transformers")], ids=["missing", "too old"])
def test_without_transformers_it_says_what_to_install(there, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", there)
    monkeypatch.delitem(sys.modules, "minigpt.hf")
    monkeypatch.delattr(minigpt, "hf")
    with pytest.raises(ImportError, match=r"pip install 'minigpt\[hf\]'"):
        importlib.import_module("minigpt.hf")
