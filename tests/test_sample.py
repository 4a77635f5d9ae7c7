import json

import pytest

from minigpt.bench import sample
from minigpt.bench.rows import as_table
from minigpt.bench.sample import bench_sample
from minigpt.config import ModelConfig
from minigpt.errors import UserError


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"shapes": ["7b"]}, "--shape 7b is not known; wanted 12m, 124m"),
        ({"dtypes": ["fp8"]}, "--dtype fp8 is not known; wanted fp32, bf16, int8"),
        ({"peers": ["vllm"]}, "--vs vllm is not known; wanted hf, llama.cpp"),
    ],
)
def test_names_that_are_not_known_are_refused(how, sentence):
    with pytest.raises(UserError, match=sentence):
        bench_sample(**how)


def test_a_peer_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(sample, "version_of", lambda package: None)
    with pytest.raises(UserError, match=r"--vs llama\.cpp needs the package xllamacpp"):
        bench_sample(peers=["llama.cpp"])


@pytest.mark.slow
def test_everybody_is_measured_on_the_same_work(monkeypatch):
    small = ModelConfig(vocab_size=512, block_size=512, n_layer=1, n_head=2, n_embd=64)
    monkeypatch.setitem(sample.SHAPES, "12m", small)
    monkeypatch.setattr(sample, "ROUNDS", 1)
    rows = bench_sample(
        shapes=["12m"], dtypes=["fp32", "int8"], peers=["hf", "llama.cpp"], tokens=8, compiled=False
    )
    found = {(row["what"], row["who"]): row["value"] for row in rows}
    for part in ("prefill", "decode"):
        for batch in (1, 16):
            for who in ("minigpt", "hf", "llama.cpp"):
                assert found.pop((f"{part} 12m fp32 x {batch}", who)) > 0
            for who in ("minigpt", "llama.cpp"):
                assert found.pop((f"{part} 12m int8 x {batch}", who)) > 0
    assert not found
    assert json.dumps(rows)
    assert rows[0]["what"].startswith("decode")
    assert "x ours" in as_table(rows)
