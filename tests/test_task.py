import dataclasses

import pytest
import torch

from minigpt.config import DataConfig, ModelConfig, RunConfig, SampleConfig
from minigpt.data.prepare import prepare
from minigpt.errors import UserError
from minigpt.evaluate.likelihood import evaluate
from minigpt.loss import TrainStep
from minigpt.model.transformer import GPT
from minigpt.ranks import ALONE
from minigpt.task import NextToken, open_text
from minigpt.whole import Sketch

SHAPE = ModelConfig(block_size=16, n_layer=1, n_head=2, n_embd=16)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A text without line ends, by characters."""
    path = tmp_path_factory.mktemp("task") / "letters.txt"
    path.write_text("abcd " * 200)
    return RunConfig(model=SHAPE, data=DataConfig(source=str(path), tokenizer="char"))


def test_the_shape_and_the_prompt_follow_from_the_text(letters):
    task = open_text(letters, lambda line: None)
    settled = task.settle(letters)
    assert settled.model.vocab_size == 6
    assert settled.sample.prompt == ""  # there is no line end to go on from
    assert task.settle(settled) == settled
    asked = dataclasses.replace(letters, sample=SampleConfig(prompt="x"))
    with pytest.raises(UserError, match=r"sample\.prompt cannot be used"):
        task.settle(asked)


def test_it_is_measured_by_the_held_out_part(letters):
    task = open_text(letters, lambda line: None)
    torch.manual_seed(0)
    step = TrainStep(task.model(task.settle(letters), sharded=False)).eval()
    found = task.likelihood(step, 4, None, ALONE)
    wanted = evaluate(step, task.tokens.val, task.tokenizer, batch_size=4)
    assert (found.loss, found.tokens) == (wanted.loss, wanted.tokens)
    assert found.tokens == task.held_out - 1


def test_a_model_that_is_to_be_in_shards_is_sketched(letters):
    task = open_text(letters, lambda line: None)
    config = task.settle(letters)
    assert type(task.model(config, sharded=False)) is GPT
    assert type(task.model(config, sharded=True)) is Sketch


def test_an_epoch_has_as_many_sequences_as_its_order(letters):
    task = open_text(letters, lambda line: None)
    assert task.sequences(letters) == task.order(letters, ALONE).windows_per_epoch > 10


def test_documents_apart_need_a_token_between_them(letters, monkeypatch):
    data = dataclasses.replace(letters.data, documents="separate")
    task = NextToken(prepare(letters.data), data)
    assert task.order(letters, ALONE).separator == task.tokenizer.eos_id
    monkeypatch.setattr(task.tokenizer, "eos_id", None)
    with pytest.raises(UserError, match="no end-of-text token to tell documents by"):
        task.settle(dataclasses.replace(letters, data=data))


def test_of_a_stream_nothing_is_counted(letters):
    tokens = prepare(letters.data)
    assert NextToken(tokens, letters.data).baselines().keys() >= {"bigram", "trigram"}
    assert NextToken(tokens, dataclasses.replace(letters.data, stream=True)).baselines() == {}
