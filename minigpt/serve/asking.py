"""A request in, the texts that it asks for out: ids, settings and seeds, as `Engine.submit` takes them.

What stands here is checked before anything is begun. Encoding a long prompt takes its time: this is for another thread
than that of the loop.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

from minigpt.config import SampleConfig
from minigpt.inference.conversation import Conversation
from minigpt.serve.errors import ApiError
from minigpt.serve.models import Served
from minigpt.serve.schema import ChatRequest, CompletionRequest, Sampling
from minigpt.serve.settings import ServeSettings
from minigpt.serve.worker import Ask

FEW_TOKENS = 16  # new ones where a completion does not say how many, as at OpenAI
_SHARED = [
    name for name in (item.name for item in dataclasses.fields(SampleConfig))
    if name in Sampling.model_fields and name not in ("max_tokens", "seed", "stop")
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """What one request asks of a model.

    Attributes:
        served: the model.
        asks: the texts: all of the first prompt, then all of the second …
        prompts: the text of each prompt, for an echo.
    """

    served: Served
    asks: list[Ask]
    prompts: list[str]

    @property
    def prompt_tokens(self) -> int:
        """How many ids there are in the prompts; each counts once, however many texts go on from it."""
        each = len(self.asks) // len(self.prompts)
        return sum(len(ask.ids) for ask in self.asks[::each])


def ask_completion(request: CompletionRequest, served: Served, settings: ServeSettings) -> Asked:
    """Return the texts of a completion.

    Raises:
        ApiError: more than the limits allow, or something that cannot be done.
        UserError: a character that the tokenizer does not know.
    """
    if request.best_of not in (None, request.n):
        raise _refused("best_of", f"is {request.best_of}; wanted n, {request.n}")
    scores_prompts = request.echo and request.logprobs is not None
    if scores_prompts and request.stream:
        raise _refused(
            "echo", "with logprobs comes whole; leave one of echo, logprobs and stream out"
        )
    whole = _prompts(request.prompt)
    _check_count(request.n * len(whole), settings)
    ids = [_ids(one, served) for one in whole]
    if scores_prompts and (longest := max(map(len, ids))) > served.context:
        raise _refused(
            "echo",
            f"with logprobs reads a prompt at once: {longest} tokens, where the context of {served.name} has "
            f"{served.context}; take a shorter one",
        )
    texts = [_text(one, served) if request.echo else "" for one in whole]
    top = request.logprobs
    asks = [
        ask
        for one in ids
        for ask in _asks(
            request, served, settings, one, request.max_tokens, FEW_TOKENS,
            probabilities=top is not None, top=top or 0,
        )
    ]  # fmt: skip
    return Asked(served, asks, texts)


def ask_chat(request: ChatRequest, served: Served, settings: ServeSettings) -> Asked:
    """Return the answers that a conversation asks for.

    Raises:
        ApiError: more than the limits allow, something that cannot be done, or a model that does not chat.
        UserError: a conversation that the template refuses, or a character that the tokenizer does not know.
    """
    if served.template is None:
        raise ApiError(
            400, f"{served.name} has no chat template, so that it goes on from a text but answers none; use "
            "/v1/completions, or a tuned model", param="model", code="no_chat_template",
        )  # fmt: skip
    if request.top_logprobs is not None and not request.logprobs:
        raise _refused("top_logprobs", "is given without logprobs; set logprobs to true")
    _check_count(request.n, settings)
    wanted = request.max_completion_tokens or request.max_tokens
    roles = {"developer": "system"}
    messages = [
        {"role": roles.get(message.role, message.role), "content": message.text()}
        for message in request.messages
    ]
    if request.on_full == "slide" and any(message["role"] == "user" for message in messages):
        conversation = Conversation(served.tokenizer, served.template)
        conversation.messages += messages
        kept = min(wanted or served.context, served.context // 2)
        ids = conversation.prompt_ids(served.context - kept).ids
    else:
        ids = served.template.ids(messages)
    asks = _asks(
        request, served, settings, ids, wanted, max(FEW_TOKENS, served.context - len(ids)),
        probabilities=bool(request.logprobs), top=request.top_logprobs or 0, ends=served.ends,
    )  # fmt: skip
    return Asked(served, asks, [""])


def _asks(
    request: Sampling, served: Served, settings: ServeSettings, ids: Sequence[int],
    wanted: int | None, usual: int, *, probabilities: bool, top: int, ends: frozenset[int] = frozenset(),
) -> list[Ask]:  # fmt: skip
    """Return the texts that go on from one prompt."""
    tokenizer, seed = served.tokenizer, request.seed
    bias = {int(token): nats for token, nats in (request.logit_bias or {}).items()}
    if unknown := [token for token in bias if token >= tokenizer.vocab_size]:
        raise _refused(
            "logit_bias",
            f"names the token {unknown[0]}; {served.name} has 0 to {tokenizer.vocab_size - 1}",
        )
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    drawn = SampleConfig(
        **{name: getattr(request, name) for name in _SHARED},
        max_tokens=_new_tokens(request, served, settings, len(ids), wanted, usual),
        stop=stops,
    )
    first = secrets.randbelow(2**31) if seed is None else seed
    eos = tokenizer.eos_id
    banned = [eos] if request.ignore_eos and eos is not None else []
    return [
        Ask(
            ids=ids, settings=drawn, seed=first + number, bias=bias,
            banned=banned,
            ends=ends.union(request.stop_token_ids or ()), probabilities=probabilities, top=top,
        )
        for number in range(request.n)
    ]  # fmt: skip


def _new_tokens(
    request: Sampling, served: Served, settings: ServeSettings, length: int, wanted: int | None, usual: int
) -> int:  # fmt: skip
    """Return how many tokens a text may get; refuse what does not fit into the context, unless it may slide."""
    if request.on_full == "slide":
        room, what = settings.most_tokens, f"this server draws at most {settings.most_tokens}"
    else:
        room, what = served.context - length, f"the context of {served.name} has {served.context}"
    if room < (wanted or 1):
        raise ApiError(
            400, f"the prompt has {length} tokens and {wanted or 1} more are asked for, but {what}; take fewer"
            + ("" if request.on_full == "slide" else ', or "on_full": "slide" to have the oldest go out of sight'),
            param="max_tokens" if length < served.context else "prompt", code="context_length_exceeded",
        )  # fmt: skip
    return wanted or min(usual, room)


def _ids(prompt: str | list[int], served: Served) -> list[int]:
    """Return the ids of a prompt with what the tokenizer puts before a text; what is given as ids stays as it is."""
    tokenizer = served.tokenizer
    if isinstance(prompt, str):
        ids = [*tokenizer.prefix, *tokenizer.encode(prompt)]
    else:
        ids = list(prompt)
        if unknown := [token for token in ids if token >= tokenizer.vocab_size]:
            raise _refused(
                "prompt",
                f"has the token {unknown[0]}; {served.name} has 0 to {tokenizer.vocab_size - 1}",
            )
    return ids or [tokenizer.eos_id or 0]


def _prompts(prompt: Any) -> list[str | list[int]]:
    """Return a list of prompts, whichever of the four forms they come in."""
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    return [prompt] if not prompt or isinstance(prompt[0], int) else prompt


def _text(prompt: str | list[int], served: Served) -> str:
    return prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)


def _check_count(texts: int, settings: ServeSettings) -> None:
    most = min(settings.most_choices, settings.slots + settings.queue)
    if texts > most:
        raise _refused(
            "n", f"asks for {texts} texts in all; this server writes {most} for a request"
        )


def _refused(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param} {why}", param=param)
