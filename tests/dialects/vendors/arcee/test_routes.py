"""The dialect over HTTP, in front of the echo engine: it answers with the last message, byte by byte."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from dragoman.core.context import key_digest
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.vendors.arcee import routes, vendor_routes
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog, Deployment
from tests.support.dialects.scripted_engine import failing_engine

CHAT = "/api/v1/chat/completions"
MODELS = "/api/v1/models"
USAGE = {f"/api/v1/usage/{name}" for name in ("credits", "stats", "summary")}
HELLO: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hello"}]}
KEY = "sk-0123456789abcdef"
OPTIONS = HttpOptions(max_body_bytes=10_000, keep_alive_seconds=15)


def gateway_of(engine: Engine, keys: Sequence[str] = ()) -> Gateway:
    catalog = Catalog([Deployment.of("echo", ("parrot",), engine)])
    return Gateway(catalog, RequestMetrics(CollectorRegistry()), StaticKeyAuthenticator(map(key_digest, keys)))


def client_of(gateway: Gateway) -> httpx.AsyncClient:
    app = Starlette(routes=routes(gateway, OPTIONS))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(EchoEngine())) as client:
        yield client


def detail_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["detail"]
    return body["detail"]


def paths(own: bool) -> set[str]:
    gateway = gateway_of(EchoEngine())
    return {route.path for route in (vendor_routes if own else routes)(gateway, OPTIONS) if isinstance(route, Route)}


def test_beside_other_dialects_all_paths_begin_with_api() -> None:
    assert paths(own=False) == {CHAT, MODELS, *USAGE}


def test_on_a_host_of_its_own_the_same_routes_exist_under_v1_too() -> None:
    all_paths = {CHAT, MODELS, *USAGE}
    jobs = {"/queue/response/{id}"}
    assert paths(own=True) == all_paths | {path.removeprefix("/api") for path in all_paths} | jobs


async def test_on_a_host_of_its_own_both_paths_answer_equally() -> None:
    app = Starlette(routes=vendor_routes(gateway_of(EchoEngine()), OPTIONS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        for prefix in ("/api/v1", "/v1"):
            answer = (await client.post(f"{prefix}/chat/completions", json=HELLO)).json()
            assert answer["choices"][0]["message"]["content"] == "Hello"
            assert (await client.get(f"{prefix}/models")).json()["data"][0]["id"] == "echo"


async def test_a_chat_is_answered_in_openais_shape(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO)
    answer = response.json()
    assert answer.pop("id") == f"chatcmpl-{response.headers['x-request-id']}"
    assert isinstance(answer.pop("created"), int)
    assert re.fullmatch(r"fp_[0-9a-f]{12}", answer.pop("system_fingerprint"))
    usage = answer.pop("usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (11, 6, 17)
    assert answer == {
        "object": "chat.completion",
        "model": "parrot",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
    }


async def test_several_choices_are_counted_with_one_prompt(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json=HELLO | {"n": 3, "max_completion_tokens": 2, "max_tokens": 4})).json()
    assert [(choice["index"], choice["message"]["content"]) for choice in answer["choices"]] == [
        (0, "He"),
        (1, "He"),
        (2, "He"),
    ]
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (11, 6)


async def test_a_stop_string_is_not_part_of_the_answer(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json=HELLO | {"stop": ["lo", "zz"]})).json()
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("Hel", "stop")


async def streamed(client: httpx.AsyncClient, **fields: object) -> list[dict[str, Any]]:
    """Return the chunks of a complete stream."""
    response = await client.post(CHAT, json=HELLO | {"stream": True} | fields)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, end = response.text.split("\n\n")
    assert (frames.pop(), end) == ("data: [DONE]", "")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert frames == [f"data: {json.dumps(chunk, separators=(',', ':'))}" for chunk in chunks]
    return chunks


async def test_a_stream_begins_with_the_role_and_ends_with_reason_usage_and_done(client: httpx.AsyncClient) -> None:
    chunks = await streamed(client, max_tokens=2, stream_options={"include_usage": True})
    assert [chunk.pop("choices") for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "H"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "e"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "length"}],
        [],
    ]
    usage = chunks[-1].pop("usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (11, 2, 13)
    assert all(chunk == chunks[0] for chunk in chunks)
    assert set(chunks[0]) == {"id", "object", "created", "model", "system_fingerprint"}
    assert (chunks[0]["object"], chunks[0]["model"]) == ("chat.completion.chunk", "parrot")


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
async def test_a_stream_reports_usage_only_on_request(client: httpx.AsyncClient, options: object) -> None:
    chunks = await streamed(client, stream_options=options)
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]


async def test_whole_and_streamed_answers_have_one_fingerprint(client: httpx.AsyncClient) -> None:
    whole = (await client.post(CHAT, json=HELLO)).json()
    assert {chunk["system_fingerprint"] for chunk in await streamed(client)} == {whole["system_fingerprint"]}


async def test_a_failure_before_the_first_byte_of_a_stream_is_an_ordinary_error() -> None:
    async with client_of(gateway_of(failing_engine(0))) as client:
        detail = detail_of(await client.post(CHAT, json=HELLO | {"stream": True}), 500)
        assert detail == "An internal server error occurred while processing the request"


async def test_a_failure_after_it_is_a_last_frame_without_done() -> None:
    async with client_of(gateway_of(failing_engine(1))) as client:
        response = await client.post(CHAT, json=HELLO | {"stream": True})
    assert response.status_code == 200
    message = "An internal server error occurred while processing the request"
    assert response.text.endswith(
        f'\n\ndata: {{"error":{{"message":"{message}","type":"server_error","code":500}},"detail":"{message}"}}\n\n'
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_failure_returns_500(stream: bool) -> None:
    async with client_of(gateway_of(failing_engine(0 if stream else 2))) as client:
        response = await client.post(CHAT, json=HELLO | {"stream": stream})
    assert detail_of(response, 500) == "An internal server error occurred while processing the request"


async def test_a_missing_field_returns_400_and_a_wrong_value_422(client: httpx.AsyncClient) -> None:
    missing = await client.post(CHAT, json={"model": "parrot"})
    assert detail_of(missing, 400) == "Invalid request format: 'messages' is required"
    wrong = await client.post(CHAT, json=HELLO | {"temperature": 3})
    assert detail_of(wrong, 422) == [
        {"loc": ["body", "temperature"], "msg": "Input should be less than or equal to 2", "type": "less_than_equal"}
    ]


async def test_an_unknown_model_returns_422(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"model": "foo"})
    assert detail_of(response, 422) == [
        {"loc": ["body", "model"], "msg": "Model 'foo' not found", "type": "value_error"}
    ]
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_a_prompt_that_is_too_long_returns_422(client: httpx.AsyncClient) -> None:
    long = [{"role": "user", "content": "x" * 8994}]
    [detail] = detail_of(await client.post(CHAT, json=HELLO | {"messages": long, "stream": True}), 422)
    assert detail["loc"] == ["body", "messages"]
    assert detail["msg"].startswith("The prompt has 9000 tokens; the model's context length is 8192 tokens")


async def test_a_body_that_is_too_large_returns_413(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"x": "y" * 10_000})
    assert detail_of(response, 413) == "Request body is larger than 10000 bytes"


async def test_a_server_that_drains_returns_503() -> None:
    gateway = gateway_of(EchoEngine())
    gateway.drain()
    async with client_of(gateway) as client:
        response = await client.post(CHAT, json=HELLO)
    assert detail_of(response, 503) == "The server is overloaded, retry in 5 seconds"
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_the_body_is_json_with_any_content_type(client: httpx.AsyncClient, content_type: str) -> None:
    body = json.dumps(HELLO).encode()
    response = await client.post(CHAT, content=body, headers={"content-type": content_type})
    assert response.status_code == 200


async def test_models_are_listed_in_the_services_shape(client: httpx.AsyncClient) -> None:
    response = await client.get(MODELS)
    assert response.headers["content-type"] == "application/json"
    [card] = response.json()["data"]
    assert (card["id"], card["context_length"], card["pricing"]["prompt"]) == ("echo", 8192, "0")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_a_valid_key_is_accepted_on_both_routes(scheme: str) -> None:
    async with client_of(gateway_of(EchoEngine(), [KEY])) as client:
        headers = {"authorization": f"{scheme} {KEY}"}
        assert (await client.post(CHAT, json=HELLO, headers=headers)).status_code == 200
        assert (await client.get(MODELS, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer sk-fedcba9876543210"},
        {"authorization": f"Bearer rcai-{KEY}"},
        {"x-api-key": KEY},
    ],
)
async def test_every_route_rejects_an_unknown_key(headers: dict[str, str]) -> None:
    async with client_of(gateway_of(EchoEngine(), [KEY])) as client:
        for response in (
            await client.post(CHAT, content=b"no json", headers=headers),
            await client.get(MODELS, headers=headers),
        ):
            detail = detail_of(response, 401)
            assert detail == "Authentication failed due to invalid or missing API key"
            assert response.headers["www-authenticate"] == "Bearer"


async def test_a_server_without_keys_requires_none(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO, headers={"authorization": "Basic whatever"})
    assert response.status_code == 200
