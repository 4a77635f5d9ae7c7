import importlib
import sys

import gguf
import pytest
import torch
import transformers

from minigpt.errors import UserError
from minigpt.interop.export import export
from minigpt.interop.gguf import read_gguf, write_gguf
from minigpt.interop.loading import load_both
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer

from .conftest import SWITCHES, nonsense, sentencepiece_like
from .llama_cpp import LETTERS, Llama, made, written
from .test_gguf_vocabulary import like_llama_3

FITTING = {
    name: switches
    for name, switches in SWITCHES.items()
    if not name.startswith("own") and name not in ("gpt2, relu2, no bias", "gpt2, exact gelu")
} | {
    "llama, bias, grouped": {"n_kv_head": 2, "bias": True},
    "llama, linear": {"rope_scaling": "linear", "rope_factor": 4.0},
    "llama, llama3": {
        "rope_scaling": "llama3",
        "rope_factor": 8.0,
        "rope_old_context": 32,
        "rope_theta": 500_000.0,
    },
    "qwen3, linear": {"qk_norm": True, "rope_scaling": "linear", "rope_factor": 2.0},
    "arcee, llama3, wide, multi-query": {
        "mlp": "relu2",
        "head_dim": 16,
        "n_kv_head": 1,
        "rope_scaling": "llama3",
        "rope_factor": 8.0,
        "rope_old_context": 32,
    },
}


def loaded(path) -> GPT:
    config, state = read_gguf(path)
    model = GPT(config).eval()
    model.load_state_dict(state)
    return model


# ---------------------------------------------------------------------------------------------------- out and back


@pytest.mark.parametrize("switches", FITTING.values(), ids=FITTING)
def test_what_is_written_as_f32_comes_back_bit_for_bit(switches, tmp_path):
    model = made(dropout=0.1, norm_eps=1e-6, **switches)
    config, state = read_gguf(written(tmp_path, model))
    assert config == model.config
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name


def eighths(x: torch.Tensor) -> torch.Tensor:
    """Return what q8_0 makes of a tensor: 32 numbers share a scale in fp16, each is that times -127 to 127."""
    blocks = x.reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    steps = blocks / scale
    whole = steps.sign() * (steps.abs() + 0.5).floor()
    return (whole * scale.half().float()).reshape(x.shape)


ROUNDED = {
    "f16": lambda x: x.half().float(),
    "bf16": lambda x: x.bfloat16().float(),
    "q8_0": eighths,
}


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_matrices_are_rounded_and_vectors_and_positions_are_not(name, dtype, tmp_path):
    model = made(**SWITCHES[name])
    _, state = read_gguf(written(tmp_path, model, dtype=dtype))
    for key, tensor in model.state_dict().items():
        kept = tensor.dim() == 1 or key == "position_embedding.weight"
        wanted = tensor if kept else ROUNDED[dtype](tensor)
        torch.testing.assert_close(state[key], wanted, rtol=0, atol=0, msg=key)


def test_rows_that_q8_0_cannot_hold_are_f16_and_named(tmp_path):
    said = []
    model = made(mlp_hidden=40)
    path = written(tmp_path, model, dtype="q8_0", say=said.append)
    assert len(said) == 1
    assert said[0].endswith("blk.0.ffn_down.weight, blk.1.ffn_down.weight")
    _, state = read_gguf(path)
    down, up = "blocks.1.mlp.down.weight", "blocks.1.mlp.up.weight"
    assert torch.equal(state[down], model.state_dict()[down].half().float())
    assert torch.equal(state[up], eighths(model.state_dict()[up]))


def test_weights_of_half_the_width_are_written_too(tmp_path):
    model = made().bfloat16()
    _, state = read_gguf(written(tmp_path, model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor.float()), name


def test_the_library_gguf_reads_the_file(tmp_path):
    model = made(**SWITCHES["llama"])
    reader = gguf.GGUFReader(written(tmp_path, model, name="a name", dtype="q8_0"))
    field = {name: field.contents() for name, field in reader.fields.items()}
    assert field["general.architecture"] == "llama"
    assert field["general.name"] == "a name"
    assert field["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert field["llama.attention.head_count_kv"] == 2
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert "output.weight" not in tensors
    assert tensors["blk.0.ffn_up.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert tensors["output_norm.weight"].data.tolist() == model.norm.weight.tolist()


def test_an_older_file_stays_whole_when_writing_fails(tmp_path):
    path = written(tmp_path, made())
    before = path.read_bytes()
    broken = made(seed=1)
    with torch.no_grad():
        broken.blocks[1].mlp.down.weight[0, 0] = 1e9
    with pytest.raises(UserError, match=r"blk\.1\.ffn_down\.weight has numbers up to 1e\+09"):
        written(tmp_path, broken, dtype="f16")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


# ------------------------------------------------------------------------------------------------------- llama.cpp


# How far log-probabilities may lie apart, in nats, where they spread over some five and a mistake in one setting moves
# them by tens. With f32 only the order of sums differs; llama.cpp's GELU looks values up in a table of fp16; with fewer
# bits it rounds what goes into a product, too.
APART = {"f32": 2e-4, "f32, gelu": 0.03, "f16": 0.1, "bf16": 0.5, "q8_0": 1.5}


SOME_IDS = torch.randint(0, 28, (40,), generator=torch.Generator().manual_seed(1)).tolist()


@torch.no_grad()
def assert_goes_on_alike(model, path, apart, count=64, *, prompt=SOME_IDS, ids=SOME_IDS, end=28):
    """Hold llama.cpp's greedy tokens after a prompt, and all log-probabilities on the way, to the model's after `ids`.

    In f32 without GELU every token is the same. Else up to a tenth may be another, where it and the likeliest are
    nearer to each other than `apart`.
    """
    drawn, theirs = Llama(path).goes_on(prompt, count, model.config.vocab_size)
    ours = model(torch.tensor([ids + drawn]))[0, len(ids) - 1 : -1].log_softmax(-1)
    assert (ours - theirs).abs().max() < apart
    ours[:, end] = -torch.inf  # told to ignore the end
    gap = ours.amax(1) - ours[range(count), drawn]  # 0 where llama.cpp took our likeliest
    assert gap.max() < apart
    assert (gap == 0).float().mean() >= (1.0 if apart == APART["f32"] else 0.9)


@pytest.mark.parametrize("switches", FITTING.values(), ids=FITTING)
def test_llama_cpp_goes_on_with_the_same_tokens(switches, tmp_path):
    model = made(**switches)
    numbers = "f32, gelu" if model.config.mlp == "gelu" else "f32"
    assert_goes_on_alike(model, written(tmp_path, model), APART[numbers])


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "arcee"])
def test_llama_cpp_goes_on_as_the_rounded_weights_do(name, dtype, tmp_path):
    path = written(tmp_path, made(**SWITCHES[name]), dtype=dtype)
    assert_goes_on_alike(loaded(path), path, APART[dtype])


def test_llama_cpp_runs_what_is_stored_in_two_types(tmp_path):
    path = written(tmp_path, made(mlp_hidden=40), dtype="q8_0", say=lambda text: None)
    assert_goes_on_alike(loaded(path), path, APART["q8_0"])


def test_llama_cpp_runs_a_padded_vocabulary(tmp_path):
    model = made(vocab_size=64)
    assert_goes_on_alike(model, written(tmp_path, model), APART["f32"])


PUBLISHED = {
    "as TinyLlama": lambda: Tokenizer(sentencepiece_like(nonsense(400)), eos="</s>"),
    "as Llama 3": like_llama_3,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_llama_goes_on_alike_after_the_same_text(name, tmp_path):
    tokenizer = PUBLISHED[name]()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size + 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config)
    for key, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, mean=5.0 * key.endswith("model.norm.weight"), std=0.4)
    special = {*tokenizer.specials.values()}
    # llama.cpp shows neither special tokens nor half characters, so none are to come.
    for i, piece in enumerate(tokenizer.pieces):
        if i in special or "\ufffd" in piece.decode(errors="replace"):
            torch.nn.init.zeros_(theirs.lm_head.weight.data[i])
    theirs.save_pretrained(tmp_path / "published")
    tokenizer.save(tmp_path / "published")
    assert export(tmp_path / "published", "gguf", tmp_path / "a.gguf").largest_difference == 0
    model, found = load_both(tmp_path / "published")
    text = " the cat  sat\n on größe 😀"
    ids = [*found.prefix, *found.encode(text)]
    assert ids[0] == found.bos_id != found.eos_id
    assert_goes_on_alike(
        model, tmp_path / "a.gguf", APART["f32"], 32, prompt=text, ids=ids, end=found.eos_id
    )


# -------------------------------------------------------------------------------------------------------- refusals


def test_tensors_of_another_model_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"do not fit the shape: blocks\.1\.attention.* is missing"):
        write_gguf(tmp_path / "a.gguf", made().config, made(n_layer=1).state_dict(), LETTERS)


def test_a_folder_is_refused_as_a_file(tmp_path):
    with pytest.raises(UserError, match="is a folder; pass the name of the"):
        write_gguf(tmp_path, made().config, made().state_dict(), LETTERS)


def test_without_the_library_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "minigpt.interop.gguf")
    with pytest.raises(
        UserError, match=r"needs the package gguf, .* pip install 'minigpt\[gguf\]'"
    ):
        importlib.import_module("minigpt.interop.gguf")
