import pytest

from .serving import BYTES, LETTERS


def refused(answer) -> tuple[str, str]:
    """Return field and message of a request that is refused."""
    status, _, body = answer
    assert status == 400, body
    return body["error"]["param"], body["error"]["message"]


def test_prompt_and_new_tokens_have_to_fit_into_the_context(world):
    asked = {"model": "letters", "prompt": "a" * 30}
    assert world.complete(**asked, max_tokens=2)[0] == 200
    param, message = refused(world.complete(**asked, max_tokens=3))
    assert param == "max_tokens"
    assert (
        "the prompt has 30 tokens and 3 more are asked for, but the context of letters has 32"
        in message
    )
    _, _, body = world.complete(**asked, logit_bias={LETTERS.eos_id: -100})
    assert body["usage"]["completion_tokens"] == 2  # as many as there is room for


@pytest.mark.parametrize("prompt", ["a" * 32, [0] * 40])
def test_a_prompt_that_fills_the_context_is_refused_unless_it_may_slide(world, prompt):
    param, message = refused(world.complete(prompt, model="letters"))
    assert param == "prompt"
    assert 'or "on_full": "slide"' in message
    status, _, body = world.complete(prompt, model="letters", on_full="slide", max_tokens=40)
    assert status == 200
    assert body["usage"]["prompt_tokens"] == len(prompt)


def test_a_text_that_slides_has_a_limit_too(world):
    most = world.models.settings.most_tokens
    param, message = refused(world.complete("a", max_tokens=most + 1, on_full="slide"))
    assert f"this server draws at most {most}" in message
    assert param == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 65}, "n"),
        ({"n": 33, "prompt": ["a", "b"]}, "n"),
        ({"n": 0}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ({"echo": True, "logprobs": 1, "on_full": "slide", "prompt": "a" * 2000}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"logit_bias": {"259": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"prompt": [259]}, "prompt"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": "1"}, "temperature"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=str,
)
def test_what_is_out_of_its_range_is_refused_by_its_name(world, fields, param):
    found, message = refused(world.complete(**({"prompt": "a"} | fields)))
    assert found == param
    assert param in message


def test_numbers_that_are_none_are_refused(world):
    for value in (b"NaN", b"Infinity", b"1e999", b"-Infinity"):
        body = b'{"prompt": "a", "temperature": %s}' % value
        assert refused(world.ask("POST", "/v1/completions", body))[0] == "temperature"


def test_best_of_may_say_what_is_done_anyway(world):
    assert world.complete("a", n=2, best_of=2, max_tokens=1)[0] == 200


def test_the_first_model_answers_where_none_is_named(world):
    assert world.complete("a", max_tokens=1)[2]["model"] == "plain"
    assert world.complete("a", max_tokens=1, model=None)[2]["model"] == "plain"


def test_a_text_may_begin_with_nothing(world):
    for body in ({}, {"prompt": ""}, {"prompt": []}, {"prompt": None}):
        status, _, found = world.ask("POST", "/v1/completions", body | {"max_tokens": 1})
        assert status == 200
        assert found["usage"]["prompt_tokens"] == 1


def test_a_negative_seed_is_one_as_well(world):
    texts = [world.complete("a", seed=-5)[2]["choices"][0]["text"] for _ in range(2)]
    assert texts[0] == texts[1]


def test_half_a_surrogate_pair_is_refused(world):
    for field in ("prompt", "model", "stop"):
        body = b'{"prompt": "a", "%s": "\\ud800"}' % field.encode()
        status, _, found = world.ask("POST", "/v1/completions", body)
        assert status in (400, 404), field
        assert found["error"]["message"]


def test_ids_are_echoed_as_the_text_that_they_are(world):
    ids = BYTES.encode("the")
    found = world.complete(ids, echo=True, max_tokens=1, seed=0)[2]["choices"][0]["text"]
    assert found.startswith("the")


def test_alternatives_need_log_probabilities(world):
    body = {"model": "chat", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}
    assert refused(world.ask("POST", "/v1/chat/completions", body))[0] == "top_logprobs"


def test_a_conversation_without_a_user_is_the_templates_to_judge(world):
    body = {"model": "chat", "messages": [{"role": "system", "content": "a"}], "max_tokens": 1}
    for on_full in ("stop", "slide"):
        assert world.ask("POST", "/v1/chat/completions", body | {"on_full": on_full})[0] == 200
