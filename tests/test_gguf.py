import contextlib
import importlib
import json
import struct
import sys
import urllib.error
import urllib.request

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import xllamacpp
from tokenizers import AddedToken, normalizers

from minigpt.config import ModelConfig
from minigpt.errors import UserError
from minigpt.interop.gguf import read_gguf, read_gguf_vocabulary, write_gguf
from minigpt.interop.gguf_reader import read_header
from minigpt.interop.gguf_vocabulary import SPLITS, vocabulary_of
from minigpt.model.families import family_of
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.bpe import count_words, train_merges

from .conftest import SWITCHES, nonsense

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
LETTERS = char_tokenizer(["\n", " ", *(chr(97 + i) for i in range(26))])


def made(seed=0, **switches) -> GPT:
    """Return a model that says much else at each place, and whose queries and keys are large: places matter."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 29, "block_size": 128, "n_layer": 2, "n_head": 4, "n_embd": 32}
    model = GPT(ModelConfig(**(shape | switches))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.6 if "query" in name or "key" in name else 0.3)
        model.norm.weight.mul_(10)
    return model


def written(path, model, tokenizer=LETTERS, **options):
    write_gguf(path / "model.gguf", model.config, model.state_dict(), tokenizer, **options)
    return path / "model.gguf"


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


class Llama:
    """llama.cpp with one model: fp32 cache, no flash attention, one thread, nothing printed."""

    def __init__(self, path, context=128):
        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.n_ctx, options.n_parallel, options.n_gpu_layers = context, 1, 0
        options.warmup, options.fit_params, options.verbosity = False, False, -1
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        self.server = xllamacpp.Server(options)

    def goes_on(self, prompt: list[int], count: int, rows: int) -> tuple[list[int], torch.Tensor]:
        """Return the greedy tokens after a prompt, and the log-probabilities of all tokens at each, (count, rows)."""
        answer = self.server.handle_completions(
            {
                "prompt": prompt, "n_predict": count, "temperature": 0, "top_k": 1, "n_probs": rows,
                "ignore_eos": True, "cache_prompt": False,
            }
        )  # fmt: skip
        places = answer["choices"][0]["logprobs"]["content"]
        found = torch.full((count, rows), torch.nan)
        for place, at in zip(places, found, strict=True):
            for token in place["top_logprobs"]:
                at[token["id"]] = token["logprob"]
        return [place["id"] for place in places], found

    def post(self, name: str, content: dict) -> dict:
        request = urllib.request.Request(
            f"{self.server.listening_address}/{name}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def encode(self, text: str) -> list[int]:
        return self.post("tokenize", {"content": text})["tokens"]

    def decode(self, ids: list[int]) -> str:
        return self.post("detokenize", {"tokens": ids})["content"]


# How far log-probabilities may lie apart, in nats, where they spread over some five and a mistake in one setting moves
# them by tens. With f32 only the order of sums differs; llama.cpp's GELU looks values up in a table of fp16; with fewer
# bits it rounds what goes into a product, too.
APART = {"f32": 2e-4, "f32, gelu": 0.03, "f16": 0.1, "bf16": 0.5, "q8_0": 1.5}


@torch.no_grad()
def assert_goes_on_alike(model: GPT, path, apart: float, count: int = 64):
    """Hold llama.cpp's greedy tokens after 40 random ones, and all log-probabilities on the way, to the model's.

    In f32 without GELU every token is the same. Else up to a tenth may be another, where it and the likeliest are
    nearer to each other than `apart`.
    """
    prompt = torch.randint(0, 28, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    drawn, theirs = Llama(path).goes_on(prompt, count, model.config.vocab_size)
    ours = model(torch.tensor([prompt + drawn]))[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert (ours - theirs).abs().max() < apart
    ours[:, 28] = -torch.inf  # told to ignore the end
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


# ------------------------------------------------------------------------------------------------------------ text

TEXT = (
    "Es war  einmal ein Bär,\n\n  der aß 12345 Äpfel (für 3,50 €).\tThen I'll say: DON'T!   \n"
    "naïve café — 你好，世界 🙂👩‍👩‍👧 \r\n x=y+1;// ok   "
)


def published_split(name: str) -> Tokenizer:
    """Return a BPE that cuts text as Llama 3 or SmolLM does, in the words of their tokenizer.json."""
    ours = bpe_tokenizer(train_merges(count_words([TEXT, nonsense(200)]), 60))
    content = json.loads(ours.backend.to_str())
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if name == "smollm":
        first = {"type": "Digits", "individual_digits": True}
        parts = [first, bytes_only | {"use_regex": True}]
    else:
        expression = next(key[0] for key, value in SPLITS.items() if value == name)
        first = {
            "type": "Split",
            "pattern": {"Regex": expression},
            "behavior": "Isolated",
            "invert": False,
        }
        parts = [first, bytes_only | {"use_regex": False}]
        content["model"]["ignore_merges"] = True
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


def trained(pattern: str) -> Tokenizer:
    return bpe_tokenizer(train_merges(count_words([TEXT, nonsense(200)], pattern), 60), pattern)


TOKENIZERS = {
    "gpt-2": lambda: trained("gpt2"),
    "qwen2": lambda: trained("qwen2"),
    "llama-bpe": lambda: published_split("llama-bpe"),
    "smollm": lambda: published_split("smollm"),
    "characters": lambda: char_tokenizer(sorted(set(TEXT))),
}


def small_for(tokenizer: Tokenizer, spare: int = 0) -> GPT:
    return made(vocab_size=tokenizer.vocab_size + spare, n_layer=1)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_has_the_same_ids_and_the_same_text(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    path = written(tmp_path, small_for(tokenizer, spare=5), tokenizer)
    assert read_header(path)[0].get("tokenizer.ggml.pre", "characters") == name
    llama = Llama(path)
    parts = [TEXT, *TEXT.split(" "), *TEXT.split("\n"), " ", "\n", "  \n ", "a x"]
    for text in parts:
        ids = tokenizer.encode(text)
        assert llama.encode(text) == ids
        assert llama.decode(ids) == text
    assert llama.post("tokenize", {"content": "<|endoftext|>", "parse_special": True})[
        "tokens"
    ] == [tokenizer.eos_id]


@pytest.mark.parametrize("pattern", ["gpt2", "qwen2"])
def test_llama_cpp_has_the_same_ids_for_random_text(pattern, tmp_path):
    tokenizer = trained(pattern)
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer))
    letters = np.array([*"aB'sl 1é\n\r\t.!²٣あ🙂ß\u00a0\u2003<|>_-"])
    text = "".join(np.random.default_rng(0).choice(letters, 4000))
    assert llama.encode(text) == tokenizer.encode(text)
    assert llama.decode(tokenizer.encode(text)) == text


def test_llama_cpp_stops_at_our_end_of_text(tmp_path):
    server = Llama(written(tmp_path, made())).server
    wanted = {"prompt": [3, 4], "n_predict": 5, "temperature": 0, "logit_bias": [[28, 100]]}
    answer = server.handle_completions(wanted)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 1


def test_llama_cpp_refuses_a_character_that_ours_refuses(tmp_path):
    llama = Llama(written(tmp_path, made()))
    with pytest.raises(UserError, match="does not know 'Q'"):
        LETTERS.encode("aQ")
    with pytest.raises(urllib.error.HTTPError, match="500"):
        llama.encode("aQ")


def test_llama_cpp_applies_the_chat_template(tmp_path):
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = trained("qwen2")
    llama = Llama(written(tmp_path, small_for(tokenizer), tokenizer, chat_template=template))
    answer = llama.post("apply-template", {"messages": [{"role": "user", "content": "hello"}]})
    assert answer["prompt"] == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_vocabulary_in_the_file_is_the_one_that_was_given(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    path = written(tmp_path, small_for(tokenizer, spare=2), tokenizer)
    found = read_gguf_vocabulary(path)
    assert found == vocabulary_of(tokenizer, tokenizer.vocab_size + 2, pytest.fail)
    assert found != vocabulary_of(tokenizer, tokenizer.vocab_size + 3, pytest.fail)
    assert found.eos_token_id == tokenizer.eos_id
    assert found.token_type[-3:] == [
        3,
        5,
        5,
    ]  # end of text or <|im_end|>, and two that stand for nothing


def test_a_spare_row_is_the_end_where_the_tokenizer_has_none(tmp_path):
    endless = Tokenizer(LETTERS.backend, eos="<|nothing|>")
    path = written(tmp_path, made(vocab_size=30), endless)
    assert read_gguf_vocabulary(path).eos_token_id == 29
    with pytest.raises(UserError, match="no token that ends a text"):
        written(tmp_path, made(), endless)


def test_composing_characters_first_is_said(tmp_path):
    tokenizer = trained("qwen2")
    tokenizer.backend.normalizer = normalizers.NFC()
    said = []
    written(tmp_path, small_for(tokenizer), tokenizer, say=said.append)
    assert len(said) == 1
    assert "NFC" in said[0]


# -------------------------------------------------------------------------------------------------------- refusals

UNKNOWN = {
    "attention_gate = silu": SWITCHES["own: gate"],
    "position = learned and norm = rmsnorm": SWITCHES["own: learned with rmsnorm"],
    "position = rope and norm = layernorm": SWITCHES["own: rope with layernorm"],
    "position = rope and mlp = gelu": {"mlp": "gelu"},
    "position = learned and mlp = relu2": SWITCHES["gpt2, relu2, no bias"],
    "position = learned and mlp = gelu_exact": SWITCHES["gpt2, exact gelu"],
    "position = learned and qk_norm": SWITCHES["gpt2"] | {"qk_norm": True},
    "position = learned and n_kv_head": SWITCHES["gpt2"] | {"n_kv_head": 2},
    "position = learned and n_head x head_dim": SWITCHES["gpt2"] | {"head_dim": 16},
    "mlp = relu2 and qk_norm": {"mlp": "relu2", "qk_norm": True},
    "bias and qk_norm": {"bias": True, "qk_norm": True},
    "bias and mlp = relu2": {"bias": True, "mlp": "relu2"},
    "qk_norm and rope_scaling = llama3": {
        "qk_norm": True,
        "rope_scaling": "llama3",
        "rope_factor": 2.0,
        "rope_old_context": 8,
    },
}


@pytest.mark.parametrize(("setting", "switches"), UNKNOWN.items(), ids=UNKNOWN)
def test_a_shape_that_llama_cpp_lacks_is_refused_by_its_setting(setting, switches, tmp_path):
    with pytest.raises(UserError, match=f"no architecture with model.{setting}.* --to hf"):
        written(tmp_path, made(**switches))
    assert not list(tmp_path.iterdir())


def test_every_shape_of_our_own_family_is_refused(tmp_path):
    for position in ("rope", "learned"):
        for norm in ("rmsnorm", "layernorm"):
            for mlp in ("swiglu", "gelu", "gelu_exact", "relu2"):
                for more in ({}, {"bias": True}, {"qk_norm": True}, {"attention_gate": "silu"}):
                    model = made(position=position, norm=norm, mlp=mlp, n_layer=1, **more)
                    if family_of(model.config) == "minigpt":
                        with pytest.raises(UserError, match="no architecture with model"):
                            written(tmp_path, model)


def changed(change, pattern: str = "qwen2") -> Tokenizer:
    """Return a BPE tokenizer whose tokenizer.json `change` has been at."""
    content = json.loads(trained(pattern).backend.to_str())
    change(content)
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


def cut_elsewhere(content):
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\P{L}+"


def add_prefix(content):
    content["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


REFUSED = {
    "by a pattern that llama.cpp has under none of the names gpt-2": lambda: changed(cut_elsewhere),
    "has under none of the names": lambda: changed(add_prefix),
    "changes text by Lowercase first": lambda: changed(
        lambda c: c.update(normalizer={"type": "Lowercase"})
    ),
    "has ignore_merges = True": lambda: changed(lambda c: c["model"].update(ignore_merges=True)),
    "has dropout = 0.5": lambda: changed(lambda c: c["model"].update(dropout=0.5)),
    "has no merges": lambda: bpe_tokenizer([]),
    r"has the character U\+2581": lambda: char_tokenizer([" ", "a", "▁"]),
    r"has the character U\+0000": lambda: char_tokenizer(["\0", "a"]),
}


@pytest.mark.parametrize(("sentence", "make"), REFUSED.items(), ids=REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(sentence, make, tmp_path):
    tokenizer = make()
    with pytest.raises(UserError, match=sentence):
        written(tmp_path, small_for(tokenizer), tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_piece_that_looks_like_a_spare_row_is_refused(tmp_path):
    tokenizer = trained("gpt2")
    size = tokenizer.vocab_size
    tokenizer.backend.add_tokens([AddedToken(f"[PAD{size + 1}]")])
    tokenizer = Tokenizer(tokenizer.backend)
    with pytest.raises(UserError, match=rf"has the piece '\[PAD{size + 1}\]' twice"):
        written(tmp_path, small_for(tokenizer, spare=1), tokenizer)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 29 ids but the model was built for 20"):
        written(tmp_path, made(vocab_size=20))


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
        UserError, match=r"needs the package gguf; .* pip install 'minigpt\[gguf\]'"
    ):
        importlib.import_module("minigpt.interop.gguf")


# --------------------------------------------------------------------------------------------------- damaged files


def test_every_cut_is_refused(tmp_path):
    whole = written(tmp_path, made(n_layer=1)).read_bytes()
    short = tmp_path / "short.gguf"
    for length in [*range(0, 4000, 13), len(whole) // 2, len(whole) - 40]:
        short.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"short\.gguf"):
            read_gguf(short)


def replaced(place: int, kind: str, value: int):
    """Return a change of the header: another number at a place."""
    return lambda data: struct.pack_into(kind, data, place, value)


def lying(key: bytes, kind: str, value: int, skip: int = 4):
    """Return a change of the value after a key and the number of its type."""
    return lambda data: struct.pack_into(kind, data, data.index(key) + len(key) + skip, value)


DAMAGE = {
    "does not begin with GGUF": replaced(0, "<I", 0x12345678),
    "version 1": replaced(4, "<I", 1),
    "version 50331648": replaced(4, ">I", 3),
    "announces 24000000000000 bytes": replaced(8, "<Q", 10**12),
    "announces 442721857769029238760 bytes": replaced(8, "<Q", 2**64 - 1),
    "announces 13000000000000 bytes": replaced(16, "<Q", 10**12),
    "announces 1152921504606846976 bytes": replaced(24, "<Q", 2**60),
    "announces 8796093022208 bytes": lying(b"tokenizer.ggml.tokens", "<Q", 2**40, skip=8),
    "unknown type 99": lying(b"llama.block_count", "<I", 99, skip=0),
    "values of the unknown type 9": lying(b"tokenizer.ggml.scores", "<I", 9, skip=4),
    "it has 'blk.0.attn_q.weight' twice": lambda data: renamed(data, b"attn_k", b"attn_q"),
    "block_count is 10000, but it has only": lying(b"llama.block_count", "<I", 10_000),
    "head_count is 0; wanted": lying(b"llama.attention.head_count", "<I", 0),
    "token_embd.weight is not 16 wide": lying(b"llama.embedding_length", "<I", 16),
    "embedding_length is 4294967295": lying(b"llama.embedding_length", "<I", 2**32 - 1),
    "do not fit the shape": lying(b"llama.feed_forward_length", "<I", 2**24),
    "value_length is 9": lying(b"llama.attention.value_length", "<I", 9),
    "norm_eps is nan": lying(b"layer_norm_rms_epsilon", "<I", 0x7FC00000),
    "token_embd.weight wants 17592186044416 bytes": lying(
        b"token_embd.weight", "<Q", 2**37, skip=12
    ),
    "has 5 dimensions": lying(b"token_embd.weight", "<I", 5, skip=0),
    "token_embd.weight cannot be read": lying(b"token_embd.weight", "<I", 77, skip=20),
    "but 0 are left of the file": lying(b"token_embd.weight", "<Q", 2**63, skip=24),
    "is not UTF-8": lambda data: renamed(data, b"block_count", b"block_coun\xff"),
}


def renamed(data: bytearray, old: bytes, new: bytes):
    data[:] = data.replace(old, new)


@pytest.mark.parametrize(("sentence", "change"), DAMAGE.items(), ids=DAMAGE)
def test_a_header_that_lies_is_refused_without_belief(sentence, change, tmp_path):
    path = written(tmp_path, made(n_layer=1))
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        read_gguf(path)


def test_any_other_damage_to_the_header_is_refused_or_does_no_harm(tmp_path):
    path = written(tmp_path, made(n_layer=1))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(3500)] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            refused -= read_gguf(path) is not None
        refused += 1
    assert refused > 50


def rewritten(path, drop=(), **settings):
    """Write a GGUF file with other settings, by the library of llama.cpp's own project."""
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path.with_name("other.gguf"), settings.pop("arch", arch))
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.")) and name not in (*drop, *settings):
            item = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], item)
    for name, value in settings.items():
        add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](name, value)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            writer.add_tensor(tensor.name, tensor.data)
    writer.add_tensor("extra", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("other.gguf")


FOREIGN = {
    "general.architecture is 'mamba'; wanted one of llama": {"arch": "mamba"},
    "its tensor extra is not part of the model": {},
    "it has no setting llama.context_length": {"drop": ["llama.context_length"]},
    "it has no token_embd.weight": {"drop": ["token_embd.weight"]},
    "scaled by 'yarn'": {"llama.rope.scaling.type": "yarn"},
    "dimension_count is 4; this model has only 8": {"llama.rope.dimension_count": 4},
    "sliding_window is 64": {"llama.attention.sliding_window": 64},
    r"head_count_kv is \[4, 4\]": {"llama.attention.head_count_kv": [4, 4]},
}


@pytest.mark.parametrize(("sentence", "settings"), FOREIGN.items(), ids=FOREIGN)
def test_what_this_model_lacks_is_refused_by_name(sentence, settings, tmp_path):
    path = rewritten(written(tmp_path, made()), **settings)
    with pytest.raises(UserError, match=sentence):
        read_gguf(path)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_gguf(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UserError, match="is no GGUF file"):
        read_gguf_vocabulary(tmp_path / "text.gguf")


def test_a_file_without_a_tokenizer_is_refused_where_one_is_asked_for(tmp_path):
    path = rewritten(written(tmp_path, made()), drop=["tokenizer.ggml.tokens"])
    with pytest.raises(UserError, match=r"it has no tokenizer\.ggml\.tokens"):
        read_gguf_vocabulary(path)
