"""Every field of OpenAI's, vLLM's and LiteLLM's request classes does on infermatic's routes what docs/dialects.md says.

The echo engine answers: it repeats the last message or the prompt, so what only changes probabilities does not show.
"""

import typing
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai.types import completion_create_params as openai_text
from openai.types.chat import completion_create_params as openai_chat

from tests.support.apps import client_of, echo_app, running_app
from tools.request_classes import CHAT, OPENAI_CHAT, OPENAI_TEXT, TEXT, WITHOUT_EFFECT, Route, struct_fields

ROUTES = [CHAT, TEXT]
PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"model": "echo", "messages": [{"role": "user", "content": "abcab"}]},
    "text": {"model": "echo", "prompt": "abcab"},
}
CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
FUNCTION = {"name": "now"}
TOOL = {"type": "function", "function": FUNCTION}

LOGPROBS = object()
"""Stands for what asks for log-probabilities: true on the chat route, a number on the text route."""

VISIBLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": ("acme/parrot", {}),
    "messages": ([{"role": "user", "content": "x"}], {}),
    "prompt": ("x", {}),
    "max_tokens": (2, {}),
    "max_completion_tokens": (2, {}),
    "min_tokens": (8, {}),
    "n": (2, {}),
    "best_of": (2, {}),
    "stop": ("c", {}),
    "stop_token_ids": ([99], {}),
    "include_stop_str_in_output": (True, {"stop": "c"}),
    "ignore_eos": (True, {"max_tokens": 8}),
    "stream": (True, {}),
    "stream_options": ({"include_usage": True}, {"stream": True}),
    "logprobs": (LOGPROBS, {}),
    "top_logprobs": (1, {"logprobs": LOGPROBS}),
    "echo": (True, {"messages": [{"role": "assistant", "content": "abcab"}]}),
    "allowed_token_ids": ([97, 256], {}),
    "bad_words": (["ca"], {}),
    "truncate_prompt_tokens": (3, {}),
    "truncation_side": ("right", {"truncate_prompt_tokens": 3, "return_token_ids": True}),
    "prompt_logprobs": (1, {}),
    "return_token_ids": (True, {}),
    "return_tokens_as_token_ids": (True, {"logprobs": LOGPROBS}),
    "tools": ([TOOL], {"messages": [{"role": "user", "content": CALL}]}),
    "tool_choice": ("none", {"messages": [{"role": "user", "content": CALL}], "tools": [TOOL]}),
    "functions": ([FUNCTION], {"messages": [{"role": "user", "content": CALL}]}),
    "function_call": ("none", {"messages": [{"role": "user", "content": CALL}], "functions": [FUNCTION]}),
    "drop_params": (True, {"use_beam_search": True}),
    # The echo engine refuses what constrains its answer, and templates.
    "response_format": ({"type": "json_object"}, {}),
    "structured_outputs": ({"regex": "a"}, {}),
    "guided_json": ({}, {}),
    "guided_regex": ("a", {}),
    "guided_choice": (["a"], {}),
    "guided_grammar": ('start: "a"', {}),
    "chat_template": ("x", {}),
    "chat_template_kwargs": ({"x": 1}, {}),
    "continue_final_message": (True, {"add_generation_prompt": True}),
    "add_generation_prompt": (True, {"continue_final_message": True}),
}
"""Field → a value, and other fields: with them, the answers with and without the field differ."""

INVISIBLE = {
    # Probabilities.
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "seed"),
    # Special tokens, of which the echo engine has only one, without text.
    *("skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens"),
    # Templates and reasoning.
    *("reasoning_effort", "include_reasoning", "documents"),
    # Order, records, shared prefixes, and the number of calls.
    *("priority", "user", "prompt_cache_key", "cache_salt", "parallel_tool_calls"),
}
"""Honoured fields that a repeated answer does not show."""

ANY_TYPE: list[Any] = ["text", 5, 0.5, True, {"a": 1}, [1], [{"b": 2}]]


every_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = echo_app()
    async with running_app(app), client_of(app) as client:
        yield client


async def answer(client: httpx.AsyncClient, route: Route, **fields: Any) -> tuple[int, str]:
    """Return the status and the body of an answer, without what differs each time."""
    body = BODIES[route.name] | fields
    logprobs = True if route is CHAT else 1
    body = {name: logprobs if value is LOGPROBS else value for name, value in body.items()}
    response = await client.post(PATHS[route.name], json=body)
    document = response.text
    for member in ("id", "created"):
        if response.headers["content-type"] == "application/json" and member in response.json():
            document = document.replace(str(response.json()[member]), "")
    return response.status_code, document


def parameter(document: str) -> str | None:
    """Return the field that an error names."""
    error = httpx.Response(200, text=document).json().get("error")
    return None if error is None else error["param"]


def fields_with(route: Route, status: str) -> list[str]:
    """Return the fields with this status."""
    return [field for field in route.fields if route.status(field).status == status]


def test_the_lists_have_every_field_of_the_openai_package() -> None:
    classes = (openai_chat.CompletionCreateParamsBase, openai_text.CompletionCreateParamsBase)
    for listed, kind in zip((OPENAI_CHAT, OPENAI_TEXT), classes, strict=True):
        assert sorted(listed) == sorted({*typing.get_type_hints(kind), "stream"})


def test_every_listed_field_has_one_status_and_no_exception_is_left_over() -> None:
    for route in ROUTES:
        assert {route.status(field).status for field in route.fields} == {"honoured", "refused", "without effect"}
        assert not set(route.unsupported) - set(route.fields)
        assert not set(route.unsupported) & set(struct_fields(route.struct))
    assert not set(WITHOUT_EFFECT) - {*CHAT.fields, *TEXT.fields}
    assert not set(WITHOUT_EFFECT) & {*struct_fields(CHAT.struct), *struct_fields(TEXT.struct)}


def test_every_honoured_field_is_looked_for_in_the_answer_or_known_not_to_show() -> None:
    honoured = {field for route in ROUTES for field in route.fields if route.status(field).status == "honoured"}
    assert honoured == set(VISIBLE) | INVISIBLE
    assert not set(VISIBLE) & INVISIBLE


@every_route
async def test_an_honoured_field_is_read_and_changes_the_answer_where_that_shows(
    client: httpx.AsyncClient, route: Route
) -> None:
    for field in fields_with(route, "honoured"):
        refused = [await answer(client, route, **{field: value}) for value in ANY_TYPE]
        named = [parameter(document) or "" for status, document in refused if status == 400]
        assert field in named, "a value of a wrong type is refused by name"
        if field in INVISIBLE:
            continue
        value, others = VISIBLE[field]
        without, with_field = [await answer(client, route, **(others | more)) for more in ({}, {field: value})]
        assert without != with_field, field


@every_route
async def test_a_refused_field_is_named_unless_its_value_has_no_effect(client: httpx.AsyncClient, route: Route) -> None:
    plain = await answer(client, route)
    assert plain[0] == 200
    for field in fields_with(route, "refused"):
        for value in (None, *route.status(field).accepted):
            assert await answer(client, route, **{field: value}) == plain
        for value in ("some", ["some"], {"some": "value"}):
            status, document = await answer(client, route, **{field: value})
            assert (status, parameter(document)) == (400, field)
            if field in route.unsupported:
                assert f"litellm.BadRequestError: {field} is not supported by this server" in document
                assert await answer(client, route, **{field: value, "drop_params": True}) == plain


@every_route
async def test_a_field_without_effect_changes_nothing(client: httpx.AsyncClient, route: Route) -> None:
    plain = await answer(client, route)
    for field in fields_with(route, "without effect"):
        for value in [True, False] if field in struct_fields(route.struct) else ANY_TYPE:
            assert await answer(client, route, **{field: value}) == plain, field
