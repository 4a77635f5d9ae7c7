"""The fields of a request: OpenAI's names, and beside them ours as vLLM has them; ranges as `minigpt sample` has them.

What a field does to the text, it does; what cannot be done is refused by the name of the field:

| fields | what happens |
|---|---|
| of `Sampling`, `CompletionRequest`, `ChatRequest` down to "ignored" | done |
| user, store, metadata, service_tier … | ignored: they change no text at OpenAI either |
| tools, response_format, modalities, suffix, best_of … | refused, unless they ask for what is done anyway |
| any other | refused by name, as OpenAI does |
"""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from minigpt.config import SampleConfig

MOST_STOPS, LONGEST_STOP = 16, 1000  # strings; characters of each
MOST_BIASED = 1024  # tokens
LARGEST_BIAS = 100.0  # nats
MOST_TOP = 20  # alternatives to a token
MOST_PROMPTS, MOST_MESSAGES = 64, 1000
_RANGES = {item.name: item.metadata for item in dataclasses.fields(SampleConfig)}
_INT64 = 2**63


def _limited(name: str, default: Any) -> Any:
    """Return a field with the range that the setting of this name has."""
    found = _RANGES[name]
    return Field(
        default, ge=found["minimum"], le=found["maximum"], description=found["doc"], strict=True
    )


Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Biased = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Nothing = Annotated[list[Any] | None, Field(None, max_length=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Take a field that is null for one that is not there."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class StreamOptions(_Body):
    """What a stream holds beside its text."""

    include_usage: bool = Field(False, description="a last chunk with the number of tokens")
    include_obfuscation: Any = None  # ignored


class Sampling(_Body):
    """What both kinds of request have in common."""

    model: str | None = Field(None, description="one of /v1/models; without, the first")
    max_tokens: int | None = Field(None, ge=1, le=10**9, description="new tokens at most")
    n: int = Field(1, ge=1, le=10**6, description="texts; from seed, seed + 1, …")
    seed: int | None = Field(
        None, ge=-_INT64, lt=_INT64, description="the same seed draws the same text"
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = Field(
        None, description="end before this text, or before any of these"
    )
    stream: bool = Field(False, description="send the text as it is made, as server-sent events")
    stream_options: StreamOptions | None = None
    temperature: float = _limited("temperature", 1.0)
    top_p: float = _limited("top_p", 1.0)
    presence_penalty: float = _limited("presence_penalty", 0.0)
    frequency_penalty: float = _limited("frequency_penalty", 0.0)
    logit_bias: dict[Biased, Annotated[float, Field(ge=-LARGEST_BIAS, le=LARGEST_BIAS)]] | None = (
        Field(
            None,
            max_length=MOST_BIASED,
            description="nats added to the logits of tokens, by their ids",
        )
    )
    # Ours, under the names of vLLM where it has them.
    top_k: int = _limited("top_k", 0)
    min_p: float = _limited("min_p", 0.0)
    repetition_penalty: float = _limited("repetition_penalty", 1.0)
    no_repeat_ngram: int = _limited("no_repeat_ngram", 0)
    ngram_penalty: float = _limited("ngram_penalty", 0.0)
    ignore_eos: bool = Field(False, description="never draw what ends a text")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MOST_BIASED)] | None = Field(
        None, description="end at any of these tokens"
    )
    on_full: Literal["stop", "slide"] = Field(
        "stop",
        description="slide: a prompt may be longer than the context and a text go on beyond it; the oldest gets out of "
        "sight, as in minigpt sample",
    )
    return_token_ids: bool = Field(
        False, description="give token_ids with the text, and prompt_token_ids before it"
    )
    user: Any = None  # ignored


class CompletionRequest(Sampling):
    """The body of `POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | list[TokenId]
        | Annotated[list[list[TokenId]], Field(min_length=1, max_length=MOST_PROMPTS)]
        | None
    ) = Field(
        None, description="a text to go on from, several, or their ids; without, a text begins"
    )
    logprobs: int | None = Field(
        None, ge=0, le=MOST_TOP, description="log-probabilities, and so many alternatives"
    )
    echo: bool = Field(False, description="give the prompt back before the text")
    # Refused, unless they ask for what is done anyway.
    best_of: int | None = None
    suffix: None = None


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message. What an answer brought beside its text may come back with it, and is ignored."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=MOST_MESSAGES)] | None = None
    tool_calls: Nothing = None

    def text(self) -> str:
        """Return what is said."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class TextFormat(_Body):
    """The only format that an answer has."""

    type: Literal["text"]


class ChatRequest(Sampling):
    """The body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=10**9, description="the newer name of max_tokens"
    )
    logprobs: bool | None = Field(None, description="log-probabilities of the tokens")
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_TOP, description="so many alternatives to each; with logprobs"
    )
    # Ignored.
    store: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    parallel_tool_calls: Any = None
    # Refused, unless they ask for what is done anyway.
    tools: Nothing = None
    functions: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: None = None
    verbosity: None = None


FIELDS = frozenset(
    name
    for body in (CompletionRequest, ChatRequest, ChatMessage, TextPart, StreamOptions, TextFormat)
    for name in body.model_fields
)
