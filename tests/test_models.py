import contextlib

import pytest
import torch

from minigpt.config import LoraConfig
from minigpt.errors import UserError
from minigpt.finetune.lora import swap_in
from minigpt.finetune.peft_format import write_adapter
from minigpt.inference.opening import Decoding
from minigpt.serve.errors import ApiError
from minigpt.serve.models import Models
from minigpt.serve.settings import ServeSettings

from .serving import BYTES, drawn
from .test_conversation import CHATML
from .test_peft_format import shaken


@pytest.fixture
def models():
    with contextlib.closing(Models(ServeSettings(), Decoding(device="cpu", dtype="fp32"))) as made:
        yield made


def test_a_directory_and_an_adapter_of_it_are_served_by_their_names(models, tmp_path):
    model = drawn()
    model.save_pretrained(tmp_path / "base", BYTES)
    (tmp_path / "base" / "chat_template.jinja").write_text(CHATML)
    write_adapter(
        tmp_path / "adapter", shaken(swap_in(model, LoraConfig(rank=2)), 0), str(tmp_path / "base")
    )
    base, adapter = models.load(str(tmp_path / "base")), models.load(f"{tmp_path}/adapter/")
    assert [one.name for one in models] == ["base", "adapter"]
    assert adapter.path == tmp_path / "adapter"
    assert all(one.template is not None for one in models)
    ids = torch.tensor([BYTES.encode("the")])
    assert not torch.allclose(base.model(ids), adapter.model(ids))


def test_a_name_is_given_once(models):
    models.add("m", drawn(), BYTES)
    with pytest.raises(UserError, match="two models are called m; name one of them: OTHER=m"):
        models.add("m", drawn(), BYTES)


def test_they_come_and_go_while_the_server_runs(world):
    before = [one["id"] for one in world.ask("GET", "/v1/models")[2]["data"]]
    world.models.add("guest", drawn(9), BYTES)
    assert world.complete("a", model="guest", max_tokens=1)[0] == 200
    world.models.remove("guest")
    status, _, body = world.complete("a", model="guest", max_tokens=1)
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert [one["id"] for one in world.ask("GET", "/v1/models")[2]["data"]] == before


def test_what_is_not_there_is_said_with_what_is(models):
    with pytest.raises(ApiError, match="there is no model x; there are none"):
        models.get("x")
    models.add("m", drawn(), BYTES)
    with pytest.raises(ApiError, match="there is no model x; there are m"):
        models.get("x")
    assert models.get(None).name == "m"


def test_a_model_that_cannot_be_loaded_leaves_nothing(models, tmp_path):
    with pytest.raises(UserError, match="there is no model at"):
        models.load(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="the chat template is no Jinja"):
        models.add("m", drawn(), BYTES, template="{% if")
    assert not list(models)
