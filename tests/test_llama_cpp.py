from minigpt.bench.llama_cpp import measure_llama_cpp

from .llama_cpp import made, written


def test_prefill_and_decode_are_timed_for_one_and_for_several(tmp_path):
    path = written(tmp_path, made(block_size=64))
    for count in (1, 3):
        prompts = [[1, 2, 3, 4, 5, 6, 7, 8]] * count
        prefill, decode = measure_llama_cpp(path, prompts, tokens=6, threads=1, repeats=2)
        assert prefill > 0
        assert decode > 0
