import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from minigpt.errors import UserError
from minigpt.finetune.chatml import CHATML
from minigpt.interop.loading import load_both
from minigpt.interop.pth import write_pth
from minigpt.model.transformer import GPT
from minigpt.serve.portal import open_upload
from minigpt.serve.uploads import Bounds

from .conftest import tiny

BOUNDS = Bounds()


def opened(
    folder: Path, data: bytes | None = None, name: str = "mine.pth", bounds=BOUNDS, given=None
):
    """Return the stages of an upload and what came out."""
    if data is not None:
        (folder / "weights").write_bytes(data)
    steps, stages = open_upload(folder, name, bounds, given), []
    while True:
        try:
            stages.append(next(steps))
        except StopIteration as end:
            return stages, end.value


def zipped(run: Path, top: str = "") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for path in run.rglob("*"):
            file.write(path, f"{top}{path.relative_to(run)}")
    return made.getvalue()


def same_model(one: GPT, other: GPT) -> bool:
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        return torch.equal(one(ids), other(ids))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "private"
    made.mkdir()
    return made


def test_a_zipped_run_becomes_the_model_that_it_is(folder, trained):
    stages, found = opened(folder, zipped(trained, "run/"), "run.zip")
    assert [stage.name for stage in stages] == ["unpack", "blueprint", "mapping"]
    said = " ".join(stages[1].sentences)
    assert "LlamaForCausalLM" in said or "Qwen3ForCausalLM" in said
    assert "2 layers, 2 heads, 32 channels, context 48" in said
    assert "292 ids" in said
    model, tokenizer = load_both(trained)
    assert same_model(found.model, model)
    assert found.tokenizer.encode("the cat") == tokenizer.encode("the cat")
    assert found.template is None


def test_a_chat_template_comes_along(folder, trained, tmp_path):
    run = tmp_path / "chat"
    shutil.copytree(trained, run)
    (run / "chat_template.jinja").write_text(CHATML)
    stages, found = opened(folder, zipped(run))
    assert "<|im_start|>" in found.template
    assert "program" not in " ".join(stages[1].sentences)


def test_a_chat_template_of_a_stranger_is_left_out_and_said(folder, trained, tmp_path):
    run = tmp_path / "chat"
    shutil.copytree(trained, run)
    (run / "chat_template.jinja").write_text("{% for _ in range(99999) %}{% endfor %}")
    stages, found = opened(folder, zipped(run))
    assert found.template is None
    assert "one of a stranger's is not run here" in stages[1].sentences[-1]


def test_a_file_of_weights_says_what_was_inferred(folder, trained):
    model, _ = load_both(trained)
    safetensors.torch.save_file(
        {k: v.clone() for k, v in model.state_dict().items() if k != "head.weight"}, folder / "weights"
    )  # fmt: skip
    shutil.copy(trained / "tokenizer.json", folder)
    with pytest.raises(UserError, match=r"how many heads.*say how many beside the file"):
        opened(folder, name="weights.safetensors")
    stages, found = opened(folder, name="weights.safetensors", given={"n_head": 2})
    assert "read off its tensors: 2 layers, 32 channels, 292 ids" in stages[1].sentences[1]
    assert "assumed" in stages[1].sentences[1]
    assert "minigpt import" not in stages[1].sentences[1]
    assert found.model.config.n_layer == 2


def test_a_checkpoint_of_ours_knows_its_shape(folder, trained):
    model, _ = load_both(trained)
    write_pth(folder / "weights", model.config, model.state_dict())
    shutil.copy(trained / "tokenizer.json", folder)
    _, found = opened(folder)
    assert same_model(found.model, model)


def test_nothing_of_the_folder_is_needed_afterwards(folder, trained):
    model, _ = load_both(trained)
    write_pth(folder / "weights", model.config, model.state_dict())
    shutil.copy(trained / "tokenizer.json", folder)
    _, found = opened(folder)
    (folder / "weights").write_bytes(b"")
    shutil.rmtree(folder)
    assert same_model(found.model, model)


def test_a_long_context_is_cut_and_said(folder, trained):
    bounds = Bounds(context=16)
    stages, found = opened(folder, zipped(trained), bounds=bounds)
    assert "context cut from 48 to 16" in " ".join(stages[1].sentences)
    assert found.model.config.block_size == 16


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/minigpt-was-run"),))


def torch_file(content) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def tensors_file(**tensors) -> bytes:
    return safetensors.torch.save(tensors)


def header(claimed: int) -> bytes:
    return struct.pack("<Q", claimed) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def tarred() -> bytes:
    """Return a tar, as PyTorch once wrote one, whose entry leads elsewhere."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        file.addfile(tarfile.TarInfo("../minigpt-was-run"), io.BytesIO())
    return made.getvalue()


WRONG = {
    "a tar": (tarred(), "nothing was run"),
    "text": (b"hello, this is not a model", "no checkpoint of PyTorch"),
    "a pickle that runs code": (pickle.dumps(Evil()), "nothing was run"),
    "a checkpoint that runs code": (torch_file({"model": Evil()}), "nothing was run"),
    "a checkpoint that is cut short": (torch_file(GPT(tiny()).state_dict())[:-2000], "cut short or damaged"),
    "tensors that are cut short": (tensors_file(a=torch.ones(9))[:-4], "cut short or damaged"),
    "a huge header": (header(2**62), "cut short or damaged"),
    "a header beyond the end": (header(10**6), "cut short or damaged"),
    "a header that is no JSON": (struct.pack("<Q", 8) + b"{{{{{{{{", "cut short or damaged"),
    "names of no layout": (tensors_file(a=torch.ones(9)), "no layout that is known"),
    "no tensors": (torch_file({}), "no tensors"),
    "a list": (torch_file([1, 2]), "holds a list"),
    "one zero byte": (b"\0", "no checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_gets_a_sentence_with_its_name(folder, case):
    data, words = WRONG[case]
    with pytest.raises(UserError, match=words) as caught:
        opened(folder, data, "mine.pth")
    assert str(caught.value).startswith(("mine.pth", "the archive"))
    assert str(folder) not in str(caught.value)
    assert not Path("/tmp/minigpt-was-run").exists()


def test_weights_that_are_not_finite_are_refused(folder, trained):
    model, _ = load_both(trained)
    model.state_dict()["blocks.0.mlp.up.weight"][0, 0] = float("nan")
    write_pth(folder / "weights", model.config, model.state_dict())
    shutil.copy(trained / "tokenizer.json", folder)
    with pytest.raises(UserError, match=r"^mine\.pth cannot be loaded.*not finite"):
        opened(folder)


def test_weights_without_a_tokenizer_are_refused_with_what_to_do(folder):
    model = GPT(tiny())
    write_pth(folder / "weights", model.config, model.state_dict())
    with pytest.raises(UserError, match=r"29 ids are not GPT-2's; choose its tokenizer\.json"):
        opened(folder)


def run_with(trained: Path, tmp_path: Path, **settings) -> bytes:
    run = tmp_path / "changed"
    shutil.copytree(trained, run)
    content = json.loads((run / "config.json").read_text()) | settings
    (run / "config.json").write_text(json.dumps(content))
    return zipped(run)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "mixtral"}, "wanted one of"),
        ({"hidden_size": 2**19}, "wanted"),
        ({"num_hidden_layers": 9_999}, "is missing"),
        ({"hidden_act": "__import__('os')"}, "this model has only"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_memory_is_taken(
    folder, trained, tmp_path, settings, words
):
    data = run_with(trained, tmp_path, **settings)
    with pytest.raises(UserError, match=words) as caught:
        opened(folder, data, "run.zip")
    assert str(tmp_path) not in str(caught.value)


def test_an_index_that_names_a_file_elsewhere_is_refused(folder, trained, tmp_path):
    run = tmp_path / "sharded"
    shutil.copytree(trained, run)
    (run / "model.safetensors").unlink()
    index = {"weight_map": {"model.embed_tokens.weight": "../../secret.safetensors"}}
    (run / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="wanted one in the same folder"):
        opened(folder, zipped(run), "run.zip")
