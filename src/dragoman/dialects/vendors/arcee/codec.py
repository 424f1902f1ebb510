"""Decodes this dialect's requests, and lists models."""

import time
from collections.abc import Callable, Iterable

import msgspec

from dragoman.core.errors import (
    ModelNotFound,
)
from dragoman.core.limits import MAX_LOGIT_BIAS_ENTRIES, MAX_SEED
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, GenerationRequest, SamplingParams
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.context import bearer_key
from dragoman.dialects.http.validation import (
    InvalidValue,
    Violation,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.parse import (
    is_token_id,
    parse_messages,
    parse_response_format,
    parse_tools,
    served_model,
    stop_strings,
)
from dragoman.dialects.openai.response_builder import OpenAIChatResponseBuilder, fingerprint_of, response_head
from dragoman.dialects.openai.wire import ChatMessage
from dragoman.dialects.vendors.arcee import wire

SAMPLING_PARAMETERS = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "logprobs",
    "top_logprobs",
)
"""The parameters that the model list names as supported."""

FEATURES = ("tools", "json_mode", "structured_outputs", "logprobs")
"""The features of every model in the list; reasoning models have `reasoning` too."""

read_key = bearer_key
"""No other header and no other scheme is accepted. Keys need not have the prefix of the service's own."""

_PROCESS_STARTED = int(time.time())

_MAX_INT64 = 2**63 - 1
"""Larger lengths and ranks mean the same, and engines count in 64 bits."""

_FIELD_NAMES = {"prompt": "messages"}

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ReasoningChatResponseBuilder(OpenAIChatResponseBuilder):
    """Builds chat completions in which reasoning has a member of its own."""

    shows_reasoning = True


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion. Raises BadRequest or ModelNotFound."""
    sent = decode_body(body, wire.ChatRequest)
    violations: list[Violation] = []
    messages = parse_messages(sent.messages, violations)
    _check_tool_results(sent.messages, violations)
    if sent.logit_bias:
        _check_logit_bias(sent.logit_bias, violations)
    tools = parse_tools(sent.tools, sent.tool_choice, violations, parallel=sent.parallel_tool_calls)
    response_format = parse_response_format(sent.response_format, violations)
    if sent.top_logprobs and not sent.logprobs:
        violations.append(Violation(("top_logprobs",), InvalidValue("top_logprobs needs logprobs to be true")))
    raise_violations(violations)
    served = served_model(sent.model, context)
    if served is None and context.find_model is not None:
        raise ModelNotFound(sent.model)
    request = GenerationRequest(
        model=sent.model,
        prompt=ChatPrompt(messages=messages, tools=tools, reasoning_effort=sent.reasoning_effort),
        sampling=_sampling(sent),
        n=sent.n,
        response_format=response_format,
        logprobs=sent.top_logprobs if sent.logprobs else None,
    )
    head = response_head(
        context,
        "chatcmpl",
        sent.model,
        sent.stream_options,
        logprobs=sent.logprobs,
        fingerprint=fingerprint_of(served, context),
    )
    return DecodedRequest(
        requests=[request],
        stream=sent.stream,
        builder=ReasoningChatResponseBuilder(head),
        field_names=_FIELD_NAMES,
        extra_arguments=head.stored_arguments,
    )


def model_list(models: Iterable[ServedModel]) -> bytes:
    """Return the models in the service's own shape, as JSON."""
    return _encode(wire.ModelList([_model_card(model) for model in models]))


def _check_tool_results(messages: Iterable[ChatMessage], violations: list[Violation]) -> None:
    """Check that every tool result is for a call in an earlier message."""
    call_ids: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in call_ids:
            problem = InvalidValue("Input should be the id of a tool call in an earlier assistant message")
            violations.append(Violation(("messages", index, "tool_call_id"), problem))
        call_ids.update(call.id for call in message.tool_calls or ())


def _check_logit_bias(logit_bias: dict[str, float], violations: list[Violation]) -> None:
    if len(logit_bias) > MAX_LOGIT_BIAS_ENTRIES:
        message = f"Input should have at most {MAX_LOGIT_BIAS_ENTRIES} entries, got {len(logit_bias)}"
        violations.append(Violation(("logit_bias",), InvalidValue(message)))
        return
    problem = InvalidValue("Keys should be token ids")
    violations += [Violation(("logit_bias", token[:40]), problem) for token in logit_bias if not is_token_id(token)]


def _sampling(sent: wire.ChatRequest) -> SamplingParams:
    max_tokens = sent.max_tokens if sent.max_completion_tokens is None else sent.max_completion_tokens
    return SamplingParams(
        max_tokens=None if max_tokens is None else min(max_tokens, _MAX_INT64),
        temperature=sent.temperature,
        top_k=min(sent.top_k, _MAX_INT64),
        top_p=sent.top_p,
        min_p=sent.min_p,
        repetition_penalty=sent.repetition_penalty,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        logit_bias={int(token): bias for token, bias in sent.logit_bias.items()} if sent.logit_bias else {},
        seed=None if sent.seed is None else sent.seed & MAX_SEED,  # negative ones are read as unsigned
        stop=stop_strings(sent.stop),
    )


def _model_card(model: ServedModel) -> wire.ModelCard:
    return wire.ModelCard(
        id=model.id,
        hugging_face_id=_hugging_face_id(model),
        name=model.id,
        created=_PROCESS_STARTED,
        context_length=model.context_length or 0,
        max_output_length=model.context_length or 0,
        supported_sampling_parameters=SAMPLING_PARAMETERS,
        supported_features=(*FEATURES, "reasoning") if model.supports_reasoning else FEATURES,
    )


def _hugging_face_id(model: ServedModel) -> str:
    """Return the repository among the names of a model from Hugging Face; others have no name with a slash."""
    names = (model.id, *model.aliases)
    return next((name for name in names if name.count("/") == 1 and ":" not in name), "")
