import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minigpt import cli, config
from minigpt.cli.app import show
from minigpt.cli.settings import out_of
from minigpt.config import LoraConfig, ModelConfig, presets, to_toml
from minigpt.errors import LostError, PeerError, RunError, UserError
from minigpt.interop.loading import load
from minigpt.interop.pth import write_pth
from minigpt.model.transformer import GPT
from minigpt.pretrain import train
from minigpt.rundir import RunDir
from minigpt.tokenizer import bpe_tokenizer

from .test_pth import RunsByName


def call(*arguments: str) -> int:
    return cli.run(time.monotonic(), [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_text):
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = [
        "--model.n-layer",
        1,
        "--model.n-embd",
        16,
        "--model.n-head=2",
        "--model.block-size",
        16,
    ]
    options += [
        "--data.tokenizer",
        "char",
        "--train.steps",
        60,
        "--train.batch-size",
        4,
        "--sample.max-tokens",
        8,
    ]
    assert (
        call(
            "train",
            "--data",
            small_text,
            "--out",
            folder,
            *options,
            "--train.eval-every",
            30,
            "--optim.lr=1e-2",
        )
        == 0
    )
    return folder


def test_train_takes_every_setting(trained):
    config = RunDir(trained).config
    assert (config.model.n_layer, config.model.block_size, config.optim.lr) == (1, 16, 0.01)
    assert RunDir(trained).metrics[-1]["step"] == 60


def test_train_prints_progress_to_stderr_and_text_to_stdout(trained, small_text, tmp_path, capsys):
    (tmp_path / "s.toml").write_text(to_toml(RunDir(trained).config))
    assert (
        call(
            "train",
            "--config",
            tmp_path / "s.toml",
            "--out",
            tmp_path / "run",
            "--train.steps",
            2,
            "--json",
        )
        == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out.splitlines()[-1]) == {"run": str(tmp_path / "run")}
    assert "60 steps" not in shown.err
    assert "2 steps of 4 x 16 = 64 tokens" in shown.err
    assert "held-out loss" in shown.err


def test_later_files_win_and_the_command_line_wins_over_all(trained, tmp_path):
    (tmp_path / "a.toml").write_text(to_toml(RunDir(trained).config))
    (tmp_path / "b.toml").write_text("[train]\nsteps = 3\nseed = 5\n[model]\nbias = false\n")
    files = ["--config", tmp_path / "a.toml", "--config", tmp_path / "b.toml"]
    assert call("train", *files, "--train.seed", 6, "--model.bias", "--out", tmp_path / "run") == 0
    config = RunDir(tmp_path / "run").config
    assert (config.train.steps, config.train.seed, config.model.bias) == (3, 6, True)
    assert (
        call("train", *files, "--model.bias=false", "--train.seed", 6, "--out", tmp_path / "other")
        == 0
    )
    assert RunDir(tmp_path / "other").config.model.bias is False


def test_sample_is_repeatable_and_takes_a_prompt_from_standard_input(trained, capsys, monkeypatch):
    texts = []
    for _ in range(2):
        assert call("sample", trained, "--prompt", "the ", "--max-tokens", 12, "--seed", 3) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("the ")
    assert len(texts[0]) == len("the ") + 12 + 1
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the ")))
    assert call("sample", trained, "--prompt", "-", "--max-tokens", 12, "--seed", 3) == 0
    assert capsys.readouterr().out == texts[0]


def test_sample_draws_several_from_following_seeds(trained, capsys):
    assert (
        call(
            "sample",
            trained,
            "--prompt",
            "a",
            "--num-samples",
            3,
            "--max-tokens",
            20,
            "--seed",
            5,
            "--json",
        )
        == 0
    )
    lines = capsys.readouterr().out
    assert lines.count("\n---\n") == 2
    samples = json.loads(lines.splitlines()[-1])["samples"]
    assert len({sample["text"] for sample in samples}) == 3
    assert [sample["seed"] for sample in samples] == [5, 6, 7]
    assert "\n---\n".join(sample["text"] for sample in samples) == lines.rpartition("\n{")[0]
    call("sample", trained, "--prompt", "a", "--max-tokens", 20, "--seed", 7, "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["samples"][0]["ids"] == samples[2]["ids"]
    assert found["tokens"] == len(samples[2]["ids"]) == len(samples[2]["log_probabilities"]) == 20


def test_every_filter_of_sample_changes_what_is_drawn(trained, capsys):
    def drawn(*options) -> str:
        assert call("sample", trained, "--prompt", "the ", "--max-tokens", 40, *options) == 0
        return capsys.readouterr().out

    plain, greedy = drawn("--temperature", 2), drawn("--greedy")
    assert drawn("--temperature", 2, "--min-p", 0.5) != plain
    for option, value in (
        ("--repetition-penalty", 2), ("--no-repeat-ngram", 2), ("--ngram-penalty", 3), ("--presence-penalty", 3),
        ("--frequency-penalty", 2),
    ):  # fmt: skip
        assert drawn("--greedy", option, value) != greedy, option
    ended = drawn("--greedy", "--stop", "nnn ooo", "--stop", greedy[8:11])
    assert ended.startswith("the ")
    assert greedy.startswith(ended.rstrip("\n"))
    assert len(ended) < len(greedy)
    assert drawn("--greedy", "--on-full", "stop") == greedy[: len("the ") + 16 - 4 + 1] + "\n"
    for option in ("--dtype=bf16", "--dtype=fp16", "--quantize=int8"):
        assert drawn("--greedy", option).startswith("the ")


def test_sample_says_what_it_did_and_shows_how_likely_each_piece_was(trained, tmp_path, capsys):
    (tmp_path / "prompt.txt").write_text("the ")
    options = ("--max-tokens", 30, "--seed", 3, "--dtype", "fp32")
    assert call("sample", trained, "--prompt-file", tmp_path / "prompt.txt", *options) == 0
    plain = capsys.readouterr()
    assert "30 tokens in " in plain.err
    assert "the context was full" in plain.err
    assert call("sample", trained, "--prompt", "the ", "--show-probabilities", *options) == 0
    coloured = capsys.readouterr()
    assert "50 % and more" in coloured.err
    assert re.sub("\x1b\\[[0-9]+m", "", coloured.out) == plain.out
    assert len(re.findall("\x1b\\[3[1-5]m", coloured.out)) == 30


def test_a_streamed_character_is_never_cut(tmp_path):
    """Three emoji and two Chinese characters, whose bytes are tokens, through a pipe, read byte by byte."""
    tokenizer, text = bpe_tokenizer([]), "🙂語🙃字🙂"
    ids = tokenizer.encode(text)
    # Each byte foretells the next by its position.
    shape = ModelConfig(
        vocab_size=259, block_size=32, n_layer=1, n_head=1, n_embd=32, position="learned", norm="layernorm",
        mlp="gelu", tie_embeddings=False,
    )  # fmt: skip
    model = GPT(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1.0)
        model.position_embedding.weight.copy_(torch.eye(32) * 10)
        for place, token in enumerate(ids):
            model.head.weight[token, place] = 10.0
    model.save_pretrained(tmp_path, tokenizer)
    command = [
        sys.executable,
        "-m",
        "minigpt",
        "sample",
        str(tmp_path),
        "--prompt",
        "a",
        "--greedy",
    ]
    command.append(f"--max-tokens={len(ids)}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        pieces = []
        while piece := os.read(process.stdout.fileno(), 1 << 16):
            pieces.append(piece.decode())  # whole characters each time
    assert "".join(pieces) == f"a{text}\n"


def test_sample_says_when_the_prompt_is_longer_than_the_context(trained, capsys):
    assert call("sample", trained, "--prompt", "the cat " * 5, "--max-tokens", 3) == 0
    assert "the prompt has 40 tokens; the model sees the last 16 of them" in capsys.readouterr().err


def test_sample_settings_change_what_is_drawn(trained, capsys):
    drawn = {}
    for name, options in {
        "plain": [], "greedy": ["--greedy"], "cold": ["--temperature", "1e-9"], "k1": ["--top-k", 1],
        "p0": ["--top-p", 0], "zero": ["--temperature", 0], "hot": ["--temperature", 3, "--top-k", 0],
    }.items():  # fmt: skip
        assert call("sample", trained, "--prompt", "the ", "--max-tokens", 30, *options) == 0
        drawn[name] = capsys.readouterr().out
    assert drawn["greedy"] == drawn["cold"] == drawn["k1"] == drawn["p0"] == drawn["zero"]
    assert len({drawn["plain"], drawn["greedy"], drawn["hot"]}) == 3


def test_eval_prints_a_table_and_json(trained, capsys):
    assert call("eval", trained, "--json") == 0
    out = capsys.readouterr().out
    assert "bigram" in out
    found = json.loads(out.splitlines()[-1])
    assert {"loss", "perplexity", "bits_per_byte", "bits_per_char", "tokens", "seconds"} <= set(
        found
    )
    assert found["tokens"] > 1000
    checkpoint = trained / "checkpoints" / "step-00000060"
    assert call("eval", trained, checkpoint, "--json") == 0
    both = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["loss"] for one in both] == [found["loss"]] * 2


def test_eval_answers_questions_and_finds_copies(trained, tmp_path, capsys):
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        '{"context": "the cat sat on", "choices": ["the mat", "nnn ooo"], "answer": "A"}\n'
    )
    assert call("eval", trained, "--tasks", path, "--tasks", path, "--copied", "--json") == 0
    out = capsys.readouterr().out
    assert "guessing" in out
    assert "longest span copied" in out
    found = json.loads(out.splitlines()[-1])
    assert found["tasks"][str(path)]["acc"] == 1.0
    assert found["copied"]["verdict"] in ("generalising", "between", "memorising")
    assert found["tokens"] > 1000


def test_eval_asks_a_model_without_a_text_only_the_questions(trained, tmp_path, capsys):
    folder, path = tmp_path / "model", tmp_path / "tasks.jsonl"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained / name, folder)
    path.write_text(
        '{"context": "the cat sat on", "choices": ["the mat", "nnn ooo"], "answer": "A"}\n'
    )
    assert call("eval", folder, "--tasks", path, "--json") == 0
    said = capsys.readouterr()
    assert "only the tasks are measured" in said.err
    assert list(json.loads(said.out.splitlines()[-1])) == ["tasks"]


def test_eval_compares_and_strides(trained, capsys):
    checkpoint = trained / "checkpoints" / "step-00000060"
    assert call("eval", trained, checkpoint, "--stride", 8, "--json") == 0
    out = capsys.readouterr().out
    assert "to the first" in out
    first, second = json.loads(out.splitlines()[-1])
    assert first["stride"] == 8
    assert 0 < first["loss_stderr"] < first["loss"]
    assert second["difference"]["to"] == str(trained)
    assert second["difference"]["bits_per_byte"] == 0


def test_eval_on_another_text(trained, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on the mat.\n" * 20)
    assert call("eval", trained, "--data", tmp_path / "a.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens"] == 24 * 20 - 1


BAD = [
    (["train", "--data", "none.txt"], "there is no text at 'none.txt'"),
    (["train", "--data", "{empty}"], "holds no text"),
    (["train", "--data", "{binary}"], "is a binary file"),
    (["train", "--preset", "shakespear-cpu"], "did you mean 'shakespeare-cpu'"),
    (["train", "--model.n-layr", "3"], "--model.n-layer"),
    (["train", "--config", "none.toml"], "none.toml does not exist"),
    (["train", "--config", "{unknown}"], "unknown setting model.n_layr (did you mean 'n_layer'?)"),
    (
        ["train", "--model.n-layer", "six", "--optim.lr", "fast"],
        "model.n_layer is 'six'; wanted a whole number",
    ),
    (
        ["train", "--model.n-layer", "six", "--optim.lr", "fast"],
        "optim.lr is 'fast'; wanted a number",
    ),
    (["train", "--model.n-embd", "130"], "n_embd = 130 is not divisible by model.n_head = 4"),
    (["train", "--train.steps", "5", "--minutes", "1"], "gives train.steps and train.minutes"),
    (["train", "--minutes", "-1"], "train.minutes is -1.0; wanted at least 0"),
    (["train", "--data", "{short}", "--data.tokenizer", "char"], "one window needs"),
    (["train", "--out", "{short}"], "is a file"),
    (["sample", "none"], "there is no model at none"),
    (["sample", "{cut}"], "model.safetensors is cut short or damaged"),
    (["sample", "{misfit}"], "ids but the model was built for"),
    (["sample", "{run}", "--prompt", "€"], "does not know '€' (U+20AC)"),
    (
        ["sample", "{run}", "--top-p", "2"],
        "sample.top_p is 2.0; wanted at least 0.0 and at most 1.0",
    ),
    (["eval", "{binary}"], "there is no model at"),
    (["eval", "{run}", "--data", "none.txt"], "there is no text at"),
    (["eval", "{run}", "--tasks", "helaswag"], "did you mean 'hellaswag'"),
    (["eval", "{run}", "--tasks", "{empty}"], "holds no question"),
    (["eval", "{run}", "--stride", "0"], "--stride is 0, but windows are 16 tokens long"),
    (["demo", "--minutes", "soon"], "train.minutes is 'soon'; wanted a number"),
    (["trian"], "trian"),
    (["sample"], "requires an argument"),
    (["sample", "{run}", "--dtype", "fp8"], "Invalid value"),
    (["sample", "{run}", "--quantize", "int4"], "Invalid value"),
    (["sample", "{run}", "--device", "abacus"], "--device is 'abacus'"),
    (
        ["sample", "{run}", "--quantize", "int8", "--dtype", "fp32"],
        "--quantize int8 computes in bf16",
    ),
    (["sample", "{run}", "--prompt-file", "none.txt"], "none.txt does not exist"),
    (["sample", "{run}", "--prompt", "a", "--prompt-file", "x"], "give one of them"),
    (["sample", "{run}", "--prompt-file", "."], "is a folder; pass a text file"),
    (["sample", "{run}", "--no-repeat-ngram", "9" * 20], "wanted at least 0 and at most 1000000"),
    (["sample", "{run}", "--stop", "a\udcff"], "sample.stop is not UTF-8"),
    (
        ["sample", "{run}", "--min-p", "2"],
        "sample.min_p is 2.0; wanted at least 0.0 and at most 1.0",
    ),
    (
        ["sample", "{run}", "--repetition-penalty", "0"],
        "sample.repetition_penalty is 0.0; wanted at least 0.01",
    ),
    (
        ["sample", "{run}", "--no-repeat-ngram", "-1"],
        "sample.no_repeat_ngram is -1; wanted at least 0",
    ),
    (
        ["sample", "{run}", "--ngram-penalty", "nan"],
        "sample.ngram_penalty is nan; wanted a finite number",
    ),
    (
        ["sample", "{run}", "--frequency-penalty", "x"],
        "sample.frequency_penalty is 'x'; wanted a number",
    ),
    (
        ["sample", "{run}", "--presence-penalty", "1e9"],
        "sample.presence_penalty is 1000000000.0; wanted",
    ),
    (["sample", "{run}", "--stop", ""], "sample.stop is empty text"),
    (
        ["sample", "{run}", "--on-full", "halt"],
        "sample.on_full is 'halt'; wanted one of slide, stop",
    ),
    (["sample", "{run}", "--num-samples", "0"], "sample.num_samples is 0; wanted at least 1"),
    (
        ["sample", "{run}", "--max-tokens", "many"],
        "sample.max_tokens is 'many'; wanted a whole number",
    ),
    (["eval", "{run}", "--quantize", "int8", "--dtype", "fp16"], "--quantize int8 decodes in bf16"),
    (["bench", "sample", "--vs", "vllm"], "--vs vllm is not known"),
    (["bench", "sample", "--tokens", "1"], "--tokens is 1; wanted at least 8"),
    (["train", "--data", ""], "there is no text at ''"),
    (["train", "--data", "x" * 300], "there is no text at"),
    (["train", "--out", ""], "--out is empty"),
    (["train", "--model.n-layer", "99999999999999999999"], "wanted at least 1 and at most 10000"),
    (["train", "--train.batch-size", "99999999999999"], "wanted at least 1 and at most"),
    (["train", "--device", "cpu:7"], "this machine does not have"),
    (["train", "--minutes", "inf"], "train.minutes is inf; wanted a finite number"),
    (["train", "--train.seed", "99999999999999999999"], "wanted at least 0 and at most"),
    (["sample", "{run}", "--prompt", "a\udcff"], "the prompt is not UTF-8"),
    (["prepare", "none.txt", "--out", "o"], "there is no text at 'none.txt'"),
    (["prepare", "{short}"], "--out"),
    (["prepare", "{short}", "--out", ""], "--out is empty"),
    (
        ["prepare", "{latin}", "--out", "o"],
        "latin is not UTF-8: byte 3 is 0xe9; save it as UTF-8, or",
    ),
    (
        ["prepare", "{short}", "--out", "o", "--val-fraction", "2"],
        "data.val_fraction is 2.0; wanted at least",
    ),
    (["prepare", "{short}", "--out", "o", "--workers", "0"], "--workers is 0; wanted at least 1"),
    (["prepare", "{short}", "--out", "o", "--tasks", "4"], "--tasks 4 needs --executor"),
    (
        ["prepare", "{short}", "--out", "o", "--tokenizer", "gtp2"],
        "there is no tokenizer at gtp2 (did you mean 'gpt2'?)",
    ),
    (
        ["prepare", "{short}", "--out", "o", "--val-documents", "1"],
        "has 1 documents, and the first 1 are to be held out",
    ),
    (["prepare", "{cut}", "--out", "{cut}"], "has other things in it"),
    (["prepare", "{short}", "--out", "{short}"], "is a file; a folder was wanted"),
    (["tokenizer", "train", "{short}", "--out", "{short}"], "is a file; a folder was wanted"),
    (["prepare", "hf:", "--out", "o"], "hf: names no data set"),
    (["prepare", "hf:nobody/nothing", "--out", "o"], "without a network, pass a local copy"),
    (["prepare", "pyton-docs", "--out", "o"], "did you mean 'python-docs'"),
    (
        ["tokenizer", "train", "{short}", "--out", "o", "--vocab-size", "100"],
        "--vocab-size is 100; wanted at least 259",
    ),
    (
        ["tokenizer", "train", "{short}", "--out", "my.json"],
        "wanted a folder, or a file called tokenizer.json",
    ),
    (["tokenizer", "train", "{empty}", "--out", "o"], "holds no text"),
    (["tokenizer", "show", "none", "text"], "there is no tokenizer at none"),
    (["tokenizer", "show", "{run}", "€"], "does not know '€' (U+20AC)"),
    (["tokenizer", "show", "{run}", ""], "the text is empty"),
    (
        ["bench", "tokenizer", "--vs", "nanogpt"],
        "--vs nanogpt is not known; peers: tokenizers, tiktoken",
    ),
    (["bench", "train", "--vs", "nanogpt"], "--vs nanogpt is not known; peers: hf"),
    (["bench", "train", "--seconds", "0"], "--seconds is 0.0; wanted more than 0"),
    (["train", "--data.stream", "--data.tokenizer", "char"], "needs the whole text first"),
    (["plan", "--model.n-embd", "130"], "n_embd = 130 is not divisible by model.n_head = 4"),
    (["plan", "--processes", "3"], "cannot be shared by 3 processes"),
    (["plan", "--data", "shakspeare"], "did you mean 'shakespeare'"),
    (["plan", "--preset", "shakespeare-cpu"], "pass --model.vocab-size, or a local copy"),
    (["plan", "--data", "{short}", "--data.tokenizer", "none"], "there is no tokenizer at none"),
    (["plan", "--out", "o"], "Unknown option: --out"),
    (
        ["export", "{run}", "--to", "gguf", "--out", "{cut}"],
        "is a folder; the name of a file was wanted",
    ),
    (["export", "{run}", "--to", "hf", "--out", "{short}"], "is a file; a folder was wanted"),
    (["export", "{run}", "--to", "hf", "--out", "{cut}"], "is not empty; choose another"),
    (["export", "{run}", "--to", "hf", "--out", ""], "--out is empty"),
    (
        ["export", "{run}", "--to", "hf", "--out", "o", "--quantize", "q8_0"],
        "q8_0 is a form of GGUF",
    ),
    (["export", "{run}", "--to", "onnx", "--out", "o"], "onnx"),
    (["export", "none", "--to", "pth", "--out", "o"], "there is no model at none"),
    (["import", "{binary}", "--out", "o"], "there is no model at"),
    (["import", "hf:nobody/nothing", "--out", "o"], "hf:nobody/nothing cannot be fetched"),
    (["import", "{run}", "--out", "o", "--model.n-head", "2"], "says its shape in its config.json"),
    (["import", "{run}", "--out", "o", "--model.n-head", "two"], "model.n_head is 'two'; wanted"),
    (["import", "{run}", "--out", "o", "--tokenizer", "none"], "there is no tokenizer at none"),
    (["report", "none"], "none is no run directory"),
    (["report", "{run}", "--out", "{cut}"], "the report cannot be written to"),
    (["train", "--log.to", "tensorbord"], "did you mean 'tensorboard'"),
    (["train", "--overfit", "--data", "none.txt"], "there is no text at 'none.txt'"),
    (["sample", "{weights}"], "weights.pth comes without a tokenizer"),
    (["eval", "{evil}"], "asks for posix.system when it is opened"),
]


def test_an_adapter_is_sampled_from_measured_and_exported_by_its_folder(
    trained, tmp_path, small_text, capsys
):
    from minigpt.finetune.lora import swap_in
    from minigpt.finetune.peft_format import write_adapter
    from minigpt.interop.loading import load

    model = swap_in(load(trained)[0], LoraConfig(rank=2))
    for parameter in model.parameters():
        parameter.data += 0.1 * parameter.requires_grad
    write_adapter(tmp_path / "adapter", model, str(trained))
    assert call("export", tmp_path / "adapter", "--to", "hf", "--out", tmp_path / "merged") == 0
    assert "read again: logits" in capsys.readouterr().out
    told = []
    for place in (tmp_path / "adapter", tmp_path / "merged", trained):
        assert call("sample", place, "--prompt", "the", "--max-tokens", 9, "--dtype", "fp32") == 0
        text = capsys.readouterr().out
        assert call("eval", place, "--data", small_text, "--dtype", "fp32", "--json") == 0
        facts = json.loads(capsys.readouterr().out.splitlines()[-1])
        told.append((text, facts["loss"]))
    assert told[0] == told[1]
    assert told[0][1] != told[2][1]


def test_plan_takes_the_settings_of_train_and_prints_text_and_json(trained, tmp_path, capsys):
    run = RunDir(trained)
    (tmp_path / "s.toml").write_text(to_toml(run.config))
    assert call("plan", "--config", tmp_path / "s.toml", "--processes", 2, "--json") == 0
    shown = capsys.readouterr()
    text, facts = shown.out.splitlines()[:-1], json.loads(shown.out.splitlines()[-1])
    assert facts["parameters"] == sum(p.numel() for p in load(trained)[0].parameters())
    assert any(f"{facts['parameters']:,}" in line and "total" in line for line in text)
    assert (facts["sequences_per_process_and_step"], facts["steps"]) == (2, 60)
    assert facts["memory"]["peak_bytes"] > 4 * facts["parameters"]
    assert "one process" in facts["speed"]["not_measured"]
    short = ("--minutes", 3, "--no-trial", "--json")
    assert call("plan", "--config", tmp_path / "s.toml", *short) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["minutes"], facts["speed"]) == (3, {"not_measured": "a trial was not wanted"})


def test_plan_tries_the_step_unless_told_not_to(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(to_toml(RunDir(trained).config))
    monkeypatch.setattr("minigpt.speed.REPEATING_SECONDS", 0.1)
    assert call("plan", "--config", tmp_path / "s.toml", "--json") == 0
    speed = json.loads(capsys.readouterr().out.splitlines()[-1])["speed"]
    assert speed["tried"] == "whole steps"
    assert speed["run_seconds"] > 60 * speed["seconds_per_step"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"), BAD, ids=[" ".join(a) + "|" + s[:12] for a, s in BAD]
)
def test_bad_input_is_one_sentence_and_exit_2(
    arguments, sentence, trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    places = {
        name: tmp_path / name
        for name in ("empty", "binary", "short", "unknown", "cut", "misfit", "latin")
    }
    (tmp_path / "files").mkdir()
    places |= {name: tmp_path / "files" / f"{name}.pth" for name in ("weights", "evil")}
    model = load(trained)[0]
    write_pth(places["weights"], model.config, model.state_dict())
    torch.save({"a": RunsByName(tmp_path / "ran")}, places["evil"])
    places["latin"].write_bytes(b"caf\xe9")
    places["empty"].write_bytes(b"")
    places["binary"].write_bytes(b"\x7fELF\0\0\0")
    places["short"].write_text("too short for a window")
    places["unknown"].write_text("[model]\nn_layr = 3\n")
    for name in ("cut", "misfit"):
        places[name].mkdir()
        for file in trained.glob("*.*"):
            (places[name] / file.name).write_bytes(file.read_bytes())
    (places["cut"] / "model.safetensors").write_bytes(
        (trained / "model.safetensors").read_bytes()[:500]
    )
    other = json.loads((trained / "tokenizer.json").read_text())
    other["model"]["vocab"]["€"] = 99
    other["added_tokens"].clear()
    (places["misfit"] / "tokenizer.json").write_text(json.dumps(other))
    filled = [argument.format(run=trained, **places) for argument in arguments]
    status = call(*filled)
    shown = capsys.readouterr()
    assert status == 2
    assert shown.out == ""
    assert sentence in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "runs").exists()


def test_prepare_then_train_on_the_folder(small_text, tmp_path, capsys):
    out = tmp_path / "data" / "small"
    assert call("prepare", small_text, "--out", out, "--vocab-size", 300, "--json") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    facts = json.loads(lines[-1])
    assert {"fingerprint", "train", "val", "duplicates", "seconds", "peak_memory_bytes"} <= set(
        facts
    )
    assert "MB/s" in lines[1]
    assert "tokens/s; peak memory" in lines[1]
    assert "making a bpe tokenizer" in shown.err
    options = [
        "--model.block-size",
        16,
        "--model.n-layer",
        1,
        "--model.n-embd",
        16,
        "--train.steps",
        3,
    ]
    assert call("train", "--data", out, "--out", tmp_path / "run", *options) == 0
    assert RunDir(tmp_path / "run").config.data.source == str(out)
    assert f"{facts['train']['tokens']:,} tokens to train on" in capsys.readouterr().err
    assert call("prepare", small_text, "--out", out, "--vocab-size", 300) == 0


def test_prepare_reads_standard_input(small_text, tmp_path, capsys, monkeypatch):
    for source in (small_text, "-"):
        stdin = io.TextIOWrapper(io.BytesIO(small_text.read_bytes()))
        monkeypatch.setattr("sys.stdin", stdin)
        out = tmp_path / str(source == "-")
        assert call("prepare", source, "--out", out, "--vocab-size", 300, "--json") == 0
    both = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert both[0]["fingerprint"] == both[1]["fingerprint"]


@pytest.mark.parametrize("engine", ["own", "tokenizers"])
def test_a_tokenizer_is_trained_shown_and_used(engine, small_text, tmp_path, capsys):
    file = tmp_path / "made" / "tokenizer.json"
    options = ["--vocab-size", 290, "--engine", engine, "--limit-bytes", 9000, "--json"]
    assert call("tokenizer", "train", small_text, "--out", file, *options) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out.splitlines()[-1])["engine"] == engine
    assert f"learnt by {'minigpt' if engine == 'own' else engine}" in shown.out
    assert "read the first 9,000 bytes" in shown.err
    stored = json.loads(file.with_name("tokenizer_config.json").read_text())["minigpt"]
    assert (stored["engine"], stored["bytes"]) == (engine, 9000)
    assert call("tokenizer", "show", file, "the cat", "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert lines[0] == "|".join(found["pieces"])
    assert "".join(found["pieces"]) == "the cat"
    assert "characters," in lines[-2]
    assert call("prepare", small_text, "--out", tmp_path / "out", "--tokenizer", file) == 0


def test_show_takes_a_run(trained, capsys):
    assert call("tokenizer", "show", trained, "the") == 0
    assert capsys.readouterr().out.splitlines()[0] == "t|h|e"


@pytest.mark.slow
def test_bench_prints_a_table_and_rows(small_text, capsys):
    options = ["--vs", "tokenizers", "--vs", "tiktoken", "--vocab-size", 300, "--json"]
    assert call("bench", "tokenizer", "--data", small_text, *options) == 0
    out = capsys.readouterr().out
    rows = json.loads(out.splitlines()[-1])
    assert {row["who"] for row in rows} == {"minigpt", "tokenizers", "tiktoken"}
    assert all(set(row) == {"what", "who", "value", "unit"} and row["value"] > 0 for row in rows)
    assert "x ours" in out


def test_every_verb_has_help_with_an_example(capsys):
    for verb in (
        "demo", "train", "plan", "sample", "eval", "prepare", "tokenizer train", "tokenizer show", "bench tokenizer",
        "bench train", "bench sample", "import", "export", "chat",
        "report", "doctor",
    ):  # fmt: skip
        assert call(*verb.split(), "--help") == 0
        assert f"Example: minigpt {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_the_help_lists_the_presets_there_are(verb, capsys):
    call(verb, "--help")
    words = capsys.readouterr().out.replace("│", " ").replace(",", " ").replace(".", " ").split()
    # The others are what finetune and train --from begin with.
    assert {name for name in presets() if not name.startswith(("tune-", "continue"))} <= set(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--model.qk-norm", "false"], "write --model.qk-norm=false"),
        (["sample", "runs/x", "--greedy", "true", "--json"], "write --greedy=true"),
        (["sample", "runs/x", "--prompt", "Once", "upon", "a"], "upon a: more words than minigpt sample takes"),
        (["train", "true"], "true: more words than minigpt train takes"),
    ],
    ids=str,
)  # fmt: skip
def test_words_that_nothing_takes_are_refused_with_what_to_write(words, said, capsys):
    assert call(*words) == 2
    assert said in capsys.readouterr().err


def test_where_a_run_goes_by_itself():
    places = [
        (None, None, None),
        (None, "demo", "a.txt"),
        (None, None, "x/a.txt"),
        (None, None, "-"),
        ("o", "demo", "a"),
    ]
    found = [str(out_of(place[0] and Path(place[0]), *place[1:])) for place in places]
    assert found == ["runs/latest", "runs/demo", "runs/a", "runs/standard-input", "o"]


def test_every_setting_is_in_the_help(capsys):
    call("train", "--help")
    shown = capsys.readouterr().out
    assert "--lora." not in shown
    for section, fields in config.SECTIONS.items():
        if section == "lora":
            continue
        for item in dataclasses.fields(fields):
            option = f"--{section}.{item.name.replace('_', '-')} "
            assert (option in shown) == (option != "--train.base ")  # of what is tuned


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_by_its_status_what_happened(
    number, status, small_config, tmp_path
):
    (tmp_path / "run.toml").write_text(to_toml(small_config))
    command = [sys.executable, "-m", "minigpt", "train", "--config", str(tmp_path / "run.toml")]
    command += [
        "--train.steps",
        "100000",
        "--train.compile",
        "off",
        "--optim.schedule",
        "constant",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while (
        not (metrics.is_file() and metrics.read_text().count("\n") > 3)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "stopped and saved at step" in err
    assert "Traceback" not in err
    assert RunDir(tmp_path / "run").newest_whole()[0].state()["progress"]["step"] > 3


def test_python_and_command_line_train_the_same(trained, tmp_path):
    config = RunDir(trained).config
    train(config, tmp_path / "run")
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (trained, tmp_path / "run")
    ]
    assert weights[0] == weights[1]


def test_a_model_goes_out_to_a_file_and_comes_back_the_same(trained, tmp_path, capsys):
    assert call("export", trained, "--to", "pth", "--out", tmp_path / "model.pth", "--json") == 0
    shown = capsys.readouterr().out.splitlines()
    assert "differ by at most 0 " in shown[0]
    facts = json.loads(shown[1])
    assert (facts["path"], facts["largest_difference"]) == (str(tmp_path / "model.pth"), 0)
    arguments = [
        "import",
        tmp_path / "model.pth",
        "--tokenizer",
        trained,
        "--out",
        tmp_path / "back",
    ]
    assert call(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ids"] > 10
    samples = []
    for run in (trained, tmp_path / "back"):
        assert call("sample", run, "--prompt", "the", "--max-tokens", 9) == 0
        samples.append(capsys.readouterr().out)
    assert samples[0] == samples[1]


def test_the_best_model_of_a_run_goes_out_as_gguf(trained, tmp_path, capsys):
    out = tmp_path / "model.gguf"
    assert call("export", trained, "--to", "gguf", "--quantize", "f16", "--out", out) == 0
    assert capsys.readouterr().out.startswith(f"{out}: GGUF, read again: logits at ")


def test_a_file_of_weights_is_sampled_and_measured(trained, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("the cat sat on the mat. " * 20)
    assert call("export", trained, "--to", "pth", "--out", tmp_path / "model.pth") == 0
    (tmp_path / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    capsys.readouterr()
    assert call("sample", tmp_path / "model.pth", "--prompt", "the", "--max-tokens", 9) == 0
    assert capsys.readouterr().out.startswith("the")
    losses = []
    for run in (trained, tmp_path / "model.pth"):
        assert call("eval", run, "--data", tmp_path / "other.txt", "--json") == 0
        losses.append(json.loads(capsys.readouterr().out.splitlines()[-1])["loss"])
    assert losses[0] == losses[1]


def test_a_proof_that_fails_is_one_sentence_and_exit_1(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minigpt.interop.export.LARGEST_SHARE", {"f32": -1.0})
    assert call("export", trained, "--to", "hf", "--out", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("minigpt: what was written is not the same model, and is not kept")
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert not (tmp_path / "out").exists()


def test_sigterm_ends_a_verb_as_an_exception_does(trained, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "minigpt.interop.export.compare", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(SystemExit) as ended:
        call("export", trained, "--to", "hf", "--out", tmp_path / "out")
    assert ended.value.code == 143
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_report_says_where_it_is(trained, tmp_path, capsys):
    out = tmp_path / "look.html"
    assert call("report", trained, "--out", out, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], json.loads(lines[1])) == (str(out), {"report": str(out)})
    assert "60 steps, finished" in out.read_text()
    assert (trained / "report.html").is_file()  # made by train


def test_doctor_prints_text_and_json(capsys, monkeypatch):
    monkeypatch.setattr("minigpt.doctor.TRIAL_SECONDS", 0.01)
    assert call("doctor", "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "machine"
    assert json.loads(lines[-1])["torch"] == torch.__version__


def test_overfit_makes_no_run_and_says_by_its_status_whether_it_learnt(
    trained, tmp_path, capsys, monkeypatch
):
    (tmp_path / "s.toml").write_text(to_toml(RunDir(trained).config))
    arguments = ["train", "--overfit", "--config", tmp_path / "s.toml", "--out", tmp_path / "run"]
    assert call(*arguments, "--json") == 0
    shown = capsys.readouterr()
    assert "a model that knows nothing has ln" in shown.err
    assert shown.out.startswith("learnt by heart")
    assert json.loads(shown.out.splitlines()[-1])["learnt"] is True
    assert call(*arguments, "--optim.lr", 0, "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["learnt"] is False
    assert "minigpt: not learnt by heart" in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "run").exists()


def refused(sentence, of_one=False):
    error = UserError(sentence)
    error.is_of_one = of_one
    return error


@pytest.mark.parametrize(
    ("error", "status", "speakers"),
    [
        (refused("wrong"), 2, {0: "", 8: "rank 8: "}),  # once on each host
        (refused("wrong", of_one=True), 2, {0: "", 1: "rank 1: ", 3: "rank 3: ", 8: "rank 8: "}),
        (RunError("wrong"), 1, {0: "", 1: "rank 1: ", 3: "rank 3: ", 8: "rank 8: "}),
        (LostError("wrong"), 1, {0: "", 1: "rank 1: ", 8: "rank 8: "}),
        (PeerError(143), 143, {}),
    ],
    ids=["all have it", "one has it", "of one", "lost", "of another"],
)
def test_of_several_processes_one_says_why_they_end(error, status, speakers, monkeypatch, capsys):
    def fail(*arguments, **options):
        show("a result")
        raise error

    monkeypatch.setattr("minigpt.pretrain.train", fail)
    monkeypatch.setenv("WORLD_SIZE", "16")
    for rank in (0, 1, 3, 8):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank % 8))
        assert call("train", "--data", "text") == status
        printed = capsys.readouterr()
        wanted = f"minigpt: {speakers[rank]}wrong\n" if rank in speakers else ""
        assert (printed.err, printed.out) == (wanted, "" if rank else "a result\n")
