import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

import minigpt
from minigpt.data.tokens import tokens_of_text
from minigpt.errors import UserError
from minigpt.evaluate.measure import measure, tokens_of
from minigpt.pretrain import train
from minigpt.rundir import RunDir

from .test_pretrain import changed


@pytest.fixture
def run(small_config, tmp_path):
    return train(small_config, tmp_path / "run")


def test_the_whole_held_out_part_is_measured_beside_its_baselines(run):
    found = measure(run)
    assert found["tokens"] == len(tokens_of(run).val) - 1
    assert list(found["baselines"]) == ["uniform", "unigram", "bigram", "mlp", "trigram"]
    assert found["loss"] < found["baselines"]["uniform"]["loss"]
    assert measure(run)["loss"] == found["loss"]


def test_a_run_says_and_eval_measures_the_same(small_config, tmp_path, capsys, monkeypatch):
    """Loss and baselines, on a text of which only the beginning is counted, in windows as long as the run's own."""
    monkeypatch.setattr("minigpt.evaluate.measure.LONGEST_WINDOW", 5)
    monkeypatch.setattr("minigpt.evaluate.baselines.MOST_COUNTED", 100)
    run = train(small_config, tmp_path / "run")
    said = float(capsys.readouterr().err.split("held-out loss ")[1].split()[0])
    found = measure(run)
    assert abs(found["loss"] - said) < 1e-4
    assert found["baselines"] == RunDir(run).metrics[0]["baselines"]


def test_a_model_of_others_is_measured_in_windows_of_a_common_length(run, tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    shutil.copytree(run, foreign, ignore=shutil.ignore_patterns("run.toml", "checkpoints"))
    tokens = tokens_of(run).val[:]
    whole = measure(foreign, lambda tokenizer: tokens)
    assert whole["loss"] == pytest.approx(measure(run)["loss"])
    monkeypatch.setattr("minigpt.evaluate.measure.LONGEST_WINDOW", 5)
    assert measure(foreign, lambda tokenizer: tokens)["loss"] > whole["loss"]


def test_a_run_is_measured_as_it_was_trained(small_config, tmp_path, capsys):
    text = tmp_path / "documents.txt"
    text.write_text("<|endoftext|>".join(["the cat sat on the mat. " * 4] * 30))
    config = changed(small_config, data={"source": str(text), "documents": "separate"})
    run = train(config, tmp_path / "run")
    said = float(capsys.readouterr().err.split("held-out loss ")[1].split()[0])
    assert abs(measure(run)["loss"] - said) < 1e-4


def test_a_checkpoint_knows_its_run_from_inside(run, monkeypatch):
    monkeypatch.chdir(run / "checkpoints" / "step-00000024")
    assert measure(Path())["tokens"] == measure(run)["tokens"]


def test_without_the_cache_the_tokens_are_made_again(run, monkeypatch, tmp_path):
    kept = measure(run)["loss"]
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "empty"))
    assert measure(run)["loss"] == kept


def test_without_the_cache_a_changed_text_is_refused(run, small_config, monkeypatch, tmp_path):
    toml = (run / "run.toml").read_text()
    (tmp_path / "other.txt").write_text("a cat " * 500)
    (run / "run.toml").write_text(
        toml.replace(small_config.data.source, str(tmp_path / "other.txt"))
    )
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="has changed; pass the text to measure on with --data"):
        measure(run)


def test_a_model_that_no_run_made_needs_a_text(run, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(
        run, foreign, ignore=shutil.ignore_patterns("run.toml", "data.json", "checkpoints")
    )
    with pytest.raises(UserError, match="does not say what it was trained on"):
        measure(foreign)


@torch.no_grad()
def test_the_numbers_are_those_of_the_logits(run):
    """Loss, bits per byte and their standard errors, from the logits of a model loaded as any program would."""
    found, (model, tokenizer) = measure(run), minigpt.load(run)
    tokens = tokens_of(run).val[:].astype(int)
    context, bits, sizes = model.config.block_size, [], []
    for start in range(0, len(tokens) - 1, context):
        window = torch.tensor(tokens[start : start + context + 1])[None]
        chances = model(window[:, :-1]).log_softmax(-1).gather(-1, window[:, 1:, None])
        bits.append(-chances.double().sum().item() / math.log(2))
        sizes.append(sum(len(tokenizer.pieces[i]) for i in window[0, 1:].tolist()))
    bits, sizes = np.array(bits), np.array(sizes)
    per_byte = bits.sum() / sizes.sum()
    left = bits - per_byte * sizes
    count = len(bits)
    error = math.sqrt(count / (count - 1) * (left**2).sum()) / sizes.sum()
    assert found["bits_per_byte"] == pytest.approx(per_byte, rel=1e-5)
    assert found["bits_per_byte_stderr"] == pytest.approx(error, rel=1e-4)
    assert found["loss"] == pytest.approx(bits.sum() * math.log(2) / found["tokens"], rel=1e-5)


def test_a_stride_gives_each_token_more_to_go_by(run):
    found = measure(run, stride=4)
    assert found["tokens"] == measure(run)["tokens"]
    assert found["stride"] == 4
    assert found["loss"] < measure(run)["loss"]


def test_what_less_precision_costs_is_paired(run):
    decoded = measure(run, precision="int8")["decoded"]
    assert decoded["difference"]["paired_by"] == "windows"
    assert decoded["difference"]["bits_per_byte_stderr"] < decoded["bits_per_byte_stderr"] / 2


@torch.no_grad()
@pytest.mark.parametrize("stride", [None, 10])
def test_a_gpt2_directory_from_elsewhere_is_measured_as_transformers_would(tmp_path, stride):
    """Every number again from the logits and the tokens of `transformers`."""
    text = "A café, a bat, and a cat: they sat on a mat.\n" * 8
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>"
    )
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    shape = transformers.GPT2Config(
        vocab_size=len(theirs), n_positions=24, n_embd=16, n_layer=1, n_head=2, **ends
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(shape).eval()
    theirs.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)

    ids, nats = theirs(text)["input_ids"], []
    for place in range(1, len(ids)):
        step = stride or 24
        start = 0 if place <= 24 else step * -(-(place - 24) // step)
        logits = model(torch.tensor([ids[start:place]])).logits[0, -1]
        nats.append(-logits.log_softmax(-1)[ids[place]].item())
    first = len(backend.decode(ids[:1]).encode())
    wanted = sum(nats) / math.log(2) / (len(text.encode()) - first)

    def tokens(tokenizer):
        return tokens_of_text([(True, text)], tokenizer)

    found = measure(tmp_path, tokens, stride=stride)
    assert found["tokens"] == len(ids) - 1
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(wanted, rel=1e-5)
    stretches = [nats[i : i + 24] for i in range(0, len(nats), 24)]
    left = [sum(one) - np.mean(nats) * len(one) for one in stretches]
    error = math.sqrt(len(left) / (len(left) - 1) * sum(x * x for x in left)) / len(nats)
    assert found["loss_stderr"] == pytest.approx(error, rel=1e-3)
