import dataclasses
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from minigpt.config import SampleConfig
from minigpt.serve.schema import ChatRequest, CompletionRequest, Sampling

TALK = [{"role": "user", "content": "a"}]


def chat(**fields) -> ChatRequest:
    return ChatRequest.model_validate({"messages": TALK} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"service_tier": "auto"},
        {"safety_identifier": "x"},
        {"prompt_cache_key": "x"},
        {"parallel_tool_calls": False},
        {"stream_options": {"include_obfuscation": False}},
    ],
    ids=str,
)
def test_what_changes_no_text_is_ignored(fields):
    assert chat(**fields).messages == chat().messages


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"audio": None},
        {"reasoning_effort": None},
    ],
    ids=str,
)
def test_what_asks_for_what_is_done_anyway_is_taken(fields):
    assert chat(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{"name": "f"}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}},
        {"prediction": {}},
        {"web_search_options": {}},
        {"reasoning_effort": "low"},
        {"max_token": 3},
        {"prompt": "a"},
    ],
    ids=str,
)
def test_what_cannot_be_done_and_what_nobody_knows_is_refused_by_its_name(fields):
    with pytest.raises(ValidationError) as caught:
        chat(**fields)
    assert caught.value.errors()[0]["loc"][0] == next(iter(fields))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "a"},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
        {"content": "a"},
    ],
    ids=str,
)  # fmt: skip
def test_a_message_that_is_no_text_is_refused(message):
    with pytest.raises(ValidationError):
        chat(messages=[message])


def test_a_field_that_is_null_is_one_that_is_not_there():
    fields = dict.fromkeys(CompletionRequest.model_fields)
    assert CompletionRequest.model_validate(fields) == CompletionRequest()


OTHERS = ("max_tokens", "seed", "stop", "on_full")
RANGES = {item.name: item for item in dataclasses.fields(SampleConfig)}
NUMBERS = [name for name in RANGES if name in Sampling.model_fields and name not in OTHERS]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_the_range_that_the_setting_of_sample_has(name):
    item = RANGES[name]
    assert Sampling.model_fields[name].description == item.metadata["doc"]
    low, high = item.metadata["minimum"], item.metadata["maximum"]
    beyond = [low - 1, *([] if high is None else [high + 1])]
    for value in (low, *([] if high is None else [high])):
        assert getattr(CompletionRequest.model_validate({name: value}), name) == value
    for value in beyond:
        with pytest.raises(ValidationError):
            CompletionRequest.model_validate({name: value})


def test_without_settings_a_text_is_drawn_as_at_openai():
    usual = CompletionRequest()
    assert (usual.temperature, usual.top_p, usual.top_k, usual.min_p) == (1.0, 1.0, 0, 0.0)
    assert (usual.n, usual.presence_penalty, usual.repetition_penalty) == (1, 0.0, 1.0)


def test_every_field_stands_in_the_docs():
    page = Path(__file__).parent.parent / "docs" / "serving.md"
    named = set(re.findall(r"`([a-z_]+)", page.read_text(encoding="utf-8")))
    for body in (CompletionRequest, ChatRequest):
        missing = set(body.model_fields) - named
        assert missing - {"model", "messages", "prompt"} == set()
