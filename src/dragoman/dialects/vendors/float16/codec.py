"""Decodes this dialect's requests."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
from starlette.datastructures import Headers

from dragoman.core.errors import (
    ModelNotFound,
)
from dragoman.core.limits import MAX_SEED, check_sampling
from dragoman.core.request import ChatPrompt, GenerationRequest, Prompt, SamplingParams, TextPrompt
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import (
    InvalidFields,
    InvalidValue,
    MissingField,
    Violation,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.parse import parse_messages, stop_strings
from dragoman.dialects.openai.response_builder import (
    OpenAIChatResponseBuilder,
    OpenAITextResponseBuilder,
    response_head,
)
from dragoman.dialects.openai.wire import ChatMessage
from dragoman.dialects.vendors.float16 import wire
from dragoman.dialects.vendors.float16.errors import ModelNotInDeployment

_SEED_NAMES = ("random_sed", "random_seed", "seed")
"""All spellings of the seed; the first that is present is used."""

DEFAULT_SEED = 2
"""Equal requests get equal answers unless a client sends its own seed."""

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion. Raises BadRequest or ModelNotFound."""
    deployment = _deployment(context)
    try:
        sent = decode_body(body, wire.ChatRequest)
    except InvalidFields as error:
        raise InvalidFields([_explain_split_message(violation) for violation in error.violations]) from None
    violations: list[Violation] = []
    messages = parse_messages(sent.messages, violations)
    _check_no_tools(sent.messages, violations)
    raise_violations(violations)
    requests = _requests(sent, deployment, [ChatPrompt(messages=messages)])
    head = response_head(context, "chatcmpl", sent.model, sent.stream_options)
    return DecodedRequest(
        requests=requests,
        stream=sent.stream,
        builder=OpenAIChatResponseBuilder(head),
        field_names={"prompt": "messages"},
    )


def decode_text(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a text completion of one or several prompts. Raises BadRequest or ModelNotFound."""
    deployment = _deployment(context)
    sent = decode_body(body, wire.TextRequest)
    texts = [sent.prompt] if isinstance(sent.prompt, str) else sent.prompt
    prompts: list[Prompt] = [TextPrompt(text) for text in texts]
    requests = _requests(sent, deployment, prompts)
    return DecodedRequest(
        requests=requests,
        stream=sent.stream,
        builder=OpenAITextResponseBuilder(response_head(context, "cmpl", sent.model, sent.stream_options)),
    )


def read_key(headers: Headers) -> str | None:
    """Return the key, with or without `Bearer`, from either spelling of the header."""
    value = (headers.get("authorization") or headers.get("autherization") or "").strip()
    scheme, _, key = value.partition(" ")
    return (key.strip() if scheme.lower() == "bearer" else value) or None


class _PathDeployment(NamedTuple):
    """The deployment in the path."""

    name: str
    models: tuple[str, ...] | None
    """Names of its model that the body may use; None for a restored request, which was checked before."""


def _deployment(context: DecodeContext) -> _PathDeployment:
    """Return the deployment in the path. Raises ModelNotFound."""
    name = context.arguments["deployment"]
    if context.find_model is None:
        return _PathDeployment(name, None)
    model = context.find_model(name)
    if model is None or model.id != name:
        raise ModelNotFound(name)
    return _PathDeployment(name, (model.id, *model.aliases))


def _requests(
    sent: wire.CompletionRequest, deployment: _PathDeployment, prompts: list[Prompt]
) -> list[GenerationRequest]:
    if deployment.models is not None and sent.model not in deployment.models:
        raise ModelNotInDeployment(sent.model, deployment.name)
    sampling = _sampling(sent)
    return [GenerationRequest(model=deployment.name, prompt=prompt, sampling=sampling) for prompt in prompts]


def _sampling(sent: wire.CompletionRequest) -> SamplingParams:
    params = SamplingParams(
        max_tokens=sent.max_tokens,
        temperature=sent.temperature,
        top_k=sent.top_k,
        top_p=sent.top_p,
        repetition_penalty=sent.repetition_penalty,
        seed=_seed(sent),
        stop=stop_strings(sent.stop),
        stop_token_ids=() if sent.end_id in (None, -1) else (sent.end_id,),
        ignore_eos=sent.end_id is not None,
        defaults=_defaults(sent),
    )
    return check_sampling(params)


def _defaults(sent: wire.CompletionRequest) -> tuple[str, ...]:
    has_seed = any(getattr(sent, name) is not None for name in _SEED_NAMES)
    return (*(("top_k",) if sent.top_k == wire.DEFAULT_TOP_K else ()), *(() if has_seed else ("seed",)))


def _seed(sent: wire.CompletionRequest) -> int:
    """Return the seed of the first spelling that is present."""
    for name in _SEED_NAMES:
        seed: int | None = getattr(sent, name)
        if seed is not None:
            if seed > MAX_SEED:
                raise InvalidFields([Violation((name,), InvalidValue("Input should be at most 2^64 - 1"))])
            return seed
    return DEFAULT_SEED


def _check_no_tools(messages: Iterable[ChatMessage], violations: list[Violation]) -> None:
    for index, message in enumerate(messages):
        if message.role == "tool" or message.tool_calls:
            field = "role" if message.role == "tool" else "tool_calls"
            problem = InvalidValue("This service's conversations have no tools")
            violations.append(Violation(("messages", index, field), problem))


def _explain_split_message(violation: Violation) -> Violation:
    """Explain a mistake from the service's own documentation, which shows role and content as two objects."""
    if violation.path[0] == "messages" and violation.path[-1] == "role" and violation.problem == MissingField():
        return Violation(violation.path, InvalidValue("role and content belong in the same object"))
    return violation
