"""Decodes this dialect's requests, and renders models and adapters."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dragoman.core.adapters import AdapterSource, AdapterSpec, RegisteredAdapter
from dragoman.core.errors import (
    ModelNotFound,
)
from dragoman.core.limits import check_sampling
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, SamplingParams
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import (
    InvalidFields,
    InvalidValue,
    Problem,
    Violation,
    WrongType,
    decode_body,
    raise_violations,
)
from dragoman.dialects.openai.parse import parse_messages, parse_tools
from dragoman.dialects.openai.response_builder import OpenAIChatResponseBuilder, response_head
from dragoman.dialects.openai.wire import ChatMessage, ModelCard, ModelList
from dragoman.dialects.vendors.empower import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class AdapterRegistration(NamedTuple):
    """An adapter to register."""

    spec: AdapterSpec
    token: str | None
    """For the hub. Not part of `spec`, which may be stored."""


def decode_chat(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a chat completion of one conversation or several prompts. Raises BadRequest for the first mistake."""
    # messages is the first field, so its mistakes are reported before those of the others.
    prompts = _prompts(decode_body(body, wire.ChatMessages).messages)
    sent = decode_body(body, wire.ChatRequest)
    choice = "required" if sent.tool_choice == "any" else sent.tool_choice
    violations: list[Violation] = []
    tools = parse_tools(sent.tools, choice, violations)
    raise_violations(violations)
    params = SamplingParams(
        max_tokens=sent.max_tokens,
        temperature=sent.temperature,
        top_p=sent.top_p,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        ignore_eos=sent.ignore_eos,
    )
    sampling = check_sampling(params)
    requests = [
        GenerationRequest(
            model=sent.model, prompt=ChatPrompt(messages=prompt, tools=tools), sampling=sampling, n=sent.n
        )
        for prompt in prompts
    ]
    head = response_head(context, "chatcmpl", sent.model, sent.stream_options, absent_logprobs=None)
    builder = OpenAIChatResponseBuilder(head)
    return DecodedRequest(requests=requests, stream=sent.stream, builder=builder, field_names={"prompt": "messages"})


def decode_adapter(body: bytes) -> AdapterRegistration:
    """Decode an adapter to register. Raises BadRequest for the first mistake."""
    sent = decode_body(body, wire.AdapterRequest)
    if sent.model_source == "HF_HUB":
        source = AdapterSource("hub", sent.model_name, None if sent.hf_revision == "main" else sent.hf_revision)
    else:
        source = AdapterSource("local", sent.model_name)
    return AdapterRegistration(AdapterSpec(sent.name or sent.model_name, source, sent.base_model_name), sent.hf_token)


def adapter_body(registered: RegisteredAdapter) -> bytes:
    """Return an adapter as JSON."""
    adapter, source = registered.adapter, registered.adapter.source
    from_hub = source.kind == "hub"
    deployment = wire.AdapterDeployment(
        base_model_name=registered.base,
        created_at=adapter.created_at,
        creator=wire.Creator(api_key=wire.ApiKey(adapter.creator)),
        hf_revision=(source.revision or "main") if from_hub else None,
        model_name=source.name,
        model_source="HF_HUB" if from_hub else "LOCAL",
    )
    return _encode(wire.AdapterBody(deployment, adapter.name, unit_price=0))


def base_model(name: str, model: ServedModel | None, created: int) -> bytes:
    """Return the model that was found by this name as JSON. Raises ModelNotFound unless it is a base model."""
    if model is None or model.base is not None:
        raise ModelNotFound(name)
    deployment = wire.ActiveDeployment(created, wire.Creator(), model.id, "HF_HUB")
    return _encode(wire.BaseModelBody(deployment, name, unit_price=0))


def model_list(models: list[ServedModel], created: int) -> bytes:
    """Return all models in OpenAI's shape; `created` is the time of models from the settings."""
    cards = [ModelCard(model.id, "model", model.created_at or created, "dragoman") for model in models]
    return _encode(ModelList("list", cards))


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
    violations: list[Violation] = []
    single_prompts: list[tuple[Message, ...]] = [(Message(role="user", content=text),) for text in texts]
    prompts = single_prompts or [parse_messages(conversation, violations)]
    raise_violations(violations)
    return prompts


def _invalid_messages(problem: Problem) -> InvalidFields:
    return InvalidFields([Violation(("messages",), problem)])
