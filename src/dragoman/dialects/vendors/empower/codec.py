"""Between this dialect's JSON and core: requests in, events out, errors in OpenAI's envelope."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from dragoman.core.adapters import AdapterSource, AdapterSpec, RegisteredAdapter
from dragoman.core.errors import (
    AdapterMissing,
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    Forbidden,
    IdempotencyConflict,
    InsufficientBalance,
    JobCancelled,
    JobNotFound,
    JobTimedOut,
    Limited,
    ModelNameTaken,
    ModelNotFound,
    Overloaded,
    Unauthenticated,
)
from dragoman.core.limits import check_sampling
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, SamplingParams
from dragoman.core.service import ServedModel, find_model
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest, ErrorResponse
from dragoman.dialects.http.context import error_headers
from dragoman.dialects.http.validation import (
    InvalidFields,
    InvalidValue,
    MalformedJson,
    MissingField,
    Problem,
    Violation,
    WrongType,
    decode_body,
    describe,
    violations_of,
)
from dragoman.dialects.openai.messages import ChatMessage, to_core_messages, validate_messages
from dragoman.dialects.openai.response_builder import OpenAIChatResponseBuilder, response_head
from dragoman.dialects.openai.tools import tool_use, validate_tools
from dragoman.dialects.vendors.empower import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class AdapterRegistration(NamedTuple):
    """An adapter to register."""

    spec: AdapterSpec
    token: str | None
    """For the hub; kept apart, since nothing that is kept holds it."""


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """A chat completion, of one conversation or of several prompts. Raises BadRequest for the first mistake."""
    # messages is the first field, so all that can be wrong with it comes before what is wrong with the others.
    prompts = _prompts(decode_body(body, wire.ChatMessages).messages)
    sent = decode_body(body, wire.ChatRequest)
    choice = "required" if sent.tool_choice == "any" else sent.tool_choice
    _raise_violations(validate_tools(sent.tools, choice))
    tools = tool_use(sent.tools, choice)
    params = SamplingParams(
        max_tokens=sent.max_tokens,
        temperature=sent.temperature,
        top_p=sent.top_p,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        ignore_eos=sent.ignore_eos,
    )
    sampling = check_sampling(params)
    requests = [GenerationRequest(sent.model, ChatPrompt(prompt, tools), sampling, sent.n) for prompt in prompts]
    head = response_head(context, "chatcmpl", sent.model, sent.stream_options)
    builder = OpenAIChatResponseBuilder(msgspec.structs.replace(head, absent_logprobs=None))
    return DecodedRequest(requests, sent.stream, builder, {"prompt": "messages"})


def decode_adapter(body: bytes) -> AdapterRegistration:
    """An adapter to register. Raises BadRequest for the first mistake."""
    sent = decode_body(body, wire.AdapterRequest)
    if sent.model_source == "HF_HUB":
        source = AdapterSource("hub", sent.model_name, None if sent.hf_revision == "main" else sent.hf_revision)
    else:
        source = AdapterSource("local", sent.model_name)
    return AdapterRegistration(AdapterSpec(sent.name or sent.model_name, source, sent.base_model_name), sent.hf_token)


def adapter_body(registered: RegisteredAdapter) -> bytes:
    """What is told of an adapter."""
    adapter, source = registered.adapter, registered.adapter.source
    from_hub = source.kind == "hub"
    deployment = wire.AdapterDeployment(
        registered.base,
        adapter.created_at,
        wire.Creator(api_key=wire.ApiKey(adapter.creator)),
        (source.revision or "main") if from_hub else None,
        source.name,
        "HF_HUB" if from_hub else "LOCAL",
    )
    return _encode(wire.AdapterBody(deployment, adapter.name, unit_price=0))


def base_model(name: str, models: list[ServedModel], created: int) -> bytes:
    """What is told of the base model with this name or alias. Raises ModelNotFound."""
    model = find_model(models, name)
    if model is None or model.base is not None:
        raise ModelNotFound(name)
    deployment = wire.ActiveDeployment(created, wire.Creator(), model.id, "HF_HUB")
    return _encode(wire.BaseModelBody(deployment, name, unit_price=0))


def model_list(models: list[ServedModel], created: int) -> bytes:
    """All models, as OpenAI's clients list them; `created` is the time of those that were there from the start."""
    cards = [wire.ModelCard(model.id, "model", model.created_at or created, "dragoman") for model in models]
    return _encode(wire.ModelList("list", cards))


def _prompts(messages: str | list[str | ChatMessage]) -> list[tuple[Message, ...]]:
    items = [messages] if isinstance(messages, str) else messages
    texts = [item for item in items if isinstance(item, str)]
    conversation = [item for item in items if isinstance(item, ChatMessage)]
    if texts and conversation:
        raise _invalid_messages(WrongType(("array of strings", "array of objects")))
    if len(texts) > wire.MAX_PROMPTS:
        raise _invalid_messages(
            InvalidValue(f"'messages' must have at most {wire.MAX_PROMPTS} strings, got {len(texts)}")
        )
    _raise_violations(validate_messages(conversation))
    return [(Message("user", text),) for text in texts] or [to_core_messages(conversation)]


def _invalid_messages(problem: Problem) -> InvalidFields:
    return InvalidFields([Violation(("messages",), problem)])


def _raise_violations(violations: Iterable[Violation]) -> None:
    if found := list(violations):
        raise InvalidFields(found)


class EmpowerErrors:
    """The error tree in this dialect's envelope, before and after the first byte."""

    def render(self, error: DragomanError) -> ErrorResponse:
        """Status, body and headers."""
        rendered = _render(error)
        return ErrorResponse(rendered.status, _encode(rendered.body), error_headers(error))

    def render_frame(self, error: DragomanError) -> bytes:
        """The last frame of a stream that failed; no terminator follows it."""
        return sse.frame(_encode(_render(error).body))


class _RenderedError(NamedTuple):
    """An error as the client hears of it."""

    status: int
    body: wire.ErrorBody


def _render(error: DragomanError) -> _RenderedError:
    match error:
        case MalformedJson():
            return _error(400, error.message)
        case ContextOverflow():
            return _error(400, error.message, "messages", "context_length_exceeded")
        case ModelNameTaken():
            return _error(400, error.message, "name", "name_taken")
        case AdapterMissing():
            return _error(400, error.message, "model_name", "model_not_available")
        case BadRequest():
            return _bad_request(next(violations_of(error)))
        case Unauthenticated(fault="missing"):
            return _unauthenticated("No API key provided", "missing_api_key")
        case Unauthenticated(fault="malformed"):
            return _unauthenticated("Authorization header must have the form: Bearer <token>", "invalid_api_key")
        case Unauthenticated():
            return _unauthenticated("Invalid API key", "invalid_api_key")
        case InsufficientBalance():
            return _error(402, "Insufficient balance", None, "insufficient_balance", kind="insufficient_balance")
        case Forbidden():
            return _error(403, error.message, None, "permission_denied", kind="permission_error")
        case ModelNotFound():
            return _error(404, error.message, "model", "model_not_found")
        case JobNotFound():
            return _error(404, error.message, None, "job_not_found")
        case JobTimedOut():
            return _error(408, error.message, None, "timeout", kind="timeout_error")
        case JobCancelled():
            return _error(410, error.message, None, "job_cancelled", kind="cancelled")
        case BodyTooLarge():
            return _error(413, error.message)
        case IdempotencyConflict():
            return _error(409, error.message, None, "idempotency_key_in_use", kind="idempotency_error")
        case Limited():
            message = f"Rate limit reached, retry in {error.retry_after} seconds"
            return _error(429, message, None, "rate_limit_exceeded", kind="rate_limit_error")
        case Overloaded():
            message = f"The server is overloaded, retry in {error.retry_after} seconds"
            return _error(503, message, None, "overloaded", kind="server_error")
        case _:
            return _error(500, "An internal error occurred", kind="server_error")


def _bad_request(violation: Violation) -> _RenderedError:
    field = f"'{violation.field}'"
    parameter = str(violation.path[0]) if violation.path else None
    match violation.problem:
        case MissingField():
            return _error(400, f"Missing required parameter: {field}", parameter, "missing_required_parameter")
        case WrongType() as problem:
            return _error(400, describe(field, problem), parameter, "invalid_type")
        case problem:
            return _error(400, describe(field, problem), parameter, "invalid_value")


def _unauthenticated(message: str, code: str) -> _RenderedError:
    return _error(401, message, None, code, kind="authentication_error")


def _error(
    status: int,
    message: str,
    parameter: str | None = None,
    code: str | None = None,
    *,
    kind: str = "invalid_request_error",
) -> _RenderedError:
    return _RenderedError(status, wire.ErrorBody(wire.ErrorDetail(message, kind, parameter, code)))
