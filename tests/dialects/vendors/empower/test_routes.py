"""The dialect over HTTP, in front of the echo engine: it answers with the last message, byte by byte."""

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.dialects.vendors.empower import vendor_routes
from tests.support.dialects.empower_app import (
    CHAT,
    HELLO,
    KEY,
    LOCAL_ADAPTER,
    LORA,
    MAX_BODY_BYTES,
    client_of,
    error_of,
    gateway_of,
    refused,
    texts,
)
from tests.support.dialects.scripted_engine import failing_engine

PREFIXES = ["/empower/api/v1", "/empower"]
OWN_PREFIXES = ["/api/v1", ""]


@pytest.fixture
async def own_client(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(folder=folder), vendor_routes) as client:
        yield client


def data_lines(body: str) -> list[str]:
    """Return the events of a stream, each of which is one line and an empty one."""
    assert re.fullmatch(r"(data: [^\n]+\n\n)+", body)
    return re.findall(r"data: ([^\n]+)\n\n", body)


async def check_all_routes(client: httpx.AsyncClient, prefix: str) -> None:
    assert texts(await client.post(f"{prefix}/chat/completions", json=HELLO)) == ["Hello"]
    assert (await client.post(f"{prefix}/lora", json=LOCAL_ADAPTER)).json()["name"] == "pirate"
    assert (await client.delete(f"{prefix}/lora/pirate")).json()["name"] == "pirate"
    assert (await client.get(f"{prefix}/base-model/parrot")).json()["name"] == "parrot"
    assert (await client.get(f"{prefix}/models")).json()["object"] == "list"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_all_routes_answer_under_both_prefixes(client: httpx.AsyncClient, prefix: str) -> None:
    await check_all_routes(client, prefix)


@pytest.mark.parametrize("prefix", OWN_PREFIXES)
async def test_all_routes_answer_on_the_vendors_own_paths(own_client: httpx.AsyncClient, prefix: str) -> None:
    await check_all_routes(own_client, prefix)


async def test_each_set_of_routes_is_without_the_other(
    client: httpx.AsyncClient, own_client: httpx.AsyncClient
) -> None:
    for prefix in OWN_PREFIXES:
        assert (await client.get(f"{prefix}/models")).status_code == 404
    for prefix in PREFIXES:
        assert (await own_client.get(f"{prefix}/models")).status_code == 404


@pytest.mark.parametrize(("path", "method"), [(CHAT, "GET"), (LORA, "GET"), ("/empower/models", "POST")])
async def test_another_method_is_not_allowed(client: httpx.AsyncClient, path: str, method: str) -> None:
    assert (await client.request(method, path)).status_code == 405


async def test_an_answer_has_openais_shape(client: httpx.AsyncClient) -> None:
    before = int(time.time())
    response = await client.post(CHAT, json=HELLO)
    answer = response.json()
    assert answer.pop("id") == "chatcmpl-" + response.headers["x-request-id"]
    assert before <= answer.pop("created") <= time.time()
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
        "usage": {
            "prompt_tokens": len("user: Hello"),
            "completion_tokens": len("Hello") + 1,
            "total_tokens": len("user: HelloHello") + 1,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_the_answer_echoes_the_name_the_client_asked_for(client: httpx.AsyncClient) -> None:
    assert (await client.post(CHAT, json=HELLO | {"model": "acme/parrot"})).json()["model"] == "acme/parrot"


async def test_an_answer_has_256_tokens_by_default(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"messages": "x" * 300})
    assert (texts(response), response.json()["choices"][0]["finish_reason"]) == (["x" * 256], "length")
    assert texts(await client.post(CHAT, json=HELLO | {"messages": "x" * 300, "max_tokens": 2**70})) == ["x" * 300]


async def test_ignore_eos_continues_until_max_tokens(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"ignore_eos": True, "max_tokens": 8})
    assert response.json()["usage"]["completion_tokens"] == 8
    assert response.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("body_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_the_body_is_json_with_any_content_type(client: httpx.AsyncClient, body_type: str) -> None:
    response = await client.post(CHAT, content=json.dumps(HELLO), headers={"content-type": body_type})
    assert texts(response) == ["Hello"]


async def test_a_string_is_sent_as_one_user_message(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"messages": "Hi"})
    assert texts(response) == ["Hi"]
    assert response.json()["usage"]["prompt_tokens"] == len("user: Hi")


async def test_several_prompts_have_n_choices_each_and_one_usage(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"messages": ["one", "three"], "n": 2})
    assert texts(response) == ["one", "one", "three", "three"]
    assert [choice["index"] for choice in response.json()["choices"]] == [0, 1, 2, 3]
    usage = response.json()["usage"]
    assert usage["prompt_tokens"] == len("user: one") + len("user: three")
    assert usage["completion_tokens"] == 2 * (len("one") + 1) + 2 * (len("three") + 1)


async def test_a_stream_has_exactly_these_frames(client: httpx.AsyncClient) -> None:
    sent = HELLO | {"stream": True, "max_tokens": 2, "stream_options": {"include_usage": True}}
    response = await client.post(CHAT, json=sent)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = data_lines(response.text)
    first = json.loads(chunks[0])
    head = (
        f'{{"id":"chatcmpl-{response.headers["x-request-id"]}","object":"chat.completion.chunk",'
        f'"created":{first["created"]},"model":"parrot","choices":['
    )
    assert chunks == [
        head + '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null,"logprobs":null}]}',
        head + '{"index":0,"delta":{"content":"H"},"finish_reason":null,"logprobs":null}]}',
        head + '{"index":0,"delta":{"content":"e"},"finish_reason":null,"logprobs":null}]}',
        head + '{"index":0,"delta":{},"finish_reason":"length","logprobs":null}]}',
        head + '],"usage":{"completion_tokens":2,"prompt_tokens":11,"total_tokens":13,'
        '"prompt_tokens_details":{"cached_tokens":0}}}',
    ]
    assert done == "[DONE]"


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
async def test_a_stream_reports_usage_only_on_request(client: httpx.AsyncClient, options: object) -> None:
    response = await client.post(CHAT, json=HELLO | {"stream": True, "stream_options": options})
    *chunks, done = data_lines(response.text)
    assert not any("usage" in json.loads(chunk) for chunk in chunks)
    assert done == "[DONE]"


async def test_in_a_stream_every_choice_of_every_prompt_has_its_role_and_its_end(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=HELLO | {"messages": ["ab", "c"], "n": 2, "stream": True})
    *chunks, _ = data_lines(response.text)
    deltas: dict[int, list[Any]] = {index: [] for index in range(4)}
    for [choice] in (json.loads(chunk)["choices"] for chunk in chunks):
        deltas[choice["index"]].append((choice["delta"].get("role"), choice["delta"].get("content")))
    of_ab = [("assistant", ""), (None, "a"), (None, "b"), (None, None)]
    of_c = [("assistant", ""), (None, "c"), (None, None)]
    assert deltas == {0: of_ab, 1: of_ab, 2: of_c, 3: of_c}


async def test_a_body_that_is_not_json_returns_400(client: httpx.AsyncClient) -> None:
    for path in (CHAT, LORA):
        response = await client.post(path, content=b"{'a'}")
        assert error_of(response, 400) == refused("Request body is not valid JSON", None, None)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": None}, ("Missing required parameter: 'model'", "model", "missing_required_parameter")),
        ({"n": "1"}, ("'n' must be an integer", "n", "invalid_type")),
        ({"temperature": 3}, ("'temperature' must be between 0 and 2, got 3", "temperature", "invalid_value")),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_violation_returns_400_streamed_or_not(
    client: httpx.AsyncClient, fields: dict[str, object], error: tuple[str, str, str], stream: bool
) -> None:
    response = await client.post(CHAT, json=HELLO | fields | {"stream": stream})
    assert error_of(response, 400) == refused(*error)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_model_returns_404(client: httpx.AsyncClient, stream: bool) -> None:
    response = await client.post(CHAT, json=HELLO | {"model": "Parrot", "stream": stream})
    assert error_of(response, 404) == refused("Model 'Parrot' not found", "model", "model_not_found")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_that_is_too_long_returns_400(client: httpx.AsyncClient, stream: bool) -> None:
    sent = HELLO | {"messages": "x" * (9000 - len("user: ")), "stream": stream}
    error = error_of(await client.post(CHAT, json=sent), 400)
    message = error.pop("message")
    assert message.startswith("The prompt has 9000 tokens; the model's context length is 8192 tokens")
    assert error == {"type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}


async def test_a_body_that_is_too_large_returns_413(client: httpx.AsyncClient) -> None:
    for path in (CHAT, LORA):
        response = await client.post(path, json=HELLO | {"x": "y" * MAX_BODY_BYTES})
        assert error_of(response, 413) == refused(f"Request body is larger than {MAX_BODY_BYTES} bytes", None, None)


async def test_a_server_that_drains_returns_503() -> None:
    gateway = gateway_of()
    gateway.drain()
    async with client_of(gateway) as client:
        response = await client.post(CHAT, json=HELLO)
    message = "The server is overloaded, retry in 5 seconds"
    assert error_of(response, 503) == refused(message, None, "overloaded", "server_error")
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_failure_before_the_first_token_returns_500(stream: bool) -> None:
    async with client_of(gateway_of(engine=failing_engine(0))) as client:
        response = await client.post(CHAT, json=HELLO | {"stream": stream})
    assert error_of(response, 500) == refused("An internal error occurred", None, None, "server_error")


async def test_a_stream_that_fails_ends_with_the_error_and_without_done() -> None:
    async with client_of(gateway_of(engine=failing_engine(1))) as client:
        response = await client.post(CHAT, json=HELLO | {"stream": True})
    assert response.status_code == 200
    assert response.text.endswith(
        'data: {"error":{"message":"An internal error occurred","type":"server_error","param":null,"code":null}}\n\n'
    )
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("name", ["acme/parrot", "acme%2Fparrot"])
async def test_the_name_of_a_base_model_may_contain_slashes(name: str) -> None:
    before = int(time.time())
    async with client_of(gateway_of()) as client:
        response = await client.get(f"/empower/api/v1/base-model/{name}")
    deployment = response.json()["active_deployment"]
    assert (response.json()["name"], deployment["model_name"]) == ("acme/parrot", "parrot")
    assert before <= deployment["created_at"] <= time.time()


async def test_an_unknown_base_model_returns_404(client: httpx.AsyncClient) -> None:
    response = await client.get("/empower/base-model/acme/other")
    assert error_of(response, 404) == refused("Model 'acme/other' not found", "model", "model_not_found")


async def test_the_models_are_listed_in_their_order(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/empower/models")).json()
    created = [card.pop("created") for card in listed["data"]]
    assert all(isinstance(time, int) for time in created)
    assert listed == {
        "object": "list",
        "data": [
            {"id": "parrot", "object": "model", "owned_by": "dragoman"},
            {"id": "second", "object": "model", "owned_by": "dragoman"},
        ],
    }


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_valid_key_is_accepted_on_every_route(scheme: str, folder: Path) -> None:
    async with client_of(gateway_of(KEY, folder=folder)) as client:
        client.headers["authorization"] = f"{scheme} {KEY}"
        await check_all_routes(client, "/empower")


@pytest.mark.parametrize(
    ("headers", "message", "code"),
    [
        ({}, "No API key provided", "missing_api_key"),
        ({"x-api-key": KEY}, "No API key provided", "missing_api_key"),
        ({"authorization": "Bearer "}, "No API key provided", "missing_api_key"),
        ({"authorization": KEY}, "Authorization header must have the form: Bearer <token>", "invalid_api_key"),
        (
            {"authorization": f"Basic {KEY}"},
            "Authorization header must have the form: Bearer <token>",
            "invalid_api_key",
        ),
        ({"authorization": "Bearer sk-wrong"}, "Invalid API key", "invalid_api_key"),
    ],
)
async def test_every_route_rejects_an_unknown_key(headers: dict[str, str], message: str, code: str) -> None:
    async with client_of(gateway_of(KEY)) as client:
        for method, path in [
            ("POST", CHAT),
            ("POST", LORA),
            ("DELETE", f"{LORA}/none"),
            ("GET", "/empower/base-model/none"),
            ("GET", "/empower/models"),
        ]:
            response = await client.request(method, path, content=b"no json", headers=headers)
            assert error_of(response, 401) == refused(message, None, code, "authentication_error")
            assert response.headers["www-authenticate"] == "Bearer"
