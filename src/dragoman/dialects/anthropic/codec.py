"""Decodes this dialect's requests, and lists models."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.datastructures import Headers

from dragoman.core.limits import MAX_TOKENS
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonSchemaFormat,
    ReasoningEffort,
    SamplingParams,
)
from dragoman.dialects.anthropic import wire
from dragoman.dialects.anthropic.content import parse_conversation
from dragoman.dialects.anthropic.response_builder import AnswerOptions, MessageBuilder
from dragoman.dialects.anthropic.tools import parse_tools
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.context import bearer_key
from dragoman.dialects.http.validation import InvalidValue, Violation, decode_body, raise_violations
from dragoman.dialects.openai.parse import check_schema, omission_arguments, omits_tool_images, served_model

_FIELD_NAMES = {
    "prompt": "messages",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "parallel_tool_calls": "tool_choice",
}

_MAX_INT64 = 2**63 - 1
"""Larger ranks mean the same, and engines count in 64 bits."""

_EFFORTS: dict[str, ReasoningEffort] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}

_BUDGETS: tuple[tuple[int, ReasoningEffort], ...] = ((16_000, "high"), (4096, "medium"), (0, "low"))
"""Least budgets of thinking, in tokens, with the effort they choose."""

_PROCESS_STARTED = int(time.time())


def read_key(headers: Headers) -> str | None:
    """Return the key of `x-api-key` or else of `Authorization: Bearer`. Raises Unauthenticated for another form."""
    return headers.get("x-api-key", "").strip() or bearer_key(headers)


def decode_messages(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a request for an answer. Raises BadRequest."""
    sent = decode_body(body, wire.MessagesRequest)
    violations: list[Violation] = []
    prompt = _parse_prompt(sent, violations, context)
    output_format = sent.output_config.format if sent.output_config is not None else None
    format_path: tuple[str, ...] = ("output_config", "format")
    if output_format is None and sent.output_format is not None:
        output_format, format_path = sent.output_format, ("output_format",)
    if output_format is not None:
        check_schema(output_format.schema, (*format_path, "schema"), violations)
    raise_violations(violations)
    request = GenerationRequest(
        model=sent.model,
        prompt=prompt,
        sampling=_sampling(sent),
        response_format=None if output_format is None else JsonSchemaFormat(output_format.schema, strict=True),
    )
    options = AnswerOptions(
        id=f"msg_{context.answer_id}",
        model=sent.model,
        max_tokens=sent.max_tokens,
        shows_thinking=sent.thinking is None or sent.thinking.display != "omitted",
        eager_tools=_eager_tools(sent) if sent.stream else frozenset(),
    )
    return DecodedRequest(
        requests=[request],
        stream=sent.stream,
        builder=MessageBuilder(options),
        field_names={**_FIELD_NAMES, "response_format": ".".join(format_path)},
        extra_arguments=omission_arguments(omits_tool_images(served_model(sent.model, context), context)),
    )


def decode_count(body: bytes, context: DecodeContext) -> tuple[str, ChatPrompt]:
    """Decode a request to count tokens: the model and its prompt. Raises BadRequest."""
    sent = decode_body(body, wire.CountTokensRequest)
    violations: list[Violation] = []
    prompt = _parse_prompt(sent, violations, context)
    raise_violations(violations)
    return sent.model, prompt


def model_infos(models: Iterable[ServedModel]) -> list[wire.ModelInfo]:
    """Describe the models under all their names, since clients select from the list by name."""
    return [model_info(model, name) for model in models for name in (model.id, *model.aliases)]


def model_info(model: ServedModel, name: str) -> wire.ModelInfo:
    """Describe a model under the name that the client uses."""
    created = datetime.fromtimestamp(model.created_at or _PROCESS_STARTED, UTC)
    return wire.ModelInfo(
        id=name,
        display_name=name,
        created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=model.context_length,
        max_tokens=model.context_length,
    )


def model_page(infos: list[wire.ModelInfo], query: wire.ModelsQuery) -> wire.ModelPage:
    """Return the page that the query asks for. Raises InvalidFields for an id that is not in the list."""
    ids = [info.id for info in infos]
    first, end = 0, len(infos)
    if query.after_id is not None:
        first = _position(ids, query.after_id, "after_id") + 1
    if query.before_id is not None:
        end = _position(ids, query.before_id, "before_id")
        first = max(first, end - query.limit)
    page = infos[first:end][: query.limit]
    has_more = first > 0 if query.before_id is not None else first + len(page) < end
    return wire.ModelPage(page, has_more, page[0].id if page else None, page[-1].id if page else None)


def _position(ids: list[str], name: str, field: str) -> int:
    if name not in ids:
        raise_violations([Violation((field,), InvalidValue("No model has this id"))])
    return ids.index(name)


def _parse_prompt(sent: wire.CountTokensRequest, violations: list[Violation], context: DecodeContext) -> ChatPrompt:
    served = served_model(sent.model, context)
    messages = parse_conversation(
        sent.system,
        sent.messages,
        violations,
        fetches_images=context.fetches_images,
        omits_tool_images=omits_tool_images(served, context),
    )
    if not messages:
        violations.append(Violation(("messages",), InvalidValue("The messages have no content")))
    # An answer that the client has begun is continued.
    is_begun = bool(messages) and messages[-1].role == "assistant"
    return ChatPrompt(
        messages=messages,
        tools=parse_tools(sent.tools, sent.tool_choice, violations),
        reasoning_effort=_effort(sent, served),
        add_generation_prompt=not is_begun,
        continue_final_message=is_begun,
    )


def _effort(sent: wire.CountTokensRequest, model: ServedModel | None) -> ReasoningEffort | None:
    """Return how much the model may reason; None: its default, also for a model that is known not to reason."""
    if model is not None and model.tool_format is not None and not model.supports_reasoning:
        return None
    if sent.thinking is not None and sent.thinking.type == "disabled":
        return "none"
    if sent.output_config is not None and sent.output_config.effort is not None:
        return _EFFORTS[sent.output_config.effort]
    if sent.thinking is not None and sent.thinking.budget_tokens is not None and sent.thinking.type == "enabled":
        budget = sent.thinking.budget_tokens
        return next(effort for least, effort in _BUDGETS if budget >= least)
    return None


def _eager_tools(sent: wire.MessagesRequest) -> frozenset[str]:
    return frozenset(tool.name for tool in sent.tools if tool.eager_input_streaming and tool.name is not None)


def _sampling(sent: wire.MessagesRequest) -> SamplingParams:
    return SamplingParams(
        max_tokens=min(sent.max_tokens, MAX_TOKENS),
        temperature=sent.temperature,
        top_k=min(sent.top_k, _MAX_INT64) if sent.top_k else -1,
        top_p=sent.top_p,
        stop=tuple(sent.stop_sequences),
    )
