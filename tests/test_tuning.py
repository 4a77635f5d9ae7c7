import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minigpt
from minigpt.config import to_toml
from minigpt.errors import UserError
from minigpt.files import sha256_of
from minigpt.finetune.measure_replies import measured_replies
from minigpt.finetune.tuning import finetune
from minigpt.inference.conversation import Conversation
from minigpt.interop.export import chat_template, export
from minigpt.rundir import RunDir

from .several import together
from .talking import ANSWERS, OTHERS, longer, tuning, write_base, write_chats
from .test_cli import call
from .test_pretrain import without_times

ROOT = Path(__file__).parent.parent
# Runs a command line and is killed before it changes so many files.
KILLED = """
import sys, time
from minigpt.cli import run
from tests.killing import kill_before
kill_before(int(sys.argv[1]), sys.argv[2])
run(time.monotonic(), sys.argv[3:])
"""


def outcome(folder) -> tuple:
    """Return the hashes of the last checkpoint and of the best weights, the metrics without times, and the samples."""
    run = RunDir(folder)
    newest = run.newest_whole()[0].path
    files = [*newest.glob("*.safetensors"), *run.path.glob("*.safetensors")]
    hashes = {str(f.relative_to(run.path)): sha256_of(f) for f in files}
    return hashes, without_times(run.metrics), (run.path / "samples.txt").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    write_base(folder / "base")
    write_chats(folder / "chats.jsonl")
    return folder


def settings(folder, **options):
    return tuning(folder / "base", folder / "chats.jsonl", **options)


def answer(run, question):
    model, tokenizer = minigpt.load(run)
    chat = Conversation(tokenizer, chat_template(run))
    chat.add("user", question)
    engine = minigpt.Engine(minigpt.Decoder(model), tokenizer)
    drawn = engine.submit(
        chat.prompt_ids(40).ids, minigpt.SampleConfig(temperature=0.0), ends=chat.ends
    )
    return "".join(engine.run(drawn)), drawn.finish


@pytest.mark.parametrize("name", ["adapter", "all"])
def test_it_answers_as_the_conversations_do_and_ends_by_itself(name, tuned):
    for question, wanted in (OTHERS if name == "adapter" else ANSWERS).items():
        assert answer(tuned[name], question) == (wanted, "stop")


@pytest.mark.parametrize("name", ["adapter", "all"])
def test_the_log_says_what_it_was_before_and_is_now(name, tuned):
    text = (tuned[name] / "train.log").read_text()
    rows = RunDir(tuned[name]).metrics
    assert rows[-1]["val_loss"] < 0.2 < 0.5 < rows[0]["val_loss"]
    assert f"before the first update it was {rows[0]['val_loss']:.4f} nats per token" in text
    assert ("numbers are trained beside" in text) == (name == "adapter")
    assert f"cat\n→ {answer(tuned[name], 'cat')[0]}" in (tuned[name] / "samples.txt").read_text()
    base = {"all": tuned["all"].parent / "base", "adapter": tuned["all"]}[name]
    assert json.loads((tuned[name] / "data.json").read_text())["base"] == str(base)


def test_an_adapter_merged_is_a_model_that_answers_the_same(tuned, tmp_path):
    export(tuned["adapter"], "hf", tmp_path / "merged")
    assert answer(tmp_path / "merged", "dog") == (OTHERS["dog"], "stop")
    ends = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert len(ends) == 2


@pytest.mark.slow  # imports peft, which asks transformers for an attribute by the older of its two names
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_peft_and_transformers_answer_the_same(tuned):
    import peft
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned["adapter"])
    base = transformers.AutoModelForCausalLM.from_pretrained(tuned["all"])
    adapted = peft.PeftModel.from_pretrained(base, tuned["adapter"])
    whole = transformers.AutoModelForCausalLM.from_pretrained(tuned["all"])
    asked = [{"role": "user", "content": "sat"}]
    ids = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    for model, wanted in ((whole, ANSWERS), (adapted, OTHERS)):
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )
        assert tokenizer.decode(found[0, ids.size(1) :]) == f"{wanted['sat']}<|im_end|>"


def stopped_after(config, out, step, monkeypatch):
    """Tune until a step, and stop as Ctrl-C does."""
    from minigpt.job import TrainingJob

    batches = TrainingJob.batches

    def until(job, number):
        if number == step:
            job._stop.set()
        return batches(job, number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingJob, "batches", until)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, out)


@pytest.mark.parametrize("rank", [4, 0])
def test_stopped_and_gone_on_with_it_ends_equal_bit_for_bit(rank, folder, tmp_path, monkeypatch):
    config = settings(folder, rank=rank)
    whole = finetune(config, tmp_path / "whole")
    for step in (4, 8):
        stopped_after(config, tmp_path / "parts", step, monkeypatch)
    parts = finetune(config, tmp_path / "parts")
    assert outcome(parts) == outcome(whole)
    assert len(outcome(parts)[0]) == (4 if rank else 3)


def test_with_another_base_or_other_conversations_it_is_not_gone_on_with(folder, tmp_path):
    write_base(tmp_path / "base")
    chats = write_chats(tmp_path / "chats.jsonl")
    config = tuning(tmp_path / "base", chats, steps=1)
    run = finetune(config, tmp_path / "run")
    write_chats(chats, 39)
    with pytest.raises(UserError, match="has changed since"):
        finetune(config, run)
    write_chats(chats)
    write_base(tmp_path / "base", n_layer=1)
    with pytest.raises(UserError, match="has changed since"):
        finetune(config, run)


def test_another_adapter_is_not_gone_on_with_and_a_base_may_move(tmp_path):
    base, chats = write_base(tmp_path / "base"), write_chats(tmp_path / "chats.jsonl")
    run = finetune(tuning(base, chats, steps=1), tmp_path / "run")
    other = tuning(base, chats, rank=5, steps=1)
    with pytest.raises(UserError, match=r"lora\.rank was 4, now 5"):
        finetune(other, run)
    with pytest.raises(UserError, match=r"lora\.rank cannot be changed by --override"):
        finetune(other, run, override=True)
    moved = base.rename(tmp_path / "moved")
    finetune(tuning(moved, chats, steps=1), run)
    assert RunDir(run).config.train.base == str(moved)
    named = json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(moved)


def test_the_base_is_never_the_place_of_the_run(tmp_path):
    base, chats = write_base(tmp_path / "base"), write_chats(tmp_path / "chats.jsonl")
    for again in (False, True):
        with pytest.raises(UserError, match="is the model that the run begins with"):
            finetune(tuning(base, chats), base, again=again)
    file = base / "model.safetensors"
    with pytest.raises(UserError, match="is the model that the run begins with"):
        finetune(tuning(file, chats), base, again=True)
    assert file.is_file()


def test_the_settings_of_tuning_are_not_those_of_pretraining(folder, tmp_path):
    with pytest.raises(UserError, match="these are settings of tuning; minigpt finetune"):
        minigpt.train(settings(folder), out=tmp_path / "run")


def test_it_is_measured_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    config = tuning("base", "chats.jsonl", steps=1)
    run = finetune(config, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert measured_replies(run).facts["tokens"] > 0


def test_the_best_weights_are_made_again_where_they_are_damaged(folder, tmp_path):
    config = settings(folder)
    run = finetune(config, tmp_path / "run")
    wanted = (run / "adapter_model.safetensors").read_bytes()
    (run / "adapter_model.safetensors").write_bytes(wanted[:100])
    finetune(longer(config, 12), run)
    assert "the best weights are lost" in (run / "train.log").read_text()
    assert (run / "adapter_model.safetensors").read_bytes() == wanted


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0])
def test_killed_and_started_again_it_ends_equal(rank, folder, tmp_path):
    config = settings(folder, rank=rank, steps=30)
    whole = finetune(config, tmp_path / "whole")
    (tmp_path / "settings.toml").write_text(to_toml(config))
    arguments = ["finetune", folder / "base", "--config", tmp_path / "settings.toml"]
    arguments += ["--out", tmp_path / "killed"]
    command = [sys.executable, "-c", KILLED, "150", str(tmp_path / "killed"), *map(str, arguments)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert RunDir(tmp_path / "killed").newest_whole()[0].path.name < "step-00000030"
    assert call(*arguments) == 0
    assert "going on from step" in (tmp_path / "killed" / "train.log").read_text()
    assert outcome(tmp_path / "killed") == outcome(whole)


def _one_of_several(ranks, folder, rank, parallel):
    from minigpt.finetune.replies import open_replies
    from minigpt.pretrain import prepare_run

    config = settings(folder, rank=rank, parallel=parallel)
    config = dataclasses.replace(
        config, model=minigpt.ModelConfig(), lora=dataclasses.replace(config.lora, dropout=0.0)
    )
    prepare_run(config, folder / "several", ranks=ranks, open_task=open_replies).fit()


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "parallel"), [(4, "ddp"), (0, "fsdp")])
def test_two_processes_learn_as_one_does(rank, parallel, folder, tmp_path):
    for name in ("base", "chats.jsonl"):
        (tmp_path / name).symlink_to(folder / name)
    together(2, _one_of_several, tmp_path, rank, parallel)
    config = settings(tmp_path, rank=rank)
    config = dataclasses.replace(
        config, model=minigpt.ModelConfig(), lora=dataclasses.replace(config.lora, dropout=0.0)
    )
    alone = finetune(config, tmp_path / "alone")
    for found, wanted in zip(
        RunDir(tmp_path / "several").metrics, RunDir(alone).metrics, strict=True
    ):
        for key in ("train_loss", "val_loss"):
            assert found.get(key, 0.0) == pytest.approx(wanted.get(key, 0.0), abs=1e-5)
