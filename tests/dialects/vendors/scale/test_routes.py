"""The dialect over HTTP, in front of the echo engine: it answers with the last message, or the prompt, byte by byte."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from dragoman.core.context import key_digest
from dragoman.dialects.vendors.scale.routes import TRIMMED_HEADER
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from tests.support.dialects.scale_app import (
    CHAT,
    DEPLOYMENT_CHAT,
    DEPLOYMENT_TEXT,
    HELLO,
    MAX_BODY_BYTES,
    TEXT,
    client_of,
    detail_of,
    gateway_of,
    response_text,
)
from tests.support.dialects.scripted_engine import failing_engine

KEY = "sk-0123456789abcdef"
POSTS = [DEPLOYMENT_CHAT, DEPLOYMENT_TEXT, CHAT, TEXT]
GETS = ["/v4/models", "/v4/models/echo", "/v4/model-deployments"]


@pytest.fixture
async def keyed_client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(EchoEngine(), StaticKeyAuthenticator([key_digest(KEY)]))) as client:
        yield client


@pytest.mark.parametrize("path", POSTS)
async def test_a_prompt_is_answered_on_all_four_routes(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=HELLO)
    assert response_text(response) == "Hello"
    assert len(response.headers["x-request-id"]) == 32
    assert TRIMMED_HEADER not in response.headers


async def test_the_answer_of_a_deployment_has_exactly_the_documented_bytes(client: httpx.AsyncClient) -> None:
    sent = {"chat_history": [{"content": "Hi"}], "prompt": "Hello"}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    prompt_tokens = len("user: Hi\nuser: Hello")
    assert response.text == (
        '{"completions":[["Hello",["Hello"]]],"choices":null,"finish_reason":"stop",'
        f'"prompt_tokens":{prompt_tokens},"response_tokens":6}}'
    )


async def test_the_answer_of_a_text_deployment_has_the_same_shape(client: httpx.AsyncClient) -> None:
    response = await client.post(DEPLOYMENT_TEXT, json={"prompt": "Once", "max_tokens": 2})
    assert response.text == (
        '{"completions":[["Once",["On"]]],"choices":null,"finish_reason":"length",'
        '"prompt_tokens":4,"response_tokens":2}'
    )


async def test_the_answers_of_the_sibling_routes_have_the_documented_bytes(client: httpx.AsyncClient) -> None:
    assert (await client.post(CHAT, json=HELLO)).text == (
        '{"chat_completion":{"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"},'
        '"token_usage":{"prompt":11,"completion":6,"total":17}}'
    )
    assert (await client.post(TEXT, json=HELLO)).text == (
        '{"completion":{"text":"Hello","finish_reason":"stop","response_metadata":null},'
        '"token_usage":{"prompt":5,"completion":6,"total":11}}'
    )


@pytest.mark.parametrize("path", [DEPLOYMENT_CHAT, DEPLOYMENT_TEXT])
async def test_the_stream_of_a_deployment_has_exactly_these_frames(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=HELLO | {"prompt": "aé", "stream": True})
    prompt_tokens = len("user: aé".encode()) if path == DEPLOYMENT_CHAT else len("aé".encode())
    beginning = 'data: {"completions":[["aé",["'
    assert response.text == (
        f'{beginning}a"]]],"choices":null,"finish_reason":null,"prompt_tokens":0,"response_tokens":0}}\n\n'
        f'{beginning}é"]]],"choices":null,"finish_reason":null,"prompt_tokens":0,"response_tokens":0}}\n\n'
        f'{beginning}"]]],"choices":null,"finish_reason":"stop","prompt_tokens":{prompt_tokens},"response_tokens":4}}\n\n'
    )
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"


async def test_the_streams_of_the_sibling_routes_have_exactly_these_frames(client: httpx.AsyncClient) -> None:
    sent = {"model": "acme/parrot", "messages": [{"content": "a"}], "prompt": "a", "stream": True}
    opening = 'data: {"chat_completion":{"message":{"role":"assistant","content":'
    assert (await client.post(CHAT, json=sent)).text == (
        f'{opening}"a"}},"finish_reason":null}},"token_usage":null}}\n\n'
        f'{opening}""}},"finish_reason":"stop"}},"token_usage":{{"prompt":7,"completion":2,"total":9}}}}\n\n'
    )
    assert (await client.post(TEXT, json=sent)).text == (
        'data: {"completion":{"text":"a","finish_reason":null,"response_metadata":null},"token_usage":null}\n\n'
        'data: {"completion":{"text":"","finish_reason":"stop","response_metadata":null},'
        '"token_usage":{"prompt":1,"completion":2,"total":3}}\n\n'
    )


async def test_parameters_reach_the_engine(client: httpx.AsyncClient) -> None:
    stopped = await client.post(DEPLOYMENT_CHAT, json=HELLO | {"stop_sequences": ["lo"]})
    assert (response_text(stopped), stopped.json()["finish_reason"]) == ("Hel", "stop")
    endless = {"max_tokens": 8, "model_request_parameters": {"bindings": {"ignore_eos": True}}}
    assert response_text(await client.post(DEPLOYMENT_TEXT, json=HELLO | endless)) == "HelloHe"
    assert response_text(await client.post(CHAT, json=HELLO | {"model_parameters": {"max_tokens": 2}})) == "He"


@pytest.mark.parametrize("name", ["echo", "acme/parrot", "acme%2Fparrot"])
async def test_the_deployment_in_the_path_may_have_slashes(client: httpx.AsyncClient, name: str) -> None:
    for route in ("chat-completions", "completions"):
        assert response_text(await client.post(f"/v4/models/{name}/{route}", json=HELLO)) == "Hello"


@pytest.mark.parametrize(
    "name", ["foo", "Echo", "acme", "acme%2Ffoo", "completions", "a/chat-completions", "a/completions"]
)
async def test_an_unknown_deployment_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    detail = f"Model deployment '{name.replace('%2F', '/')}' not found"
    for route in ("chat-completions", "completions"):
        assert detail_of(await client.post(f"/v4/models/{name}/{route}", json=HELLO), 404) == detail


async def test_an_unknown_model_in_the_body_is_not_found(client: httpx.AsyncClient) -> None:
    for path in (CHAT, TEXT):
        detail = detail_of(await client.post(path, json=HELLO | {"model": "foo", "stream": True}), 404)
        assert detail == "Model deployment 'foo' not found"


async def test_the_shape_is_checked_before_the_model(client: httpx.AsyncClient) -> None:
    detail_of(await client.post("/v4/models/foo/completions", json={}), 422)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body", [b"", b"prompt=Hello", b"[]", b'"Hello"', b'{"prompt": "Hello"', b'{"temperature": NaN}']
)
async def test_a_body_that_is_not_a_json_object_is_rejected(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    assert detail_of(await client.post(path, content=body), 400) == "Request body is not valid JSON"


async def test_violations_have_the_documented_messages(client: httpx.AsyncClient) -> None:
    sent = {"max_tokens": "1", "stop_sequences": list("abcde"), "chat_history": []}
    assert detail_of(await client.post(DEPLOYMENT_CHAT, json=sent), 422) == [
        {"loc": ["body", "stop_sequences"], "msg": "List should have at most 4 items, got 5", "type": "too_long"},
        {"loc": ["body", "max_tokens"], "msg": "Input should be a valid integer", "type": "int_type"},
        {"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"},
    ]


async def test_a_body_above_the_limit_is_too_large(client: httpx.AsyncClient) -> None:
    for path in POSTS:
        response = await client.post(path, json=HELLO | {"prompt": "x" * MAX_BODY_BYTES})
        assert detail_of(response, 413) == f"Request body is larger than {MAX_BODY_BYTES} bytes"


@pytest.mark.parametrize("path", [*POSTS, *GETS])
@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "Missing API key"),
        ({"x-api-key": ""}, "Missing API key"),
        ({"x-api-key": "sk-other"}, "Invalid API key"),
        ({"x-api-key": f"Bearer {KEY}"}, "Invalid API key"),
        ({"x-api-key": "sk-other", "authorization": f"Bearer {KEY}"}, "Invalid API key"),
        ({"authorization": "Bearer sk-other"}, "Invalid API key"),
        ({"authorization": f"Basic {KEY}"}, "Invalid API key"),
        ({"authorization": KEY}, "Invalid API key"),
    ],
)
async def test_every_route_rejects_an_unknown_key(
    keyed_client: httpx.AsyncClient, path: str, headers: dict[str, str], detail: str
) -> None:
    response = await keyed_client.request("GET" if path in GETS else "POST", path, headers=headers, content=b"no json")
    assert detail_of(response, 401) == detail
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", [*POSTS, *GETS])
@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY, "authorization": "Bearer sk-other"},
        {"x-api-key": KEY, "x-selected-account-id": "account"},
    ],
)
async def test_a_valid_key_is_accepted_on_every_route(
    keyed_client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    response = await keyed_client.request("GET" if path in GETS else "POST", path, headers=headers, json=HELLO)
    assert response.status_code == 200


async def test_an_engine_failure_hides_its_message() -> None:
    for deltas, stream in ((0, False), (1, False), (0, True)):
        async with client_of(gateway_of(failing_engine(deltas))) as client:
            for path in POSTS:
                response = await client.post(path, json=HELLO | {"stream": stream})
                assert detail_of(response, 500) == "An internal server error occurred"


async def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    async with client_of(gateway_of(failing_engine(1))) as client:
        for path in POSTS:
            response = await client.post(path, json=HELLO | {"stream": True})
            first, *last = response.text.split("\n\n")
            assert json.loads(first.removeprefix("data: "))
            assert last == ['event: error\ndata: {"detail":"An internal server error occurred"}', ""]


async def test_a_server_that_is_shutting_down_returns_retry_after() -> None:
    gateway = gateway_of(EchoEngine())
    gateway.drain()
    async with client_of(gateway) as client:
        for path in POSTS:
            response = await client.post(path, json=HELLO)
            assert detail_of(response, 503) == "The server is overloaded, retry in 5 seconds"
            assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v4/models"),
        ("PATCH", "/v4/models/echo"),
        ("DELETE", "/v4/models/echo"),
        ("POST", "/v4/models/echo/embeddings"),
        ("POST", "/v4/models/echo/rerankings"),
        ("POST", "/v4/models/echo/deployments/echo/execute"),
        ("GET", "/v4/beta/models"),
        ("GET", "/v5/models"),
        ("POST", "/v4/embeddings"),
    ],
)
async def test_what_is_not_served_is_not_found(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert (await client.request(method, path, json=HELLO)).status_code == 404


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_method_is_not_allowed_and_the_right_one_is_named(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
