import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

from minigpt.config import DataConfig, ModelConfig
from minigpt.errors import UserError
from minigpt.finetune.chatml import CHATML
from minigpt.finetune.replies import open_replies
from minigpt.inference.template import Template
from minigpt.interop.export import write_chat_template
from minigpt.loss import TrainStep
from minigpt.ranks import ALONE

from .talking import ANSWERS, tuning, write_base, write_chats


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replies")
    write_base(folder / "base")
    write_base(folder / "gpt2", position="learned", norm="layernorm", mlp="gelu", bias=True)
    write_chats(folder / "chats.jsonl")
    return folder


def opened(folder, base="base", **changes):
    said = []
    config = tuning(folder / base, folder / "chats.jsonl")
    config = dataclasses.replace(config, **changes)
    return open_replies(config, said.append), config, said


def test_a_tenth_is_held_out_evenly_spread_and_nothing_twice(folder):
    task, _, said = opened(folder)
    assert [example.number for example in task.val] == [5, 15, 25, 35]
    numbers = sorted(example.number for example in task.trained + task.val)
    assert numbers == list(range(1, 41))
    assert said[0] == f"{folder / 'chats.jsonl'}: 40 conversations (instruction records)"
    assert task.facts["train"]["conversations"] == 36
    assert task.held_out == task.facts["val"]["targets"]


def test_the_first_are_held_out_where_that_is_asked_for(folder):
    source = str(folder / "chats.jsonl")
    task, _, _ = opened(folder, data=DataConfig(source=source, val_documents=3))
    assert [example.number for example in task.val] == [1, 2, 3]
    with pytest.raises(UserError, match="would hold out all of the 40 conversations"):
        opened(folder, data=DataConfig(source=source, val_documents=40))


@pytest.mark.parametrize("count", [2, 4])
def test_of_a_few_one_is_held_out(count, folder, tmp_path):
    chats = write_chats(tmp_path / "few.jsonl", count)
    task = open_replies(tuning(folder / "base", chats), lambda line: None)
    assert (len(task.trained), len(task.val)) == (count - 1, 1)


def test_a_single_one_is_refused(folder, tmp_path):
    chats = write_chats(tmp_path / "one.jsonl", 1)
    with pytest.raises(UserError, match="has 1 conversation that can be learnt from"):
        open_replies(tuning(folder / "base", chats), lambda line: None)


@pytest.mark.parametrize("base", ["base", "gpt2"])
def test_the_held_out_loss_is_that_of_the_assistants_tokens_one_by_one(base, folder):
    task, config, _ = opened(folder, base)
    model = task.model(task.settle(config), sharded=False).eval()
    found = task.likelihood(TrainStep(model).eval(), 2, None, ALONE)
    template, nats, count, size = task.base.template, 0.0, 0, 0
    for number in (5, 15, 25, 35):
        name, answer = list(ANSWERS.items())[(number - 1) % 4]
        asked = [{"role": "user", "content": name}]
        prompt = template.ids(asked)
        ids = prompt + task.tokenizer.encode(answer) + [task.tokenizer.specials["<|im_end|>"]]
        losses = F.cross_entropy(
            model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]), reduction="none"
        )
        nats += losses[len(prompt) - 1 :].sum().item()
        count += len(ids) - len(prompt)
        size += len(answer.encode())
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found.loss_stderr > 0
    part = task.likelihood(TrainStep(model).eval(), 2, 1, ALONE)
    assert part.tokens < count or len(task._held.rows) == 1


def test_an_adapter_begins_as_its_base_and_trains_the_chat_tokens_too(folder):
    task, config, _ = opened(folder)
    model = task.model(task.settle(config), sharded=False).eval()
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids), task.base.model().eval()(ids))
    assert model.embedding.rows.tolist() == task.base.new
    assert all(
        ".lora_" in n or "delta" in n for n, p in model.named_parameters() if p.requires_grad
    )


def test_without_an_adapter_all_weights_are_trained(folder):
    config = tuning(folder / "base", folder / "chats.jsonl", rank=0)
    task = open_replies(config, lambda line: None)
    model = task.model(task.settle(config), sharded=False)
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    assert model.blocks[0].dropout.p == 0.1


def test_another_shape_than_that_of_the_base_is_refused(folder):
    task, config, _ = opened(folder)
    same = dataclasses.replace(task.base.shape, dropout=0.2)
    assert task.settle(dataclasses.replace(config, model=same)).model == same
    with pytest.raises(UserError, match="has its own shape"):
        task.settle(dataclasses.replace(config, model=ModelConfig(n_layer=7)))


def test_an_adapter_in_shards_is_refused(folder):
    task, config, _ = opened(folder)
    with pytest.raises(UserError, match="take ddp"):
        task.model(task.settle(config), sharded=True)


def test_answers_are_drawn_to_what_is_held_out_or_to_a_prompt(folder):
    task, config, _ = opened(folder)
    model = task.model(task.settle(config), sharded=False)
    texts = task.draw(model, config.sample, "\n")
    assert [text.partition("\n→ ")[0] for text in texts] == ["cat", "sat", "cat"]
    assert model.training
    settings = dataclasses.replace(config.sample, num_samples=2, temperature=1.0)
    first, second = task.draw(model, settings, "cat")
    assert first.startswith("cat\n→ ")
    assert first != second


def test_no_base_and_an_adapter_as_base_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"train\.base is empty"):
        open_replies(tuning("", folder / "chats.jsonl"), lambda line: None)
    task, config, _ = opened(folder)
    model = task.model(task.settle(config), sharded=False)
    task.form.write(tmp_path / "a", model, task.form.tensors(model), task.tokenizer, exact=False)
    with pytest.raises(UserError, match="is an adapter itself; merge it first"):
        open_replies(tuning(tmp_path / "a", folder / "chats.jsonl"), lambda line: None)
    whole = tuning(tmp_path / "a", folder / "chats.jsonl", rank=0)
    assert open_replies(whole, lambda line: None).base.is_adapter


def test_what_is_learnt_from_has_a_fingerprint(folder, tmp_path):
    first = opened(folder)[0].fingerprint
    assert opened(folder)[0].fingerprint == first
    assert opened(folder, "gpt2")[0].fingerprint != first
    lines = (folder / "chats.jsonl").read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join(lines[:-1]))
    other = tuning(folder / "base", tmp_path / "other.jsonl")
    assert open_replies(other, lambda line: None).fingerprint != first


def test_a_conversation_that_a_tokenizer_refuses_is_left_out_and_said(folder, tmp_path):
    record = {"messages": [{"role": "user", "content": "x"}]}
    text = (folder / "chats.jsonl").read_text() + "\n" + json.dumps(record) + "\nno json"
    (tmp_path / "some.jsonl").write_text(text)
    said = []
    task = open_replies(tuning(folder / "base", tmp_path / "some.jsonl"), said.append)
    assert len(task.trained) + len(task.val) == 40
    assert "2 broken records left out: no answer: 1; not JSON: 1" in said
    with pytest.raises(UserError, match="line 41"):
        open_replies(tuning(folder / "base", tmp_path / "some.jsonl"), said.append, strict=True)
    assert isinstance(task.base.template, Template)


def test_what_is_learnt_does_not_depend_on_the_day(folder, tmp_path):
    write_base(tmp_path / "base")
    dated = CHATML.replace("<|im_start|>' +", "<|im_start|>' + strftime_now('%d %b %Y') +")
    write_chat_template(tmp_path / "base", dated)
    task = open_replies(tuning(tmp_path / "base", folder / "chats.jsonl"), lambda line: None)
    assert "26 Jul 2024" in task.tokenizer.decode(task.trained[0].ids.tolist())


def test_several_processes_share_an_adapter_by_copies(folder):
    task, config, _ = opened(folder)
    assert task.settle(config).train.parallel == "ddp"
    whole = open_replies(tuning(folder / "base", folder / "chats.jsonl", rank=0), lambda line: None)
    assert whole.settle(config).train.parallel == "auto"


def test_a_share_that_holds_all_out_is_refused_by_its_name(folder, tmp_path):
    chats = write_chats(tmp_path / "two.jsonl", 2)
    config = tuning(folder / "base", chats)
    data = dataclasses.replace(config.data, val_fraction=0.9)
    with pytest.raises(UserError, match=r"data\.val_fraction = 0\.9 would hold out all of the 2"):
        open_replies(dataclasses.replace(config, data=data), lambda line: None)


def test_rows_of_one_conversation_are_not_called_packed(folder):
    task, config, _ = opened(folder, "gpt2")
    assert "each of them in one of 36 rows" in task.introduction(None, ALONE)[0]
    settled = task.settle(config)
    assert task.order(settled, ALONE).width < settled.model.block_size
