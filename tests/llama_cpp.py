"""llama.cpp in a process of its own, and models small enough to be run by it at once."""

import json
import subprocess
import sys
import urllib.request
import weakref
from pathlib import Path

import gguf
import numpy as np
import torch

from minigpt.config import ModelConfig
from minigpt.interop.gguf import write_gguf
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, char_tokenizer

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


def small_for(tokenizer: Tokenizer, spare: int = 0) -> GPT:
    return made(vocab_size=tokenizer.vocab_size + spare, n_layer=1)


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


class Llama:
    """llama.cpp with one model: fp32 cache, no flash attention, one thread, nothing printed."""

    def __init__(self, path, context=128):
        command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(path)]
        self._process = subprocess.Popen(
            [*command, str(context)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        weakref.finalize(self, ended, self._process)
        self._address = self._process.stdout.readline().strip()
        assert self._address, self._process.stderr.read()

    def goes_on(
        self, prompt: list[int] | str, count: int, rows: int
    ) -> tuple[list[int], torch.Tensor]:
        """Return the greedy tokens after a prompt, and the log-probabilities of all tokens at each, (count, rows)."""
        answer = self.complete(
            prompt=prompt,
            n_predict=count,
            top_k=1,
            n_probs=rows,
            ignore_eos=True,
            cache_prompt=False,
        )
        places = answer["choices"][0]["logprobs"]["content"]
        found = torch.full((count, rows), torch.nan)
        for place, at in zip(places, found, strict=True):
            for token in place["top_logprobs"]:
                at[token["id"]] = token["logprob"]
        return [place["id"] for place in places], found

    def complete(self, **wanted) -> dict:
        """Return what it answers to a completion, greedily."""
        return self.post("v1/completions", {"temperature": 0} | wanted)

    def post(self, name: str, content: dict) -> dict:
        request = urllib.request.Request(
            f"{self._address}/{name}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def encode(self, text: str, **options) -> list[int]:
        wanted = {"content": text, "parse_special": False} | options
        return self.post("tokenize", wanted)["tokens"]

    def decode(self, ids: list[int]) -> str:
        return self.post("detokenize", {"tokens": ids})["content"]


def ended(process: subprocess.Popen) -> None:
    """End llama.cpp, whatever it does."""
    process.kill()
    process.communicate()
