"""Translate a request to the body that an upstream of a kind takes: OpenAI's routes, with the kind's own fields."""

import functools
import hashlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    GrammarFormat,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Part,
    RegexFormat,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolOptions,
)
from dragoman.engines.upstream.kinds import UpstreamKind

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"

Body = dict[str, Any]

_OFF = SamplingParams()
_SALT_BYTES = 16


def request_path(request: GenerationRequest) -> str:
    """Return the route that answers the request."""
    return CHAT_PATH if isinstance(request.prompt, ChatPrompt) else TEXT_PATH


def request_body(
    request: GenerationRequest, kind: UpstreamKind, *, model: str, max_tokens: int | None, salt: str
) -> Body:
    """Return the body of a streamed request.

    The request needs nothing but the kind's capabilities. `model` is the upstream's name of the model or adapter.
    `max_tokens` None: as many as the upstream allows. `salt` keeps prefixes of owners apart; empty: they share.
    """
    stream_options = {"include_usage": True}
    if kind.counts_continuously and request.n == 1:
        stream_options["continuous_usage_stats"] = True
    body: Body = {"model": model, "stream": True, "stream_options": stream_options}
    body |= _sampling_fields(request.sampling, kind)
    if request.n > 1:
        body["n"] = request.n
    if kind.reports_token_ids and request.reports_prompt:
        body["return_token_ids"] = True
    if salt and kind.salt_field is not None:
        body[kind.salt_field] = salt
    match request.prompt:
        case ChatPrompt():
            body |= chat_fields(request.prompt, kind)
            body |= _max_tokens(kind.max_tokens_field, max_tokens)
            if request.logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": request.logprobs}
        case TextPrompt(text=prompt) | TokenPrompt(token_ids=prompt):
            body |= {"prompt": prompt, **_max_tokens("max_tokens", max_tokens)}
            if isinstance(request.prompt, TextPrompt) and not request.prompt.add_special_tokens:
                body["add_special_tokens"] = False
            if request.logprobs is not None:
                body["logprobs"] = request.logprobs
    return body | _format_fields(request, kind)


def _max_tokens(field: str, max_tokens: int | None) -> Body:
    return {} if max_tokens is None else {field: max_tokens}


def _sampling_fields(sampling: SamplingParams, kind: UpstreamKind) -> Body:
    """Return what differs from the off values. The temperature is always sent: servers' defaults differ."""
    fields: Body = {"temperature": sampling.temperature}
    values, off_values = _values_of(tuple(kind.fields))
    if (given := values(sampling)) != off_values:
        for (field, name), value, off_value in zip(kind.fields.items(), given, off_values, strict=True):
            if value != off_value:
                fields[name] = {str(token): bias for token, bias in value.items()} if field == "logit_bias" else value
    return fields


@functools.cache
def _values_of(fields: tuple[str, ...]) -> tuple[Callable[[SamplingParams], tuple[Any, ...]], tuple[Any, ...]]:
    """Return what reads several fields at once, and their off values."""
    values = attrgetter(*fields)
    return values, values(_OFF)


def chat_fields(prompt: ChatPrompt, kind: UpstreamKind) -> Body:
    """Return the fields of a conversation, which decide what its prompt is."""
    body: Body = {"messages": [_message(message, kind) for message in prompt.messages]}
    if prompt.tools is not None:
        body |= _tool_fields(prompt.tools, kind)
    if prompt.reasoning_effort is not None:
        body["reasoning_effort"] = prompt.reasoning_effort
    if prompt.verbosity is not None:
        body["verbosity"] = prompt.verbosity
    if prompt.template is not None:
        body["chat_template"] = prompt.template
    if prompt.template_arguments:
        body["chat_template_kwargs"] = prompt.template_arguments
    if prompt.documents:
        body["documents"] = list(prompt.documents)
    if prompt.continue_final_message and kind.continues_by_itself:
        return body
    if prompt.continue_final_message:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    elif not prompt.add_generation_prompt:
        body["add_generation_prompt"] = False
    return body


def _tool_fields(tools: ToolOptions, kind: UpstreamKind) -> Body:
    is_strict = kind.only_strict_calls_follow_schemas and tools.choice in ("named", "required")
    functions = [
        _function(tool, is_strict=tool.strict or (is_strict and tool.parameters is not None)) for tool in tools.tools
    ]
    body: Body = {"tools": [{"type": "function", "function": function} for function in functions]}
    if tools.choice == "named":
        body["tool_choice"] = {"type": "function", "function": {"name": tools.name}}
    elif tools.choice == "required":
        body["tool_choice"] = "required"
    if not tools.parallel:
        body["parallel_tool_calls"] = False
    return body


def _function(tool: Tool, *, is_strict: bool) -> Body:
    fields = {"description": tool.description, "parameters": tool.parameters, "strict": is_strict or None}
    return {"name": tool.name, **{name: value for name, value in fields.items() if value is not None}}


def _message(message: Message, kind: UpstreamKind) -> Body:
    content = message.content
    body: Body = {"role": message.role, "content": content if isinstance(content, str) else list(map(_part, content))}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        body[kind.reasoning_field] = message.reasoning
    return body


def _part(part: Part) -> Body:
    if isinstance(part, ImagePart):
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.url, **detail}}
    return {"type": "text", "text": part.text}


def _format_fields(request: GenerationRequest, kind: UpstreamKind) -> Body:
    match request.response_format:
        case None:
            return {}
        case JsonObjectFormat():
            return {"response_format": {"type": "json_object"}}
        case JsonSchemaFormat(schema=schema, strict=strict):
            if kind.json_schema == "llama-server":
                return {"response_format": {"type": "json_object", "schema": schema}}
            named = {"name": "answer", "schema": schema, **({"strict": True} if strict else {})}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case RegexFormat(pattern=pattern):
            return {"regex": pattern} if kind.pattern_field == "regex" else {"structured_outputs": {"regex": pattern}}
        case GrammarFormat(grammar=grammar):
            if kind.pattern_field == "structured_outputs":
                return {"structured_outputs": {"grammar": grammar}}
            return {"ebnf" if kind.pattern_field == "regex" else "grammar": grammar}


def prefix_salt(request: GenerationRequest) -> str:
    """Return what keeps the prefixes of owners apart: a digest, which tells the upstream nothing about the owner."""
    if not request.owner and not request.cache_salt:
        return ""
    return hashlib.blake2b(f"{request.owner}\0{request.cache_salt}".encode(), digest_size=_SALT_BYTES).hexdigest()
