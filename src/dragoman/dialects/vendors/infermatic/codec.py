"""Decodes this dialect's requests."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from starlette.datastructures import Headers

from dragoman.core.errors import (
    BadRequest,
    Unauthenticated,
)
from dragoman.core.jobs import DEFAULT_PRIORITY, LOWEST_PRIORITY
from dragoman.core.limits import MAX_SEED, check_sampling
from dragoman.core.request import (
    AnswerFormat,
    ChatPrompt,
    GenerationRequest,
    GrammarFormat,
    JsonSchemaFormat,
    Prompt,
    RegexFormat,
    SamplingParams,
    TextPrompt,
)
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import (
    InvalidFields,
    InvalidValue,
    MissingField,
    Violation,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.parse import (
    check_chat_template,
    check_schema,
    is_token_id,
    parse_messages,
    parse_prompts,
    parse_response_format,
    parse_tools,
    stop_strings,
)
from dragoman.dialects.openai.response_builder import response_head
from dragoman.dialects.vendors.infermatic import wire
from dragoman.dialects.vendors.infermatic.response_builder import ChatResponseBuilder, TextResponseBuilder
from dragoman.dialects.vendors.infermatic.template_fields import opens_turn, reasoning_effort

_EMPTY = wire.StructuredOutputs()

_REGEX_METACHARACTERS = re.compile(r"[\\.+*?()|\[\]{}^$]")


class RequestedFormat(NamedTuple):
    """An output format and the field it was sent in."""

    field: str
    format: AnswerFormat


def requested_format(
    sent: wire.CompletionRequest, response_format: AnswerFormat | None = None
) -> RequestedFormat | None:
    """Return the request's output format; None: any text. Raises BadRequest for several, or for an empty field."""
    if sent.structured_outputs == _EMPTY:
        raise BadRequest("structured_outputs needs one of json, regex, choice and grammar", "structured_outputs")
    found = list(_requested_formats(sent))
    if response_format is not None:
        found.append(RequestedFormat("response_format", response_format))
    if len(found) > 1:
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


_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion. The model in the path precedes the one in the body. Raises BadRequest."""
    return _chat(decode_body(body, wire.ChatRequest), context)


def decode_queued_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion of the queue's own routes, where priority 0 is the first. Raises BadRequest."""
    sent = decode_body(body, wire.ChatRequest)
    priority = min(sent.priority, LOWEST_PRIORITY)
    headers = {} if sent.stream else {"x-litellm-priority": str(priority)}
    return msgspec.structs.replace(_chat(sent, context), priority=priority, headers=headers)


def _chat(sent: wire.ChatRequest, context: DecodeContext) -> DecodedRequest:
    model = _model(sent, context)
    violations: list[Violation] = []
    messages = parse_messages(sent.messages, violations)
    prompt = ChatPrompt(
        messages=messages,
        tools=parse_tools(sent.tools, sent.tool_choice, violations, parallel=sent.parallel_tool_calls),
        reasoning_effort=reasoning_effort(sent.reasoning_effort),
        template=sent.chat_template,
        template_arguments=sent.chat_template_kwargs,
        documents=tuple(sent.documents),
        add_generation_prompt=opens_turn(
            messages, add=sent.add_generation_prompt, continue_message=sent.continue_final_message
        ),
        continue_final_message=sent.continue_final_message,
    )
    response_format = parse_response_format(sent.response_format, violations)
    check_chat_template(sent.chat_template, sent.chat_template_kwargs, violations)
    if sent.top_logprobs and not sent.logprobs:
        violations.append(Violation(("top_logprobs",), InvalidValue("top_logprobs needs logprobs to be true")))
    raise_violations(violations)
    output_format = requested_format(sent, response_format)
    request = _request(sent, model, prompt, output_format, logprobs=sent.top_logprobs if sent.logprobs else None)
    head = response_head(context, "chatcmpl", model, sent.stream_options, logprobs=sent.logprobs)
    fields = {"prompt": "messages"} | _format_field(output_format)
    return DecodedRequest(
        requests=[request],
        stream=sent.stream,
        builder=ChatResponseBuilder(head),
        field_names=fields,
        priority=request.priority,
    )


def decode_text(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a text completion of one or several prompts. Raises BadRequest."""
    sent = decode_body(body, wire.TextRequest)
    model = _model(sent, context)
    if sent.suffix:
        raise BadRequest("suffix is not supported by this server", "suffix")
    output_format = requested_format(sent)
    prompts = parse_prompts(sent.prompt, add_special_tokens=sent.add_special_tokens)
    first = _request(sent, model, prompts[0], output_format, logprobs=sent.logprobs, echo=sent.echo)
    requests = [msgspec.structs.replace(first, prompt=prompt) for prompt in prompts]
    head = response_head(context, "cmpl", model, sent.stream_options, logprobs=sent.logprobs is not None)
    return DecodedRequest(
        requests=requests,
        stream=sent.stream,
        builder=TextResponseBuilder(head),
        field_names=_format_field(output_format),
        priority=first.priority,
    )


def _format_field(output_format: RequestedFormat | None) -> dict[str, str]:
    """Return the request's own name of its output format."""
    return {} if output_format is None else {"response_format": output_format.field}


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
    *,
    logprobs: int | None,
    echo: bool = False,
) -> GenerationRequest:
    # 0 is LiteLLM's default for no priority; numbers above the highest count as the highest.
    priority = min(sent.priority, LOWEST_PRIORITY) or DEFAULT_PRIORITY
    return GenerationRequest(
        model=model,
        prompt=prompt,
        sampling=check_sampling(_sampling(sent)),
        n=sent.n,
        echo=echo,
        priority=priority,
        response_format=None if output_format is None else output_format.format,
        logprobs=logprobs,
        best_of=_best_of(sent),
    )


def _best_of(sent: wire.CompletionRequest) -> int | None:
    """Return the number of candidates if it differs from that of choices. Raises BadRequest."""
    if sent.best_of is None or sent.best_of == sent.n:
        return None
    if sent.best_of < sent.n:
        raise BadRequest(f"best_of must be at least n, got {sent.best_of} and {sent.n}", "best_of")
    if sent.stream:
        raise BadRequest("best_of cannot be streamed: the best is known when all candidates are complete", "best_of")
    return sent.best_of


def _sampling(sent: wire.CompletionRequest) -> SamplingParams:
    return SamplingParams(
        max_tokens=sent.max_tokens if sent.max_completion_tokens is None else sent.max_completion_tokens,
        min_tokens=sent.min_tokens,
        temperature=sent.temperature,
        top_k=sent.top_k,
        top_p=sent.top_p,
        min_p=sent.min_p,
        repetition_penalty=sent.repetition_penalty,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        logit_bias={_token_id(token): bias for token, bias in sent.logit_bias.items()},
        seed=None if sent.seed is None else _seed(sent.seed),
        stop=stop_strings(sent.stop),
        stop_token_ids=tuple(sent.stop_token_ids),
        ignore_eos=sent.ignore_eos,
        include_stop_text=sent.include_stop_str_in_output,
        skip_special_tokens=sent.skip_special_tokens,
        spaces_between_special_tokens=sent.spaces_between_special_tokens,
    )


def _seed(seed: int) -> int | None:
    """Convert a seed: -1 means none; other negative numbers are taken as unsigned 64-bit ones."""
    if not -(2**63) <= seed <= MAX_SEED:
        raise BadRequest(f"seed must be an integer of at most 64 bits, got {str(seed)[:40]}", "seed")
    return None if seed == -1 else seed if seed >= 0 else seed & MAX_SEED


def _token_id(text: str) -> int:
    if not is_token_id(text):
        raise BadRequest(f"logit_bias must have token ids as keys, got '{text[:40]}'", "logit_bias")
    return int(text)


class TokenCountPrompt(NamedTuple):
    """A prompt to count."""

    model: str
    prompt: Prompt


def decode_token_count(body: bytes) -> TokenCountPrompt:
    """Decode a request to the token counter; `prompt` precedes `messages`. Raises BadRequest."""
    sent = decode_body(body, wire.TokenCountRequest)
    if sent.prompt is not None:
        return TokenCountPrompt(sent.model, TextPrompt(sent.prompt))
    if sent.messages is None:
        raise BadRequest("prompt or messages must be provided")
    violations: list[Violation] = []
    prompt = ChatPrompt(
        messages=parse_messages(sent.messages, violations), tools=parse_tools(sent.tools, None, violations)
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
