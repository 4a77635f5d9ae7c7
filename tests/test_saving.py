import threading

import pytest
import torch

from minigpt.background import Background
from minigpt.config import OptimConfig
from minigpt.errors import UserError
from minigpt.model.families import read_model
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer, optimizer_tensors
from minigpt.ranks import ALONE
from minigpt.rundir import RunDir
from minigpt.saving import Saver, Snapshot
from minigpt.tokenizer import char_tokenizer

from .conftest import tiny

TOKENIZER = char_tokenizer([chr(97 + i) for i in range(26)])


def trained(seed=0):
    """Return a model that has been updated once, and its optimiser."""
    torch.manual_seed(seed)
    model = GPT(tiny())
    optimizer = make_optimizer(model, OptimConfig(lr=1e-2))
    model(torch.arange(8).view(1, 8)).sum().backward()
    optimizer.step()
    return model, optimizer


def saver_in(folder, model, optimizer, *, at_once=True):
    run = RunDir(folder)
    run.make()
    saver = Saver(run, model, optimizer, TOKENIZER, ALONE)
    assert saver._background.at_once  # alone on a CPU
    saver._background = Background(at_once=at_once)
    return saver


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_taken_up_is_what_was_saved(at_once, tmp_path):
    model, optimizer = trained()
    saver = saver_in(tmp_path / "run", model, optimizer, at_once=at_once)
    saver.checkpoint(3, {"step": 3}, keep=2)
    wanted = {k: v.clone() for k, v in model.state_dict().items()}
    remembered = {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()}
    # Training goes on at once; what is written is of before.
    with torch.no_grad():
        for tensor in (*model.parameters(), *optimizer_tensors(optimizer, model).values()):
            if at_once:
                break
            tensor.add_(1)
    saver.wait()
    checkpoint, skipped = saver.run.newest_whole()
    assert (checkpoint.state(), skipped) == ({"step": 3}, [])
    other, fresh = trained(seed=1)
    saver_in(tmp_path / "run", other, fresh).take(checkpoint)
    assert all(torch.equal(other.state_dict()[k], v) for k, v in wanted.items())
    taken = optimizer_tensors(fresh, other)
    assert taken.keys() == remembered.keys()
    assert all(torch.equal(taken[k], v) for k, v in remembered.items())


def test_what_is_published_while_training_goes_on_is_of_one_time(tmp_path, monkeypatch):
    model, optimizer = trained()
    saver = saver_in(tmp_path / "run", model, optimizer, at_once=False)
    going_on, write = threading.Event(), Snapshot.save_pretrained
    monkeypatch.setattr(
        Snapshot, "save_pretrained", lambda *arguments: (going_on.wait(10), write(*arguments))
    )
    wanted = model.head.weight.detach().clone()
    saver.publish()
    with torch.no_grad():
        model.head.weight.zero_()
    going_on.set()
    saver.wait()
    assert torch.equal(read_model(tmp_path / "run")[1]["head.weight"], wanted)


def test_what_cannot_be_written_is_raised_when_it_is_waited_for(tmp_path, monkeypatch):
    model, optimizer = trained()
    saver = saver_in(tmp_path / "run", model, optimizer, at_once=False)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDir, "publish_best", full)
    saver.publish()
    with pytest.raises(OSError, match="No space left"):
        saver.checkpoint(1, {}, keep=1)
    assert saver.run.newest_whole() == (None, [])
    saver.wait()  # said once


def test_weights_of_another_shape_are_refused_and_change_nothing(tmp_path):
    model, optimizer = trained()
    GPT(tiny(n_layer=3)).save_pretrained(tmp_path / "other", TOKENIZER)
    before = model.head.weight.clone()
    with pytest.raises(UserError, match=r"blocks\.2\..* is not part of the model"):
        saver_in(tmp_path / "run", model, optimizer).take_weights(tmp_path / "other")
    assert torch.equal(model.head.weight, before)


def test_best_weights_that_cannot_be_read_are_taken_from_their_checkpoint(tmp_path):
    model, optimizer = trained()
    saver = saver_in(tmp_path / "run", model, optimizer)
    saver.checkpoint(4, {}, keep=2)
    saver.publish()
    assert saver.mend_best(4) == ("", True)
    weights = tmp_path / "run" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    sentence, are_there = saver.mend_best(4)
    assert sentence.startswith("the best weights are taken from step-00000004: ")
    assert are_there
    assert weights.read_bytes() == whole
    weights.unlink()
    sentence, are_there = saver.mend_best(7)
    assert sentence.startswith("the best weights are lost")
    assert not are_there


def test_text_is_drawn_from_the_model_itself_where_it_is_whole(tmp_path):
    model, optimizer = trained()
    assert saver_in(tmp_path / "run", model, optimizer).drawing_model() is model
