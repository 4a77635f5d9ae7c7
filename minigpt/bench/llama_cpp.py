"""A GGUF file in, the speed of llama.cpp with it out. torch computes nothing here: its threads would be in the way."""

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def measure_llama_cpp(
    path: Path, prompts: list[list[int]], tokens: int, threads: int, repeats: int
) -> tuple[float, float]:
    """Return the tokens per second of prefill and of decode, at best, all prompts at a time.

    Args:
        path: the file.
        prompts: ids.
        tokens: that are drawn after each, greedily.
        threads: that compute.
        repeats: of the whole.
    """
    library: Any = importlib.import_module("xllamacpp")  # made of C++: it declares no types
    options = library.CommonParams()
    options.model.path = str(path)
    longest = max(len(prompt) for prompt in prompts) + tokens
    options.n_parallel, options.n_gpu_layers = len(prompts), 0
    options.n_ctx = len(prompts) * (longest + 8)
    options.warmup, options.fit_params, options.verbosity = True, False, -1
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    server = library.Server(options)

    def complete(prompt: list[int]) -> dict[str, Any]:
        return server.handle_completions(
            {
                "prompt": prompt, "n_predict": tokens, "temperature": 0, "top_k": 1, "ignore_eos": True,
                "cache_prompt": False,
            }
        )["timings"]  # fmt: skip

    prefill = decode = 0.0
    with ThreadPoolExecutor(len(prompts)) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            timings = list(pool.map(complete, prompts))
            seconds = time.perf_counter() - began
            if len(prompts) == 1:
                prefill = max(prefill, timings[0]["prompt_per_second"])
                decode = max(decode, timings[0]["predicted_per_second"])
                continue
            # Prompts are read while others are gone on from: the rest of the time is that of the tokens.
            read = sum(found["prompt_ms"] for found in timings) / len(timings) / 1e3
            decode = max(decode, len(prompts) * tokens / max(1e-9, seconds - read))
            prefill = max(prefill, sum(map(len, prompts)) / max(1e-9, read))
    return prefill, decode
