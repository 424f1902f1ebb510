"""Decodes this dialect's requests, and lists models and deployments."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import Headers

from dragoman.core.limits import MAX_SEED
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, Prompt, SamplingParams, TextPrompt
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.context import bearer_key, selected_account
from dragoman.dialects.http.validation import (
    FieldPath,
    InvalidFields,
    InvalidValue,
    MissingField,
    Violation,
    WrongType,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.parse import check_chat_template
from dragoman.dialects.vendors.scale import wire
from dragoman.dialects.vendors.scale.response_builder import (
    ChatResponseBuilder,
    DeploymentResponseBuilder,
    TextResponseBuilder,
)

MAX_TEMPERATURE = 2.0

MAX_INTEGER = 2**63 - 1
"""The largest integer that an engine gets. Larger ones mean the same: no limit."""

OWNER = "dragoman"
"""The owner and creator of all models, which lists must name."""

CREATED_AT = "2024-01-01T00:00:00Z"
"""The date of all models, which lists must name; a fixed one is equal in every worker and after every start."""

MODEL_TYPE = "CHAT_COMPLETION"

Item = TypeVar("Item", wire.ModelItem, wire.DeploymentItem)

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode

_FIELD_NAMES = {"messages": "chat_history"}
"""One route's own name of the conversation, which engines and chat templates call messages."""

_BINDINGS: FieldPath = ("model_request_parameters", "bindings")


def decode_deployment_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion with the model in the path. Raises BadRequest."""
    sent = decode_body(body, wire.DeploymentChatRequest)
    violations: list[Violation] = []
    history = _convert_messages("chat_history", sent.chat_history, violations)
    _check_deployment(sent, violations)
    check_chat_template(sent.chat_template, sent.chat_template_kwargs, violations)
    raise_violations(violations)
    prompt = ChatPrompt(
        messages=(*history, Message(role="user", content=sent.prompt)),
        reasoning_effort=sent.reasoning_effort,
        template=sent.chat_template,
        template_arguments=sent.chat_template_kwargs,
    )
    return _decode_deployment(sent, context, prompt)


def decode_deployment_text(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a text completion with the model in the path. Raises BadRequest."""
    sent = decode_body(body, wire.DeploymentTextRequest)
    violations: list[Violation] = []
    _check_deployment(sent, violations)
    raise_violations(violations)
    return _decode_deployment(sent, context, TextPrompt(sent.prompt))


def decode_chat(body: bytes, _context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion with the model in the body. Raises BadRequest."""
    sent = decode_body(body, wire.ChatRequest)
    violations: list[Violation] = []
    messages = _convert_messages("messages", sent.messages, violations)
    check_chat_template(sent.chat_template, None, violations)
    raise_violations(violations)
    if sent.memory_strategy is not None:
        messages = messages[-sent.memory_strategy.params.k :]
    if sent.instructions:
        messages = [Message(role="system", content=sent.instructions), *messages]
    parameters = sent.model_parameters
    prompt = ChatPrompt(
        messages=tuple(messages), reasoning_effort=parameters.reasoning_effort, template=sent.chat_template
    )
    return DecodedRequest(
        requests=[GenerationRequest(model=sent.model, prompt=prompt, sampling=_sampling(parameters))],
        stream=sent.stream,
        builder=ChatResponseBuilder(),
    )


def decode_text(body: bytes, _context: DecodeContext) -> DecodedRequest:
    """Decode a text completion with the model in the body. Raises BadRequest."""
    sent = decode_body(body, wire.TextRequest)
    if sent.images:
        raise InvalidFields(
            [Violation(("images",), InvalidValue("Images are not supported, the model takes text only"))]
        )
    request = GenerationRequest(
        model=sent.model, prompt=TextPrompt(sent.prompt), sampling=_sampling(sent.model_parameters)
    )
    return DecodedRequest(requests=[request], stream=sent.stream, builder=TextResponseBuilder())


def read_key(headers: Headers) -> str | None:
    """Return the key of `x-api-key`, or without that header of `Authorization: Bearer KEY`."""
    return headers.get("x-api-key", "").strip() or bearer_key(headers)


read_account = selected_account


def model_items(models: list[ServedModel], query: wire.ListQuery) -> list[wire.ModelItem]:
    """Return the models that match the query. No model is in a group."""
    if query.model_type not in (None, MODEL_TYPE) or query.model_group_id is not None:
        return []
    return [model_item(model, model.id) for model in models]


def model_item(model: ServedModel, name: str) -> wire.ModelItem:
    """Return a model under the name that the client used."""
    return wire.ModelItem(
        id=name,
        account_id=OWNER,
        created_at=CREATED_AT,
        created_by_user_id=OWNER,
        model_type=MODEL_TYPE,
        name=model.id,
        request_schema=_schema(wire.DeploymentChatRequest),
        response_schema=_schema(wire.DeploymentCompletion),
        supports_multi_turn=True,
    )


def deployment_items(models: list[ServedModel]) -> list[wire.DeploymentItem]:
    """Return one deployment for each model. It is ready once its engine has reported the context length."""
    return [
        wire.DeploymentItem(
            id=model.id,
            account_id=OWNER,
            created_at=CREATED_AT,
            created_by_user_id=OWNER,
            name=model.id,
            status="PENDING" if model.context_length is None else "READY",
            model_instance_id=model.id,
        )
        for model in models
    ]


def page(items: list[Item], query: wire.ListQuery) -> wire.Page[Item]:
    """Return the page that was asked for."""
    first = (query.page - 1) * query.limit
    return wire.Page(query.page, items[first : first + query.limit], query.limit, len(items))


def _decode_deployment(sent: wire.DeploymentRequest, context: DecodeContext, prompt: Prompt) -> DecodedRequest:
    request = GenerationRequest(
        model=context.arguments["deployment"],
        prompt=prompt,
        sampling=_sampling(sent, _bindings(sent)),
        logprobs=(sent.top_logprobs or 0) if sent.logprobs else None,
    )
    builder = DeploymentResponseBuilder(sent.prompt, has_logprobs=sent.logprobs)
    return DecodedRequest(
        requests=[request],
        stream=sent.stream,
        builder=builder,
        field_names=_FIELD_NAMES if isinstance(prompt, ChatPrompt) else {},
    )


def _convert_messages(field: str, sent: list[wire.ChatMessage], violations: list[Violation]) -> list[Message]:
    return [
        Message(role=message.role, content=_text(message, (field, index, "content"), violations))
        for index, message in enumerate(sent)
    ]


def _text(message: wire.ChatMessage, path: FieldPath, violations: list[Violation]) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.role != "user":
        violations.append(Violation(path, WrongType(("string",))))
        return ""
    for index, part in enumerate(message.content):
        if part.type not in (None, "text") or part.image_url is not None or part.image_data is not None:
            violations.append(
                Violation((*path, index), InvalidValue("Images are not supported, the model takes text only"))
            )
        elif part.text is None:
            violations.append(Violation((*path, index, "text"), MissingField()))
    return "".join(part.text or "" for part in message.content)


def _check_deployment(sent: wire.DeploymentRequest, violations: list[Violation]) -> None:
    if sent.top_logprobs is not None and not sent.logprobs:
        violations.append(Violation(("top_logprobs",), InvalidValue("top_logprobs needs logprobs to be true")))
    bindings = _bindings(sent)
    if bindings.seed is not None and bindings.seed > MAX_SEED:
        violations.append(Violation((*_BINDINGS, "seed"), InvalidValue("Input should be at most 2^64 - 1")))
    if sent.max_tokens is not None and bindings.min_tokens > sent.max_tokens:
        problem = InvalidValue(
            f"min_tokens must not be above max_tokens, got {bindings.min_tokens} and {sent.max_tokens}"
        )
        violations.append(Violation((*_BINDINGS, "min_tokens"), problem))


def _bindings(sent: wire.DeploymentRequest) -> wire.Bindings:
    return sent.model_request_parameters.bindings if sent.model_request_parameters else wire.Bindings()


def _sampling(sent: wire.Sampling, bindings: wire.Bindings | None = None) -> SamplingParams:
    resolved = bindings or wire.Bindings()
    return SamplingParams(
        max_tokens=None if sent.max_tokens is None else min(sent.max_tokens, MAX_INTEGER),
        min_tokens=min(resolved.min_tokens, MAX_INTEGER),
        temperature=min(sent.temperature, MAX_TEMPERATURE),
        top_k=min(sent.top_k, MAX_INTEGER),
        top_p=sent.top_p,
        min_p=resolved.min_p,
        repetition_penalty=resolved.repetition_penalty,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        seed=resolved.seed,
        stop=tuple(sent.stop_sequences),
        ignore_eos=resolved.ignore_eos,
    )


@functools.cache
def _schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return msgspec.json.schema(struct)
