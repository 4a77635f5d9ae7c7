"""The verb finetune, and what eval and chat make of what it leaves."""

import io
import json

import pytest

from minigpt.rundir import RunDir

from .talking import write_base, write_chats
from .test_cli import call

SHORT = (
    "--train.steps", "2", "--train.batch-size", "2", "--train.dtype", "fp32", "--train.compile", "off",
    "--sample.max-tokens", "4",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_base(folder / "base")
    write_chats(folder / "chats.jsonl")
    return folder


def tune(folder, out, *options):
    return call(
        "finetune",
        folder / "base",
        "--data",
        folder / "chats.jsonl",
        "--out",
        out,
        *SHORT,
        *options,
    )


@pytest.fixture(scope="module")
def tuned(folder):
    assert tune(folder, folder / "one", "--lora.rank", "2") == 0
    assert tune(folder, folder / "two") == 0
    assert tune(folder, folder / "whole", "--lora.rank", "0") == 0
    return folder


def test_it_begins_with_what_suits_an_adapter_or_all_weights(tuned, capsys):
    adapter, whole = (RunDir(tuned / name).config for name in ("one", "whole"))
    assert (adapter.lora.rank, whole.lora.rank) == (2, 0)
    assert adapter.optim.lr > whole.optim.lr
    assert adapter.train.base == str(tuned / "base")
    assert (adapter.train.steps, adapter.train.epochs) == (2, 0.0)
    assert adapter.data.source == str(tuned / "chats.jsonl")


def test_the_same_command_says_that_it_is_done_and_its_last_line_is_json(tuned, capsys):
    assert tune(tuned, tuned / "one", "--lora.rank", "2", "--json") == 0
    shown = capsys.readouterr()
    assert "this run is finished (2 steps)" in shown.err
    assert json.loads(shown.out.splitlines()[-1]) == {"run": str(tuned / "one")}


def test_its_settings_repeat_it(tuned):
    again = tuned / "again"
    assert (
        call("finetune", tuned / "base", "--config", tuned / "one" / "run.toml", "--out", again)
        == 0
    )
    files = [run / "adapter_model.safetensors" for run in (tuned / "one", again)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "{0}/none.jsonl"), "there is no file {0}/none.jsonl; pass one of conversations"),
        ((), "--data is missing; pass a file of conversations"),
        (("--data", "{0}/broken.jsonl"), "broken.jsonl has no conversation in 2 records; line 1: not JSON"),
        (("--data", "{0}/half.jsonl", "--strict"), "half.jsonl, line 5: no answer"),
        (("--data", "{0}/chats.jsonl", "--lora.rank", "-1"), "lora.rank is -1; wanted at least 0"),
        (("--data", "{0}/chats.jsonl", "--lora.targets", "head"), "wanted one of all, attention, mlp"),
        (("--data", "{0}/chats.jsonl", "--out", "{0}/base"), "is the model that the run begins with"),
        (("--data", "{0}/chats.jsonl", "--data.val-documents", "40"), "would hold out all of the 40"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(arguments, said, folder, capsys):
    (folder / "broken.jsonl").write_text("{\nnothing\n")
    lines = (folder / "chats.jsonl").read_text().splitlines()[:4]
    lines.append('{"messages": [{"role": "user", "content": "cat"}]}')
    (folder / "half.jsonl").write_text("\n".join(lines))
    filled = [part.format(folder) for part in arguments]
    out = [] if "--out" in filled else ["--out", str(folder / "refused")]
    assert call("finetune", folder / "base", *filled, *out) == 2
    shown = capsys.readouterr()
    assert said.format(folder) in shown.err
    assert "Traceback" not in shown.err
    assert not (folder / "refused").exists()


def test_a_base_that_is_none_is_refused(folder, capsys):
    assert call("finetune", folder / "nobody", "--data", folder / "chats.jsonl") == 2
    assert f"there is no model at {folder / 'nobody'}" in capsys.readouterr().err


def test_a_character_model_learns_to_be_talked_with_too(tmp_path, capsys):
    from minigpt.tokenizer import char_tokenizer

    letters = char_tokenizer(sorted(set("\nsystemuserassistantcat the mat dog a tree ran and")))
    write_base(tmp_path / "base", letters)
    write_chats(tmp_path / "chats.jsonl")
    assert tune(tmp_path, tmp_path / "run") == 0
    assert call("sample", tmp_path / "run", "--prompt", "cat", "--max-tokens", "2") == 0


def test_eval_measures_held_out_answers_beside_the_base(tuned, capsys):
    assert call("eval", tuned / "one", tuned / "whole", "--json") == 0
    out = capsys.readouterr().out
    assert "before tuning" in out
    first, second = json.loads(out.splitlines()[-1])
    assert first["tokens"] == second["tokens"] > 0
    assert second["difference"]["paired_by"] == "windows"
    assert call("eval", tuned / "one", "--stride", "4") == 2
    assert "measured by the answers that it has held out" in capsys.readouterr().err
    (tuned / "text.txt").write_text("the cat ran")
    assert call("eval", tuned / "one", "--data", tuned / "text.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bits_per_byte"] > 0


def talk(run, lines, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert (
        call("chat", run, "--greedy", "--max-tokens", "3", "--dtype", "fp32", "--no-compile") == 0
    )
    return capsys.readouterr()


def test_chat_lists_the_adapters_of_a_model_and_goes_on_with_another(tuned, monkeypatch, capsys):
    shown = talk(
        tuned / "one",
        ["/adapter", "cat", "/adapter two", "/adapter", "dog", "/adapter none", "/adapter", "/adapter tow"],
        monkeypatch,
        capsys,
    )  # fmt: skip
    lines = shown.err.splitlines()
    listed = [
        line for line in lines if line[:2] in ("* ", "  ") and line[2:] in ("one", "two", "none")
    ]
    assert listed == [
        "* one",
        "  two",
        "  none",
        "  one",
        "* two",
        "  none",
        "  one",
        "  two",
        "* none",
    ]
    assert f"going on with {tuned / 'two'}, and with what was said" in lines
    assert "there is no adapter 'tow' of this model (did you mean 'two'?)" in shown.err
    assert f"{tuned / 'base'} has no chat template" in shown.err


def test_one_that_is_damaged_is_refused_and_the_one_before_goes_on(
    tuned, monkeypatch, capsys, tmp_path
):
    import shutil

    for name in ("base", "one", "two"):
        shutil.copytree(tuned / name, tmp_path / name)
    for name in ("one", "two"):
        path = tmp_path / name / "adapter_config.json"
        path.write_text(path.read_text().replace(str(tuned), str(tmp_path)))
    (tmp_path / "two" / "adapter_model.safetensors").write_bytes(b"nothing")
    shown = talk(tmp_path / "one", ["/adapter two", "/adapter", "cat"], monkeypatch, capsys)
    assert "two cannot be loaded as an adapter" in shown.err
    assert "* one" in shown.err
    assert shown.out.strip("\n") is not None
