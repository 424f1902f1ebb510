"""Decodes this dialect's requests."""

import operator
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET
from starlette.datastructures import Headers

from dragoman.core.errors import BadRequest, Unauthenticated
from dragoman.core.jobs import DEFAULT_PRIORITY, LOWEST_PRIORITY
from dragoman.core.limits import check_sampling
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    AnswerFormat,
    ChatPrompt,
    GenerationRequest,
    GrammarFormat,
    JsonSchemaFormat,
    Prompt,
    RegexFormat,
    TextPrompt,
    ToolOptions,
)
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import (
    InvalidFields,
    InvalidValue,
    MissingField,
    UnsupportedFields,
    Violation,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.parse import (
    check_chat_template,
    check_schema,
    image_schemes,
    parse_prompts,
    parse_response_format,
    parse_tools,
    served_model,
)
from dragoman.dialects.openai.response_builder import fingerprint_of, response_head
from dragoman.dialects.openai.wire import AllowedTools, NamedTool
from dragoman.dialects.vendors.infermatic import functions, wire
from dragoman.dialects.vendors.infermatic.parameters import (
    best_of,
    max_tokens,
    opens_turn,
    parse_conversation,
    prompt_truncation,
    reasoning_effort,
    sampling_params,
    verbosity,
)
from dragoman.dialects.vendors.infermatic.response_builder import (
    AnswerOptions,
    ChatResponseBuilder,
    TextResponseBuilder,
)
from dragoman.dialects.vendors.infermatic.token_reports import (
    NO_REPORT,
    ReportingChatBuilder,
    ReportingTextBuilder,
    ReportOptions,
)
from dragoman.dialects.vendors.infermatic.unsupported import CHAT_FIELDS, TEXT_FIELDS

_EMPTY = wire.StructuredOutputs()

_REGEX_METACHARACTERS = re.compile(r"[\\.+*?()|\[\]{}^$]")


_FORMAT_FIELDS = (
    "structured_outputs",
    "guided_json",
    "json_schema",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
)
_format_fields = operator.attrgetter(*_FORMAT_FIELDS)
_NO_FORMAT = (None,) * len(_FORMAT_FIELDS)


class RequestedFormat(NamedTuple):
    """An output format and the field it was sent in."""

    field: str
    format: AnswerFormat


def requested_format(
    sent: wire.CompletionRequest, response_format: AnswerFormat | None = None
) -> RequestedFormat | None:
    """Return the request's output format; None: any text. Raises BadRequest if two differ, or for an empty field."""
    if response_format is None and _format_fields(sent) == _NO_FORMAT:
        return None
    if sent.structured_outputs == _EMPTY:
        raise BadRequest("structured_outputs needs one of json, regex, choice and grammar", "structured_outputs")
    found = list(_requested_formats(sent))
    if response_format is not None:
        found.append(RequestedFormat("response_format", response_format))
    if any(each.format != found[0].format for each in found[1:]):
        fields = " and ".join(dict.fromkeys(requested.field for requested in found))
        raise BadRequest(f"An answer can be bound in one way only, got {len(found)} in {fields}", found[1].field)
    return found[0] if found else None


def _requested_formats(sent: wire.CompletionRequest) -> Iterator[RequestedFormat]:
    structured = sent.structured_outputs or _EMPTY
    for field, schema in (
        ("structured_outputs", structured.json),
        ("guided_json", sent.guided_json),
        ("json_schema", sent.json_schema),
    ):
        if schema is not None:
            yield RequestedFormat(field, JsonSchemaFormat(_schema(field, schema), strict=True))
    for field, pattern in (("structured_outputs", structured.regex), ("guided_regex", sent.guided_regex)):
        if pattern is not None:
            yield RequestedFormat(field, RegexFormat(pattern))
    for field, texts in (("structured_outputs", structured.choice), ("guided_choice", sent.guided_choice)):
        if texts is not None:
            yield RequestedFormat(field, RegexFormat("|".join(map(_escape_regex, texts))))
    for field, grammar in (
        ("structured_outputs", structured.grammar),
        ("guided_grammar", sent.guided_grammar),
        ("grammar", sent.grammar),
    ):
        if grammar is not None:
            yield RequestedFormat(field, GrammarFormat(grammar))


def _schema(field: str, sent: dict[str, Any] | str) -> dict[str, Any]:
    schema = _parse_schema(field, sent) if isinstance(sent, str) else sent
    violations: list[Violation] = []
    check_schema(schema, (field,), violations)
    raise_violations(violations)
    return schema


def _parse_schema(field: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"{field} is a text, but not that of a JSON Schema: {error}", field) from error


def _escape_regex(text: str) -> str:
    """Escape a text. re.escape also escapes characters that must not be escaped in the engine's syntax."""
    return _REGEX_METACHARACTERS.sub(r"\\\g<0>", text)


_CHAT_FIELD_NAMES = {"prompt": "messages"}

_FUNCTION_FIELD_NAMES = {"prompt": "messages", "tools": "functions"}

_UNSUPPORTED_IN_CHATS = UnsupportedFields(CHAT_FIELDS)
_UNSUPPORTED_IN_TEXTS = UnsupportedFields(TEXT_FIELDS)


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion. The model in the path precedes the one in the body. Raises BadRequest."""
    sent = _decode_chat_body(body, context)
    _check_stream_options(sent, context)
    return _chat(sent, context)


def decode_queued_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion of the queue's own routes, where priority 0 is the first. Raises BadRequest.

    `stream_options` need no `stream`: the job's events can be read as a stream in any case.
    """
    sent = _decode_chat_body(body, context)
    priority = min(sent.priority, LOWEST_PRIORITY)
    headers = {} if sent.stream else {"x-litellm-priority": str(priority)}
    return msgspec.structs.replace(_chat(sent, context), priority=priority, headers=headers)


def _decode_chat_body(body: bytes, context: DecodeContext) -> wire.ChatRequest:
    sent = decode_body(body, wire.ChatRequest)
    if context.find_model is not None and not sent.drop_params:
        _UNSUPPORTED_IN_CHATS.check(body)
    return sent


def _check_stream_options(sent: wire.CompletionRequest, context: DecodeContext) -> None:
    if sent.stream_options is not None and not sent.stream and context.find_model is not None:
        raise BadRequest("stream_options is only allowed when stream is true", "stream_options")


def _chat(sent: wire.ChatRequest, context: DecodeContext) -> DecodedRequest:
    model = _model(sent, context)
    served = served_model(model, context)
    violations: list[Violation] = []
    has_functions = bool(sent.functions) or sent.function_call is not None
    messages = parse_conversation(sent.messages, violations, image_schemes=image_schemes(served, context))
    prompt = ChatPrompt(
        messages=messages,
        tools=functions.parse_functions(sent, violations) if has_functions else _tools(sent, violations),
        truncation=prompt_truncation(sent),
        reasoning_effort=reasoning_effort(sent.reasoning_effort),
        verbosity=verbosity(sent, served),
        template=sent.chat_template,
        template_arguments=sent.chat_template_kwargs,
        documents=tuple(sent.documents) if sent.documents else (),
        add_generation_prompt=opens_turn(
            messages, add=sent.add_generation_prompt, continue_message=sent.continue_final_message
        ),
        continue_final_message=sent.continue_final_message,
    )
    response_format = parse_response_format(sent.response_format, violations)
    check_chat_template(sent.chat_template, sent.chat_template_kwargs, violations)
    for index, document in enumerate(sent.documents):
        check_schema(document, ("documents", index), violations, "a document")
    if sent.top_logprobs and not sent.logprobs:
        violations.append(Violation(("top_logprobs",), InvalidValue("top_logprobs needs logprobs to be true")))
    raise_violations(violations)
    output_format = requested_format(sent, response_format)
    report = _report_options(sent)
    logprobs = sent.top_logprobs if sent.logprobs else None
    request = _request(sent, model, prompt, output_format, report, logprobs=logprobs)
    fingerprint = fingerprint_of(served, context)
    head = response_head(
        context, "chatcmpl", model, sent.stream_options, logprobs=sent.logprobs, fingerprint=fingerprint
    )
    answer = AnswerOptions(
        logprobs_as_token_ids=sent.return_tokens_as_token_ids,
        shows_reasoning=sent.include_reasoning,
        has_function_call=bool(sent.functions),
        beginning=messages[-1].text if sent.echo and messages[-1].role == "assistant" else "",
    )
    return DecodedRequest(
        requests=[request],
        stream=sent.stream,
        builder=(
            ChatResponseBuilder(head, answer) if report is NO_REPORT else ReportingChatBuilder(head, answer, report)
        ),
        field_names=_field_names(_FUNCTION_FIELD_NAMES if has_functions else _CHAT_FIELD_NAMES, output_format),
        extra_arguments=head.stored_arguments,
        priority=request.priority,
    )


def _tools(sent: wire.ChatRequest, violations: list[Violation]) -> ToolOptions | None:
    choice = sent.tool_choice
    controlled: NamedTool | AllowedTools | None = None
    if isinstance(choice, wire.ControlledTool):
        if choice.type == "function" and choice.function is not None:
            controlled = NamedTool("function", choice.function)
        elif choice.type == "allowed_tools" and choice.allowed_tools is not None:
            controlled = choice.allowed_tools
        else:
            violations.append(Violation(("tool_choice", choice.type), MissingField()))
    return parse_tools(
        sent.tools,
        controlled if isinstance(choice, wire.ControlledTool) else choice,
        violations,
        parallel=sent.parallel_tool_calls,
    )


def decode_text(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a text completion of one or several prompts. Raises BadRequest."""
    sent = decode_body(body, wire.TextRequest)
    if context.find_model is not None and not sent.drop_params:
        _UNSUPPORTED_IN_TEXTS.check(body)
    _check_stream_options(sent, context)
    model = _model(sent, context)
    if sent.suffix:
        raise BadRequest("suffix is not supported by this server", "suffix")
    violations: list[Violation] = []
    response_format = parse_response_format(sent.response_format, violations)
    raise_violations(violations)
    output_format = requested_format(sent, response_format)
    prompts = parse_prompts(sent.prompt, add_special_tokens=sent.add_special_tokens)
    if (truncation := prompt_truncation(sent)) is not None:
        prompts = [msgspec.structs.replace(prompt, truncation=truncation) for prompt in prompts]
    if max_tokens(sent) == 0 and not sent.echo:
        field = "max_tokens" if sent.max_completion_tokens is None else "max_completion_tokens"
        raise BadRequest(f"{field} must be at least 1, got 0; 0 needs echo", field)
    report = _report_options(sent, len(prompts))
    first = _request(sent, model, prompts[0], output_format, report, logprobs=sent.logprobs, echo=sent.echo)
    requests = [first, *(msgspec.structs.replace(first, prompt=prompt) for prompt in prompts[1:])]
    fingerprint = fingerprint_of(served_model(model, context), context)
    has_logprobs = sent.logprobs is not None
    head = response_head(context, "cmpl", model, sent.stream_options, logprobs=has_logprobs, fingerprint=fingerprint)
    answer = AnswerOptions(logprobs_as_token_ids=sent.return_tokens_as_token_ids)
    return DecodedRequest(
        requests=requests,
        stream=sent.stream,
        builder=(
            TextResponseBuilder(head, answer) if report is NO_REPORT else ReportingTextBuilder(head, answer, report)
        ),
        field_names=_field_names({}, output_format),
        extra_arguments=head.stored_arguments,
        priority=first.priority,
    )


def _report_options(sent: wire.CompletionRequest, prompts: int = 1) -> ReportOptions:
    """Return what the answer reports of tokens: NO_REPORT if nothing. Raises BadRequest."""
    if sent.prompt_logprobs is not None and sent.stream:
        raise BadRequest("prompt_logprobs cannot be streamed", "prompt_logprobs")
    options = sent.stream_options if sent.stream else None
    usage_so_far = options is not None and bool(options.include_usage and options.continuous_usage_stats)
    if not (sent.return_token_ids or usage_so_far) and sent.prompt_logprobs is None:
        return NO_REPORT
    prompt_tokens = sent.return_token_ids or (usage_so_far and prompts > 1)
    return ReportOptions(sent.return_token_ids, sent.prompt_logprobs is not None, usage_so_far, prompt_tokens)


def _field_names(names: dict[str, str], output_format: RequestedFormat | None) -> dict[str, str]:
    """Add the request's own name of its output format."""
    return names if output_format is None else names | {"response_format": output_format.field}


def _model(sent: wire.CompletionRequest, context: DecodeContext) -> str:
    model = context.arguments.get("model") or sent.model
    if not model:
        raise InvalidFields([Violation(("model",), MissingField())])
    return model


def _request(
    sent: wire.CompletionRequest,
    model: str,
    prompt: Prompt,
    output_format: RequestedFormat | None,
    report: ReportOptions,
    *,
    logprobs: int | None,
    echo: bool = False,
) -> GenerationRequest:
    # 0 is LiteLLM's default for no priority; numbers above the highest count as the highest.
    priority = min(sent.priority, LOWEST_PRIORITY) or DEFAULT_PRIORITY
    return GenerationRequest(
        model=model,
        prompt=prompt,
        sampling=check_sampling(sampling_params(sent), min_max_tokens=0 if echo else 1),
        n=sent.n,
        echo=echo,
        priority=priority,
        response_format=None if output_format is None else output_format.format,
        logprobs=logprobs,
        prompt_logprobs=sent.prompt_logprobs,
        reports_prompt=report.prompt_tokens,
        best_of=best_of(sent),
        cache_salt=sent.cache_salt or "",
        affinity=sent.prompt_cache_key or sent.user or "",
    )


class TokenCountPrompt(NamedTuple):
    """A prompt to count."""

    model: str
    prompt: Prompt


def decode_token_count(body: bytes, context: DecodeContext) -> TokenCountPrompt:
    """Decode a request to the token counter; `prompt` precedes `messages`. Raises BadRequest."""
    sent = decode_body(body, wire.TokenCountRequest)
    if sent.prompt is not None:
        return TokenCountPrompt(sent.model, TextPrompt(sent.prompt))
    if sent.messages is None:
        raise BadRequest("prompt or messages must be provided")
    violations, served = list[Violation](), served_model(sent.model, context)
    prompt = ChatPrompt(
        messages=parse_conversation(sent.messages, violations, image_schemes=image_schemes(served, context)),
        tools=parse_tools(sent.tools, None, violations),
    )
    raise_violations(violations)
    return TokenCountPrompt(sent.model, prompt)


def read_key(headers: Headers) -> str | None:
    """Return the key in the first of these headers that is present. Raises Unauthenticated."""
    if authorization := headers.get("authorization"):
        for prefix in ("Bearer ", "bearer ", "Basic "):
            if authorization.startswith(prefix):
                return authorization.removeprefix(prefix).strip() or None
        raise Unauthenticated("malformed").with_key(authorization)
    return next((headers[name] for name in ("api-key", "x-api-key", "x-goog-api-key") if headers.get(name)), None)


def model_card(model: ServedModel, name: str) -> wire.ModelCard:
    """Return a model under the name that the client used."""
    length = UNSET if model.context_length is None else model.context_length
    if model.kind != "generation":
        width = UNSET if model.embedding_dimensions is None else model.embedding_dimensions
        return wire.ModelCard(name, capabilities=[model.kind], max_model_len=length, embedding_dimensions=width)
    if model.tool_format is None:
        return wire.ModelCard(name)
    reasons = model.supports_reasoning
    return wire.ModelCard(name, tool_format=model.tool_format, supports_reasoning=reasons, max_model_len=length)
