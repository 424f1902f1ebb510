"""What OpenAI's parameters mean to an engine."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, GenerationRequest, ImagePart, TextPrompt, ToolOptions
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import InvalidFields
from dragoman.dialects.openai.codec import decode_chat, decode_text
from dragoman.dialects.vendors.infermatic.codec import decode_chat as infermatic_decode_chat
from tests.support.dialects.decode_contexts import decode_context

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("read", "write")]


def chat(**fields: Any) -> GenerationRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return decode_chat(json.dumps(body).encode(), decode_context()).requests[0]


def text(**fields: Any) -> list[GenerationRequest]:
    body = {"model": "m", "prompt": "Hi", **fields}
    return list(decode_text(json.dumps(body).encode(), decode_context()).requests)


def tools_of(request: GenerationRequest) -> ToolOptions:
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.tools is not None
    return request.prompt.tools


def test_the_defaults_are_openais() -> None:
    [request] = text()
    assert (request.sampling.max_tokens, chat().sampling.max_tokens) == (16, None)
    assert (request.sampling.temperature, request.sampling.top_p, request.n) == (1, 1, 1)


def test_the_newer_name_of_the_limit_precedes_the_older() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).sampling.max_tokens == 7


@pytest.mark.parametrize(
    ("tier", "priority"),
    [(None, 128), ("default", 128), ("priority", 64), ("fast", 64), ("ultrafast", 64), ("flex", 192)],
)
def test_a_service_tier_is_a_priority(tier: str | None, priority: int) -> None:
    assert chat(service_tier=tier).priority == priority


def test_allowed_tools_leave_all_tools_in_the_prompt() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "write"}}]}
    options = tools_of(chat(tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}))
    assert [tool.name for tool in options.tools] == ["read", "write"]
    assert ([tool.name for tool in options.callable_tools], options.choice) == (["write"], "required")


@pytest.mark.parametrize("choice", ["none", "auto", None])
def test_a_choice_of_the_older_form_without_functions_has_no_effect(choice: str | None) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "function_call": choice, "functions": []}
    prompt = decode_chat(json.dumps(body).encode(), decode_context([])).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools is None
    with pytest.raises(BadRequest, match="functions is not supported"):
        decode_chat(json.dumps(body | {"functions": [{"name": "now"}]}).encode(), decode_context([]))


def test_a_named_tool_is_chosen() -> None:
    choice = {"type": "function", "function": {"name": "read"}}
    assert tools_of(chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)).name == "read"


def test_a_choice_without_its_member_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"tool_choice\.function"):
        chat(tools=TOOLS, tool_choice={"type": "function"})


def test_several_prompts_are_several_requests() -> None:
    assert [request.prompt for request in text(prompt=["a", "b"])] == [TextPrompt("a"), TextPrompt("b")]


@pytest.mark.parametrize("fields", [{"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}, {"max_tokens": 0}])
def test_texts_that_cannot_be_answered_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        text(**fields)


def test_a_negative_seed_is_read_as_an_unsigned_one() -> None:
    assert chat(seed=-1).sampling.seed == 2**64 - 1


@pytest.mark.parametrize(("sent", "effort"), [("minimal", "minimal"), ("xhigh", "high"), ("max", "high"), (None, None)])
def test_efforts_above_high_count_as_high(sent: str | None, effort: str | None) -> None:
    request = chat(reasoning_effort=sent)
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.reasoning_effort == effort


@pytest.mark.parametrize("decode", [decode_chat, infermatic_decode_chat])
@pytest.mark.parametrize(("sent", "passed_on"), [("low", "low"), ("high", "high"), ("medium", None), (None, None)])
def test_a_verbosity_other_than_the_default_is_passed_on(
    decode: Callable[[bytes, DecodeContext], DecodedRequest], sent: str | None, passed_on: str | None
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "verbosity": sent}
    prompt = decode(json.dumps(body).encode(), decode_context([])).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.verbosity == passed_on


@pytest.mark.parametrize(("takes_verbosity", "passed_on"), [(True, "low"), (False, None)])
def test_drop_params_drops_a_verbosity_that_the_model_does_not_take(
    takes_verbosity: bool, passed_on: str | None
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "verbosity": "low", "drop_params": True}
    served = ServedModel(id="m", aliases=(), context_length=None, takes_verbosity=takes_verbosity)
    prompt = infermatic_decode_chat(json.dumps(body).encode(), decode_context([served])).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.verbosity == passed_on


@pytest.mark.parametrize("decode", [decode_chat, infermatic_decode_chat])
def test_a_chat_takes_images_for_models_that_do(decode: Callable[[bytes, DecodeContext], DecodedRequest]) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [image]}]}).encode()
    seeing = ServedModel(id="m", aliases=(), context_length=None, takes_images=True)
    [request] = decode(body, decode_context([seeing])).requests
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.messages[0].images == (ImagePart("data:image/png;base64,AA"),)
    with pytest.raises(InvalidFields) as caught:
        decode(body, decode_context([ServedModel(id="m", aliases=(), context_length=None)]))
    assert [violation.path for violation in caught.value.violations] == [("messages", 0, "content", 0, "type")]
