"""Decodes chat and text completions of OpenAI's own API."""

import msgspec
from starlette.datastructures import Headers

from dragoman.core.errors import BadRequest
from dragoman.core.jobs import DEFAULT_PRIORITY
from dragoman.core.limits import check_sampling
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    ReasoningEffort,
    SamplingParams,
    ToolOptions,
    Verbosity,
)
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.context import bearer_key
from dragoman.dialects.http.validation import (
    InvalidValue,
    MissingField,
    UnsupportedField,
    UnsupportedFields,
    Violation,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai import wire
from dragoman.dialects.openai.parse import (
    check_chat_template,
    image_schemes,
    parse_messages,
    parse_prompts,
    parse_response_format,
    parse_tools,
    sampling_params,
    served_model,
)
from dragoman.dialects.openai.response_builder import (
    OpenAIChatResponseBuilder,
    OpenAITextResponseBuilder,
    ResponseHead,
    fingerprint_of,
    response_head,
)
from dragoman.dialects.openai.wire import NamedTool

TIER_PRIORITIES = {"priority": 64, "fast": 64, "ultrafast": 64, "flex": 192}
"""Priorities of the tiers that differ from the default."""

_TEXT_ONLY = "the models give text only"
_NEWER_NAME = "it is the older form of tools and tool_choice; send those"

_UNSUPPORTED_IN_CHATS = UnsupportedFields(
    {
        "audio": UnsupportedField(_TEXT_ONLY),
        "modalities": UnsupportedField(_TEXT_ONLY, (["text"], [])),
        "prediction": UnsupportedField("answers are not predicted"),
        "web_search_options": UnsupportedField("nothing is searched for"),
        "moderation": UnsupportedField("nothing is moderated"),
        "functions": UnsupportedField(_NEWER_NAME, ([],)),
        "function_call": UnsupportedField(_NEWER_NAME, ("none", "auto")),
    }
)

_CHAT_FIELD_NAMES = {"prompt": "messages"}

_UNSUPPORTED_IN_TEXTS = UnsupportedFields({"suffix": UnsupportedField("nothing is inserted", ("",))})


class ReasoningChatBuilder(OpenAIChatResponseBuilder):
    """Builds chat completions in which reasoning has a member of its own."""

    shows_reasoning = True


def read_key(headers: Headers) -> str | None:
    """Return the key of `Authorization: Bearer`, or else of Azure's `api-key`. Raises Unauthenticated."""
    return bearer_key(headers) or headers.get("api-key", "").strip() or None


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion. Raises BadRequest."""
    sent = decode_body(body, wire.ChatRequest)
    _check_new(sent, body, context, _UNSUPPORTED_IN_CHATS)
    served = served_model(sent.model, context)
    violations: list[Violation] = []
    prompt = ChatPrompt(
        messages=parse_messages(sent.messages, violations, image_schemes=image_schemes(served, context)),
        tools=_tools(sent, violations),
        reasoning_effort=reasoning_effort(sent.reasoning_effort),
        verbosity=verbosity(sent.verbosity),
        template_arguments=sent.chat_template_kwargs,
    )
    if sent.chat_template_kwargs:
        check_chat_template(None, sent.chat_template_kwargs, violations)
    response_format = parse_response_format(sent.response_format, violations)
    if sent.top_logprobs and not sent.logprobs:
        violations.append(Violation(("top_logprobs",), InvalidValue("top_logprobs needs logprobs to be true")))
    raise_violations(violations)
    max_tokens = sent.max_tokens if sent.max_completion_tokens is None else sent.max_completion_tokens
    request = GenerationRequest(
        model=sent.model,
        prompt=prompt,
        sampling=check_sampling(_sampling(sent, max_tokens)),
        n=sent.n,
        priority=priority_of(sent.service_tier),
        response_format=response_format,
        logprobs=sent.top_logprobs if sent.logprobs else None,
        cache_salt=sent.cache_salt or "",
        affinity=sent.prompt_cache_key or sent.user or "",
    )
    head = _head(sent, context, "chatcmpl", served, logprobs=sent.logprobs)
    return _decoded(sent, [request], head, ReasoningChatBuilder(head), _CHAT_FIELD_NAMES)


def decode_text(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a text completion of one or several prompts. Raises BadRequest."""
    sent = decode_body(body, wire.TextRequest)
    _check_new(sent, body, context, _UNSUPPORTED_IN_TEXTS)
    if sent.max_tokens == 0 and not sent.echo:
        raise BadRequest("max_tokens must be at least 1, got 0; 0 needs echo", "max_tokens")
    if sent.best_of is not None and sent.best_of < sent.n:
        raise BadRequest(f"best_of must be at least n, got {sent.best_of} and {sent.n}", "best_of")
    if sent.best_of not in (None, sent.n) and sent.stream:
        raise BadRequest("best_of cannot be streamed: the best is known when all candidates are complete", "best_of")
    prompts = parse_prompts(sent.prompt)
    first = GenerationRequest(
        model=sent.model,
        prompt=prompts[0],
        sampling=check_sampling(_sampling(sent, sent.max_tokens), min_max_tokens=0 if sent.echo else 1),
        n=sent.n,
        echo=sent.echo,
        priority=priority_of(sent.service_tier),
        logprobs=sent.logprobs,
        best_of=None if sent.best_of == sent.n else sent.best_of,
        cache_salt=sent.cache_salt or "",
        affinity=sent.prompt_cache_key or sent.user or "",
    )
    served = served_model(sent.model, context)
    head = _head(sent, context, "cmpl", served, logprobs=sent.logprobs is not None)
    requests = [first, *(msgspec.structs.replace(first, prompt=prompt) for prompt in prompts[1:])]
    return _decoded(sent, requests, head, OpenAITextResponseBuilder(head), {})


def reasoning_effort(sent: str | None) -> ReasoningEffort | None:
    """Convert an effort. Those above `high` count as it, which is the highest here."""
    match sent:
        case "none" | "minimal" | "low" | "medium":
            return sent
        case None:
            return None
    return "high"


def verbosity(sent: wire.SentVerbosity | None) -> Verbosity | None:
    """Convert a verbosity; None: the default, which is `medium`."""
    return None if sent == "medium" else sent


def priority_of(tier: str | None) -> int:
    """Return the priority of a service tier."""
    return TIER_PRIORITIES.get(tier or "", DEFAULT_PRIORITY)


def model_card(model: ServedModel, name: str, started: int) -> wire.ModelCard:
    """Return a model under the name that the client used; `started` is the time of models from the settings."""
    return wire.ModelCard(name, "model", model.created_at or started, "dragoman")


def _check_new(
    sent: wire.CompletionRequest, body: bytes, context: DecodeContext, unsupported: UnsupportedFields
) -> None:
    """Check what a restored request, which may have been admitted by a version that refused less, need not fulfil."""
    if context.find_model is None:
        return
    unsupported.check(body)
    if sent.stream_options is not None and not sent.stream:
        raise BadRequest("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")


def _sampling(sent: wire.CompletionRequest, max_tokens: int | None) -> SamplingParams:
    return sampling_params(
        sent,
        max_tokens=max_tokens,
        temperature=sent.temperature,
        top_p=sent.top_p,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
    )


def _tools(sent: wire.ChatRequest, violations: list[Violation]) -> ToolOptions | None:
    choice = sent.tool_choice
    parallel = sent.parallel_tool_calls
    if not isinstance(choice, wire.AllowedToolChoice):
        return parse_tools(sent.tools, choice, violations, parallel=parallel)
    if choice.type == "function" and choice.function is not None:
        named = NamedTool("function", choice.function)
        return parse_tools(sent.tools, named, violations, parallel=parallel)
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        return parse_tools(sent.tools, choice.allowed_tools, violations, parallel=parallel)
    violations.append(Violation(("tool_choice", choice.type), MissingField()))
    return None


def _head(
    sent: wire.CompletionRequest, context: DecodeContext, kind: str, served: ServedModel | None, *, logprobs: bool
) -> ResponseHead:
    return response_head(
        context,
        kind,
        sent.model,
        sent.stream_options,
        logprobs=logprobs,
        absent_logprobs=None,
        fingerprint=fingerprint_of(served, context),
    )


def _decoded(
    sent: wire.CompletionRequest,
    requests: list[GenerationRequest],
    head: ResponseHead,
    builder: OpenAIChatResponseBuilder | OpenAITextResponseBuilder,
    field_names: dict[str, str],
) -> DecodedRequest:
    return DecodedRequest(
        requests=requests,
        stream=sent.stream,
        builder=builder,
        field_names=field_names,
        extra_arguments=head.stored_arguments,
        priority=requests[0].priority,
    )
