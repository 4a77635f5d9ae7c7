"""The paths of OpenAI, by its own client, against a real socket."""

import asyncio
import importlib
import re
import time

import openai
import pytest
import torch

from minigpt import cli
from minigpt.config import SampleConfig
from minigpt.inference.engine import Engine
from minigpt.inference.plain import Plain
from minigpt.inference.template import Template

from .serving import BYTES, LETTERS
from .test_conversation import CHATML

TALK = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Say."}]
NEVER_ENDS = {LETTERS.eos_id: -100}
USUAL = {"model": "letters", "prompt": "abc", "max_tokens": 20, "seed": 3, "logit_bias": NEVER_ENDS}


@pytest.fixture(scope="module")
def client(world):
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def usual(client):
    return client.completions.create(**USUAL).choices[0].text


def own(world, name: str, prompt, ends=(), bias=None, **settings):
    """Return the text that the slow clear engine writes."""
    served = world.models.get(name)
    engine = Engine(Plain(served.model), served.tokenizer)
    chosen = SampleConfig(**({"temperature": 1.0, "top_k": 0} | settings))
    return "".join(engine.run(engine.submit(prompt, chosen, ends=ends, bias=bias)))


def streamed(stream) -> tuple[str, list]:
    chunks = list(stream)
    return "".join(c.choices[0].text for c in chunks if c.choices), chunks


def test_models_are_listed_and_shown_by_name(client):
    assert [one.id for one in client.models.list()] == ["plain", "chat", "letters"]
    assert client.models.retrieve("letters").max_model_len == 32
    with pytest.raises(openai.NotFoundError, match="there is no model other; there are plain"):
        client.models.retrieve("other")


def test_a_completion_is_the_text_of_the_engine(world, client, usual):
    assert usual == own(world, "letters", "abc", bias=NEVER_ENDS, max_tokens=20, seed=3)


def test_a_completion_is_the_text_of_minigpt_sample(client, world, tmp_path, capsys):
    served = world.models.get("letters")
    served.model.save_pretrained(tmp_path / "run", served.tokenizer)
    options = "--prompt abc --max-tokens 40 --seed 4 --dtype fp32 --temperature 0.7 --top-k 9 --top-p 0.8 --min-p 0.01"
    assert cli.run(time.monotonic(), ["sample", str(tmp_path / "run"), *options.split()]) == 0
    mine = {"top_k": 9, "min_p": 0.01, "on_full": "slide"}
    made = client.completions.create(
        model="letters", prompt="abc", max_tokens=40, seed=4, temperature=0.7, top_p=0.8, echo=True,
        extra_body=mine,
    )  # fmt: skip
    assert made.choices[0].text + "\n" == capsys.readouterr().out
    assert len(made.choices[0].text) > 32  # more than the context


def test_an_answer_is_the_text_of_the_engine(world, client):
    made = client.chat.completions.create(
        model="chat", messages=TALK, max_completion_tokens=30, seed=1
    )
    template = Template(CHATML, BYTES)
    text = own(world, "chat", template.ids(TALK), template.ends(), max_tokens=30, seed=1)
    assert made.choices[0].message.content == text
    assert made.choices[0].message.role == "assistant"
    assert made.usage.prompt_tokens == len(template.ids(TALK))


def test_a_stream_is_the_same_text_in_pieces(client, usual):
    text, chunks = streamed(client.completions.create(**USUAL, stream=True))
    assert text == usual
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    asked = {"model": "chat", "messages": TALK, "max_tokens": 30, "seed": 1}
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_a_stream_ends_with_the_usage_where_that_is_wanted(client):
    whole = client.completions.create(**USUAL)
    _, chunks = streamed(
        client.completions.create(**USUAL, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].usage == whole.usage
    assert not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert whole.usage.prompt_tokens == 3
    assert whole.usage.completion_tokens == 20
    assert whole.usage.total_tokens == 23


def test_the_asynchronous_client_gets_the_same(world, usual):
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none") as client:
            whole, stream = await asyncio.gather(
                client.completions.create(**USUAL), client.completions.create(**USUAL, stream=True)
            )
            pieces = [chunk.choices[0].text async for chunk in stream]
            return whole.choices[0].text, "".join(pieces)

    assert asyncio.run(ask()) == (usual, usual)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "abd"},
        {"model": "plain"},
        {"max_tokens": 5},
        {"seed": 4},
        {"temperature": 0.1},
        {"temperature": 0},
        {"top_p": 0.1},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"logit_bias": {"0": 100}},
        {"echo": True},
        {"extra_body": {"top_k": 1}},
        {"extra_body": {"min_p": 0.9}},
        {"extra_body": {"repetition_penalty": 3.0}},
        {"extra_body": {"no_repeat_ngram": 1}},
        {"extra_body": {"ngram_penalty": 9.0}},
        {"extra_body": {"stop_token_ids": list(range(13))}},
    ],
    ids=str,
)
def test_each_setting_changes_the_text(client, usual, change):
    assert client.completions.create(**(USUAL | change)).choices[0].text != usual


def test_settings_of_a_chat_change_its_answer(client):
    asked = {"model": "chat", "messages": TALK, "max_tokens": 30, "seed": 1}
    usual = client.chat.completions.create(**asked).choices[0].message.content
    for change in (
        {"temperature": 0}, {"top_p": 0.2}, {"seed": 2}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0},
        {"logit_bias": {"65": 100}}, {"messages": [{"role": "user", "content": "Other?"}]}, {"stop": [usual[3]]},
        {"max_tokens": 4}, {"extra_body": {"top_k": 1}},
    ):  # fmt: skip
        found = client.chat.completions.create(**(asked | change)).choices[0].message.content
        assert found != usual, change


def test_texts_of_one_request_are_those_of_the_seeds_that_follow(client):
    three = client.completions.create(**USUAL, n=3)
    for index, choice in enumerate(three.choices):
        alone = client.completions.create(**(USUAL | {"seed": 3 + index}))
        assert (choice.index, choice.text) == (index, alone.choices[0].text)
    assert three.usage.completion_tokens == 60
    assert three.usage.prompt_tokens == 3


def test_several_prompts_are_answered_in_their_order_as_texts_or_as_ids(client):
    prompts = ["abc", "b", ""]
    alone = [
        client.completions.create(**(USUAL | {"prompt": one, "seed": 3 + i})).choices[0].text
        for one in prompts
        for i in range(2)
    ]
    texts = client.completions.create(**(USUAL | {"prompt": prompts}), n=2)
    assert [choice.text for choice in texts.choices] == alone
    ids = [LETTERS.encode(one) or [LETTERS.eos_id] for one in prompts]
    assert [
        choice.text
        for choice in client.completions.create(**(USUAL | {"prompt": ids}), n=2).choices
    ] == alone
    one = client.completions.create(**(USUAL | {"prompt": ids[0]}))
    assert one.choices[0].text == alone[0]


def test_without_a_seed_texts_differ(client):
    asked = USUAL | {"seed": None}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(5)}) > 1


def test_a_text_ends_before_a_stop_string(client, usual):
    for stop in (usual[4:7], [usual[4:7], "0"]):
        made = client.completions.create(**USUAL, stop=stop).choices[0]
        assert made.text == usual[: usual.index(usual[4:7])]
        assert made.finish_reason == "stop"
        text, _ = streamed(client.completions.create(**USUAL, stop=stop, stream=True))
        assert text == made.text


def test_a_text_ends_with_the_end_of_text_unless_it_is_never_drawn(client):
    asked = USUAL | {"logit_bias": {LETTERS.eos_id: 100}}
    made = client.completions.create(**asked)
    assert (made.choices[0].text, made.choices[0].finish_reason) == ("", "stop")
    assert made.usage.completion_tokens == 1
    made = client.completions.create(**asked, extra_body={"ignore_eos": True})
    assert len(made.choices[0].text) == 20
    assert made.choices[0].finish_reason == "length"


def test_a_chat_uses_the_rest_of_the_context_and_a_completion_sixteen_tokens(client, world):
    made = client.chat.completions.create(
        model="chat",
        messages=TALK,
        seed=0,
        extra_body={"ignore_eos": True},
        logit_bias={"258": -100},
    )
    assert made.usage.total_tokens == 256
    assert made.choices[0].finish_reason == "length"
    made = client.completions.create(model="letters", prompt="ab", extra_body={"ignore_eos": True})
    assert made.usage.completion_tokens == 16


def test_log_probabilities_of_a_completion_are_those_of_the_model(client, world):
    made = client.completions.create(**USUAL, logprobs=3, echo=False).choices[0]
    engine = Engine(Plain(world.models.get("letters").model), LETTERS)
    settings = SampleConfig(temperature=1.0, top_k=0, max_tokens=20, seed=3)
    completion = engine.submit("abc", settings, top=3, bias=NEVER_ENDS)
    list(engine.run(completion))
    found = made.logprobs
    assert "".join(found.tokens) == made.text
    assert found.token_logprobs == pytest.approx(
        [one.log_probability for one in completion.picked], abs=1e-4
    )
    assert found.text_offset == list(range(20))
    for best, picked in zip(found.top_logprobs, completion.picked, strict=True):
        letters = {LETTERS.pieces[token].decode() for token, _ in picked.top}
        assert letters <= best.keys()
        assert LETTERS.pieces[picked.token].decode() in best


def test_an_echo_with_log_probabilities_has_those_of_the_prompt(client, world):
    prompts = [LETTERS.encode("abcab"), LETTERS.encode("bc")]
    asked = {"logprobs": 2, "echo": True, "n": 2, "max_tokens": 3, "prompt": prompts}
    made = client.completions.create(**(USUAL | asked), extra_body={"return_token_ids": True})
    model = world.models.get("letters").model
    for number, choice in enumerate(made.choices):
        ids = LETTERS.encode(("abcab", "bc")[number // 2])
        with torch.no_grad():
            nats = model(torch.tensor([ids]))[0, :, : LETTERS.vocab_size].log_softmax(dim=-1)
        found, length = choice.logprobs, len(ids)
        assert "".join(found.tokens) == choice.text
        assert found.text_offset == list(range(length + 3))
        assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
        wanted = [nats[i, token].item() for i, token in enumerate(ids[1:])]
        assert found.token_logprobs[1:length] == pytest.approx(wanted, abs=1e-4)
        for i, best in enumerate(found.top_logprobs[1:length]):
            assert max(best.values()) == pytest.approx(nats[i].max().item(), abs=1e-4)
        assert len(choice.token_ids) == 3
        drawn = client.completions.create(**(USUAL | asked | {"echo": False}))
        assert found.token_logprobs[length:] == pytest.approx(
            drawn.choices[number].logprobs.token_logprobs, abs=1e-4
        )


def test_log_probabilities_come_with_each_piece_of_a_chat(client):
    asked = {"model": "chat", "messages": TALK, "max_tokens": 30, "seed": 1}
    plain = client.chat.completions.create(**asked)
    assert plain.choices[0].logprobs is None
    asked |= {"logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    content = whole.logprobs.content
    assert (
        bytes(b for one in content for b in one.bytes).decode(errors="replace")
        == whole.message.content
    )
    assert all(len(one.top_logprobs) == 2 for one in content)
    assert all(one.top_logprobs[0].logprob >= one.logprob - 1e-6 for one in content)
    pieces = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        found = chunk.choices[0].logprobs
        pieces += found.content if found else []
    assert [one.token for one in pieces] == [one.token for one in content]
    assert [one.logprob for one in pieces] == pytest.approx(
        [one.logprob for one in content], abs=1e-4
    )
    alone = client.chat.completions.create(**(asked | {"top_logprobs": None}))
    assert alone.choices[0].logprobs.content[0].top_logprobs == []


def test_the_newer_name_of_max_tokens_wins(client):
    made = client.chat.completions.create(
        model="chat", messages=TALK, max_tokens=9, max_completion_tokens=4, logit_bias={"258": -100},
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert made.usage.completion_tokens == 4


def test_what_is_said_may_come_in_parts_and_from_a_developer(client):
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "B"}, {"type": "text", "text": "e."}]},
        {"role": "user", "content": "Say."},
    ]  # fmt: skip
    asked = {"model": "chat", "max_tokens": 20, "seed": 0}
    one, other = (
        client.chat.completions.create(**asked, messages=messages).choices[0].message.content
        for messages in (TALK, parts)
    )
    assert one == other


def test_an_answer_can_be_sent_back_as_it_came(client):
    made = client.chat.completions.create(model="chat", messages=TALK, max_tokens=8, seed=0)
    messages = [*TALK, made.choices[0].message.model_dump(), {"role": "user", "content": "More."}]
    assert client.chat.completions.create(model="chat", messages=messages, max_tokens=4).choices


def test_a_long_conversation_loses_its_oldest_turns_where_it_may(client):
    long = [TALK[0]]
    for number in range(30):
        long += [
            {"role": "user", "content": f"{number} is said"},
            {"role": "assistant", "content": "ok"},
        ]
    long.append(TALK[1])
    asked = {"model": "chat", "max_tokens": 10, "seed": 0}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked, messages=long)
    assert caught.value.code == "context_length_exceeded"
    slides = {"extra_body": {"on_full": "slide"}}
    made = client.chat.completions.create(**asked, messages=long, **slides)
    assert 200 < made.usage.prompt_tokens <= 246


def test_the_official_client_knows_what_went_wrong(client):
    with pytest.raises(openai.NotFoundError, match="there is no model gpt-9"):
        client.completions.create(**(USUAL | {"model": "gpt-9"}))
    with pytest.raises(openai.BadRequestError, match="letters has no chat template"):
        client.chat.completions.create(model="letters", messages=TALK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**USUAL, extra_body={"top_kk": 3})
    assert caught.value.param == "top_kk"
    assert "did you mean 'top_k'" in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="'B'"):
        client.completions.create(**(USUAL | {"prompt": "aBc"}))


def test_a_name_and_a_path_of_a_model_reach_no_file(world):
    for path in (
        "/v1/models/../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/models//etc/passwd",
    ):
        status, _, found = world.ask("GET", path)
        assert status == 404
        assert re.match("there is no", found["error"]["message"])


def test_the_module_is_not_taken_for_the_client():
    assert (
        importlib.import_module("openai").__file__
        != importlib.import_module("minigpt.serve.completions").__file__
    )
