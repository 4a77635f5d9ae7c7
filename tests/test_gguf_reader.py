import contextlib
import struct

import numpy as np
import pytest

from minigpt.errors import UserError
from minigpt.interop.gguf import read_gguf, read_gguf_vocabulary

from .llama_cpp import made, written


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
    "vocab_size is 137438953472; wanted": lying(b"token_embd.weight", "<Q", 2**37, skip=12),
    "token_embd.weight wants 2147483648 bytes": lying(b"token_embd.weight", "<Q", 2**24, skip=12),
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


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_gguf(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UserError, match="is no GGUF file"):
        read_gguf_vocabulary(tmp_path / "text.gguf")
