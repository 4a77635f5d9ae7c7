import importlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt.config import LoraConfig
from minigpt.errors import UserError
from minigpt.finetune.lora import adapters, merge, swap_in
from minigpt.finetune.peft_format import base_named_in, put_adapter, write_adapter
from minigpt.finetune.token_rows import add_rows
from minigpt.model.transformer import GPT

from .conftest import SWITCHES
from .test_lora import IDS, make, shaken

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def peft():
    """Return the library; slow to import."""
    return importlib.import_module("peft")


def write(folder, name="llama", rows=(2, 28), seed=0, **options):
    """Write a base and an adapter beside it; return the model with the adapter in it."""
    model = make(name)
    model.save_pretrained(folder / "base")
    shaken(swap_in(model, LoraConfig(**options), rows=rows), seed)
    write_adapter(folder / "adapter", model, str(folder / "base"))
    return model


def read(folder):
    return put_adapter(GPT.from_pretrained(folder / "base"), folder / "adapter").eval()


def settings_of(folder):
    return json.loads((folder / "adapter" / "adapter_config.json").read_text())


def change(folder, **settings):
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(settings_of(folder) | settings))


def change_tensors(folder, edit):
    tensors = load_file(folder / "adapter" / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / "adapter" / WEIGHTS)


# ---------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_written_is_read_again(name, targets, tmp_path):
    model = write(tmp_path, name, targets=targets, rank=3, alpha=7.0, dropout=0.25)
    again = read(tmp_path)
    for key, layer in adapters(model).items():
        other = adapters(again)[key]
        assert torch.equal(layer.lora_A, other.lora_A)
        assert torch.equal(layer.lora_B, other.lora_B)
        assert other.scale == pytest.approx(layer.scale)
        assert other.dropout.p == 0.25
    assert adapters(again).keys() == adapters(model).keys()
    torch.testing.assert_close(again(IDS), model(IDS), atol=1e-6, rtol=1e-5)
    trained = [{key for key, p in m.named_parameters() if p.requires_grad} for m in (model, again)]
    assert trained[0] == trained[1]


def test_a_fused_matrix_has_one_adapter_of_three_times_the_rank(tmp_path):
    model = write(tmp_path, "gpt2", targets="attention", rank=2, alpha=6.0)
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    a, b = (tensors[f"base_model.model.transformer.h.1.attn.c_attn.lora_{x}.weight"] for x in "AB")
    assert (a.shape, b.shape) == ((6, 32), (96, 6))
    assert torch.equal(a[2:4], model.blocks[1].attention.key.lora_A)
    assert torch.equal(b[32:64, 2:4], model.blocks[1].attention.key.lora_B)
    assert not b[32:64, :2].any()
    settings = settings_of(tmp_path)
    assert settings["target_modules"] == ["attn.c_proj", "c_attn"]
    kinds = {(settings["r"], settings["lora_alpha"])}
    others = settings["rank_pattern"].values(), settings["alpha_pattern"].values()
    kinds |= set(zip(*others, strict=True))
    assert kinds == {(2, 6), (6, 18)}
    assert settings["fan_in_fan_out"] is True


def test_its_files_may_be_read_by_whoever_reads_its_settings(tmp_path):
    write(tmp_path)
    modes = {os.stat(tmp_path / "adapter" / n).st_mode for n in (WEIGHTS, "adapter_config.json")}
    assert len(modes) == 1
    assert sorted(os.listdir(tmp_path / "adapter")) == ["adapter_config.json", WEIGHTS]
    assert base_named_in(tmp_path / "adapter") == str(tmp_path / "base")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rows_alone_are_an_adapter_too(name, tmp_path):
    model = write(tmp_path, name)
    change_tensors(
        tmp_path, lambda t: [t.pop(key) for key in list(t) if "token_adapter" not in key]
    )
    change(tmp_path, target_modules=[])
    again = read(tmp_path)
    assert not adapters(again)
    torch.testing.assert_close(again.embedding(IDS), model.embedding(IDS))


def test_an_adapter_read_to_go_on_with_is_written_as_it_was(tmp_path):
    write(tmp_path, "gpt2", rank=2)
    write_adapter(tmp_path / "again", read(tmp_path), "elsewhere")
    first, second = (load_file(tmp_path / place / WEIGHTS) for place in ("adapter", "again"))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, atol=1e-7, rtol=1e-6)
    settings = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    change(tmp_path, base_model_name_or_path="elsewhere")
    assert settings == settings_of(tmp_path)


def test_a_tied_table_has_no_rows_for_its_head_alone(tmp_path):
    write(tmp_path)
    change(tmp_path, trainable_token_indices={"lm_head": [2, 28]})
    change_tensors(
        tmp_path, lambda t: t.update({ROWS.replace("model.embed_tokens", "lm_head"): t.pop(ROWS)})
    )
    with pytest.raises(
        UserError, match=r"rows of lm_head are not those of model.embed_tokens, but"
    ):
        read(tmp_path)


# ------------------------------------------------------------------------------------------------------------ refusals

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
BAD_SETTINGS = [
    ({"peft_type": "IA3"}, "its peft_type is 'IA3'; wanted LORA"),
    ({"use_dora": True}, "its use_dora is True, which is not supported here; merge it with peft"),
    ({"bias": "all"}, "its bias is 'all', which is not supported"),
    ({"modules_to_save": ["norm"]}, r"its modules_to_save is \['norm'\], which is not"),
    ({"init_lora_weights": "pissa"}, "its init_lora_weights is 'pissa', which is not"),
    ({"task_type": "SEQ_CLS"}, "its task_type is 'SEQ_CLS', which is not"),
    ({"some_new_kind": {"a": 1}}, "its some_new_kind is"),
    ({"r": 0}, "the rank of .* is 0; wanted a whole number from 1 on"),
    ({"r": -1}, "its r is -1; wanted a number"),
    ({"r": True}, "its r is True; wanted a number"),
    ({"r": 4}, r"q_proj.lora_A.weight is \(8, 32\), wanted \(4, 32\)"),
    ({"lora_alpha": float("nan")}, "its lora_alpha is nan; wanted a number"),
    ({"lora_alpha": "x"}, "its lora_alpha is 'x'; wanted a number"),
    ({"lora_dropout": 1}, "its lora_dropout is 1; wanted a number from 0 to 1"),
    ({"rank_pattern": [3]}, r"its rank_pattern is \[3\]; wanted names and numbers"),
    ({"rank_pattern": {"(a+)+$": 3}}, r"has the pattern '\(a\+\)\+\$', which is not run here"),
    ({"target_modules": None, "trainable_token_indices": None}, "its target_modules are None;"),
    ({"target_modules": ["q_proj"]}, "has no place in this model, or is not among its target_mod"),
    ({"layers_to_transform": [0]}, r"layers.1.* has no place in this model"),
    ({"trainable_token_indices": None}, f"{ROWS} has no place in this model"),
    ({"trainable_token_indices": {"head": [2]}}, "name head; wanted model.embed_tokens or lm_head"),
    ({"trainable_token_indices": [2, "a"]}, "its trainable_token_indices are .*; wanted a list"),
    ({"trainable_token_indices": [2, 2]}, "have ids twice or below 0"),
    ({"trainable_token_indices": [2, 30]}, "it trains the row 30, but not every one from 29, th"),
    ({"trainable_token_indices": [2]}, r"trainable_tokens_delta is \(2, 32\), wanted \(1, 32\)"),
    ({"trainable_token_indices": {"lm_head": [2]}}, "lm_head.token_adapter.* is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "text"), BAD_SETTINGS, ids=lambda x: str(x)[:40])
def test_settings_that_do_not_fit_are_refused_by_name(settings, text, tmp_path):
    write(tmp_path)
    change(tmp_path, **settings)
    with pytest.raises(UserError, match=f"adapter cannot be loaded as an adapter: .*{text}"):
        read(tmp_path)


BAD_TENSORS = [
    (lambda t: t.pop(Q), f"{Q} is missing"),
    (lambda t: (t.pop(Q), t.pop(Q.replace("A.w", "B.w"))), f"{Q} is missing"),
    (lambda t: t.pop(ROWS), f"{ROWS} is missing"),
    (lambda t: t.update({Q: t[Q] * float("inf")}), f"{Q} holds numbers that are not finite"),
    (lambda t: t.update({Q: t[Q].int()}), f"{Q} is int32, wanted floating point"),
    (lambda t: t.update({Q: t[Q][0].clone()}), f"{Q} has 1 dimensions, wanted 2"),
    (lambda t: t.update({Q: t[Q][:, :9].clone()}), r"q_proj.lora_A.weight is \(8, 9\), wanted"),
    (lambda t: t.update({"a\x1b[2J": t[Q].clone()}), r"a\\x1b\[2J has no place in this model"),
]


@pytest.mark.parametrize(("edit", "text"), BAD_TENSORS, ids=range(len(BAD_TENSORS)))
def test_tensors_that_do_not_fit_are_refused_by_name(edit, text, tmp_path):
    write(tmp_path)
    change_tensors(tmp_path, edit)
    with pytest.raises(UserError, match=f"adapter cannot be loaded as an adapter: .*{text}"):
        read(tmp_path)


def test_a_pickle_is_not_read_and_damage_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "adapter" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"adapter_model.safetensors is cut short or damaged"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors is missing"):
        read(tmp_path)
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(
        UserError, match=r"its weights are in adapter_model.bin, a pickle, which co"
    ):
        read(tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=r"delta is \(2, 32\), wanted \(2, 64\)"):
        put_adapter(make(n_embd=64), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"wte.token_adapter.trainable_tokens_delta is missing"):
        put_adapter(make("gpt2"), tmp_path / "adapter")


# ---------------------------------------------------------------------------------------------------------------- peft

# `peft` asks `transformers` for an attribute by the older of its two names.
old_name = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def theirs_of(folder):
    transformers = importlib.import_module("transformers")
    importlib.import_module("minigpt.hf")  # registers our own architecture
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "base").eval()


@old_name
@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all", "attention"])
@pytest.mark.parametrize("name", SWITCHES)
def test_peft_gives_the_same_logits(name, targets, tmp_path, peft):
    # `peft` takes the end of a name for the name, and so position_embedding for our embedding.
    rows = () if name == "own: learned with rmsnorm" else (2, 28)
    model = write(tmp_path, name, rows, targets=targets, rank=3, alpha=4.5)
    theirs = peft.PeftModel.from_pretrained(theirs_of(tmp_path), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, model(IDS), atol=1e-5, rtol=0)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, merge(model)(IDS), atol=1e-5, rtol=0)


FUSED = {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}
FOREIGN = [
    ("gpt2", FUSED),
    ("gpt2", FUSED | {"r": 6, "use_rslora": True, "trainable_token_indices": [7, 1]}),
    ("gpt2, untied", FUSED | {"trainable_token_indices": {"wte": [3, 1], "lm_head": [4]}}),
    ("gpt2", {"target_modules": "all-linear", "fan_in_fan_out": True}),
    ("llama", {"target_modules": "all-linear", "trainable_token_indices": [7, 1]}),
    ("llama", {"target_modules": r".*\.(q|down)_proj"}),
    ("llama", {"target_modules": ["k_proj", "up_proj"], "layers_to_transform": [1]}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}),
    ("qwen3", {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {"o_proj": 5},
               "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 3, "q_proj": 9}}),
    ("qwen3", {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [3]}}),
    ("llama, bias, multi-query", {"target_modules": ["v_proj", "gate_proj"], "use_rslora": True}),
    ("arcee", {"target_modules": ["up_proj", "down_proj"], "init_lora_weights": "gaussian"}),
]  # fmt: skip


@old_name
@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), FOREIGN, ids=range(len(FOREIGN)))
def test_an_adapter_that_peft_made_gives_the_same_logits(name, options, tmp_path, peft):
    make(name).save_pretrained(tmp_path / "base")
    settings = {"r": 4, "lora_alpha": 7, "task_type": "CAUSAL_LM"} | options
    theirs = peft.get_peft_model(theirs_of(tmp_path), peft.LoraConfig(**settings)).eval()
    before = make(name)(IDS)
    shaken(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = read(tmp_path)
    with torch.no_grad():
        wanted = theirs(IDS).logits
        assert (wanted - before).abs().max() > 0.01
        torch.testing.assert_close(ours(IDS), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(merge(ours)(IDS), wanted, atol=1e-5, rtol=0)
    write_adapter(tmp_path / "again", read(tmp_path), str(tmp_path / "base"))
    again = put_adapter(GPT.from_pretrained(tmp_path / "base"), tmp_path / "again")
    torch.testing.assert_close(again(IDS), wanted, atol=1e-5, rtol=0)


@old_name
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama, untied, wide heads"])
def test_rows_for_new_tokens_go_both_ways(name, tmp_path, peft):
    """As `peft` wants it, the tables of the base are enlarged before."""
    model = make(name)
    model.save_pretrained(tmp_path / "base")
    add_rows(model, 2)
    shaken(swap_in(model, LoraConfig(rank=2), rows=[29, 30, 4]))
    write_adapter(tmp_path / "adapter", model, str(tmp_path / "base"))
    ids = IDS + 7
    torch.testing.assert_close(read(tmp_path)(ids), model(ids), atol=1e-5, rtol=0)
    assert merge(read(tmp_path)).config.vocab_size == 31

    base = theirs_of(tmp_path)
    base.resize_token_embeddings(31)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing", "ignore:Setting .save_embedding")
@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, [29, 30]])
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama, untied, wide heads"])
def test_tables_that_peft_saves_whole_are_read(name, rows, tmp_path, peft):
    base, tied = make(name), make(name).config.tie_embeddings
    base.save_pretrained(tmp_path / "base")
    theirs = theirs_of(tmp_path)
    theirs.resize_token_embeddings(31)
    table = "wte" if name == "gpt2" else "embed_tokens"
    indices = rows if rows is None or tied else {table: rows, "lm_head": rows}
    targets = ["c_attn"] if name == "gpt2" else ["q_proj"]
    settings = peft.LoraConfig(
        r=2,
        target_modules=targets,
        fan_in_fan_out=name == "gpt2",
        task_type="CAUSAL_LM",
        trainable_token_indices=indices,
        modules_to_save=[table, "lm_head"] if rows is None and not tied else None,
    )
    theirs = shaken(peft.get_peft_model(theirs, settings)).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours, ids = read(tmp_path), IDS + 7
    assert ours.config.vocab_size == 31
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=0)


UNSUPPORTED = [
    {"use_dora": True},
    {"bias": "lora_only"},
    {"modules_to_save": ["norm"]},
    {"target_modules": ["lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"lora_bias": True},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("options", UNSUPPORTED, ids=str)
def test_what_peft_can_and_this_cannot_is_refused(options, tmp_path, peft):
    make("llama, untied, wide heads").save_pretrained(tmp_path / "base")
    settings = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]} | options
    theirs = peft.get_peft_model(theirs_of(tmp_path), peft.LoraConfig(**settings))
    theirs.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="cannot be loaded as an adapter"):
        read(tmp_path)
