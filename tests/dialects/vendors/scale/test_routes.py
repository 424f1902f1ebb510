"""The dialect over HTTP, in front of the echo engine: it answers with the last message, or the prompt, byte by byte."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from dragoman.core.identifiers import key_digest
from dragoman.core.request import ChatPrompt, Message
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.http.truncation import TruncationPlan
from dragoman.dialects.vendors.scale import routes
from dragoman.dialects.vendors.scale.routes import TRIMMED_HEADER
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog, Deployment
from tests.support.dialects.scripted_engine import failing_engine

KEY = "sk-0123456789abcdef"
MAX_BODY_BYTES = 100_000
CONTEXT = 1000

DEPLOYMENT_CHAT = "/v4/models/echo/chat-completions"
DEPLOYMENT_TEXT = "/v4/models/echo/completions"
CHAT = "/v4/chat-completions"
TEXT = "/v4/completions"

HELLO: dict[str, Any] = {
    "model": "echo",
    "prompt": "Hello",
    "chat_history": [],
    "messages": [{"role": "user", "content": "Hello"}],
}
"""Understood by all four completion routes."""

POSTS = [DEPLOYMENT_CHAT, DEPLOYMENT_TEXT, CHAT, TEXT]
GETS = ["/v4/models", "/v4/models/echo", "/v4/model-deployments"]


def gateway_of(engine: EchoEngine, keys: StaticKeyAuthenticator = NO_KEYS) -> Gateway:
    return Gateway(Catalog([Deployment("echo", ("acme/parrot",), engine)]), RequestMetrics(CollectorRegistry()), keys)


def client_of(gateway: Gateway) -> httpx.AsyncClient:
    app = Starlette(routes=routes(gateway, HttpOptions(max_body_bytes=MAX_BODY_BYTES, keep_alive_seconds=15)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(EchoEngine(context_length=CONTEXT))) as client:
        yield client


@pytest.fixture
async def keyed_client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway_of(EchoEngine(), StaticKeyAuthenticator([key_digest(KEY)]))) as client:
        yield client


def detail_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["detail"]
    return response.json()["detail"]


def response_text(response: httpx.Response) -> str:
    """The text of an answer of any of the four routes."""
    assert response.status_code == 200, response.text
    match response.json():
        case {"completions": [[_, [text]]]}:
            return str(text)
        case {"chat_completion": {"message": {"content": text}}} | {"completion": {"text": text}}:
            return str(text)
    raise AssertionError(response.text)


def history(*turns: tuple[str, int]) -> list[dict[str, str]]:
    """Return messages with contents of these lengths; the echo engine counts `role: content`, joined by line breaks."""
    return [{"role": role, "content": "x" * length} for role, length in turns]


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


async def test_the_shape_is_checked_before_the_model_is_looked_for(client: httpx.AsyncClient) -> None:
    detail_of(await client.post("/v4/models/foo/completions", json={}), 422)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body", [b"", b"prompt=Hello", b"[]", b'"Hello"', b'{"prompt": "Hello"', b'{"temperature": NaN}']
)
async def test_a_body_that_is_not_a_json_object_is_refused(client: httpx.AsyncClient, path: str, body: bytes) -> None:
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


async def test_a_prompt_that_leaves_too_little_room_is_refused(client: httpx.AsyncClient) -> None:
    for stream in (True, False):
        for path, sent, tokens in (
            (DEPLOYMENT_CHAT, HELLO | {"prompt": "x" * 895, "max_tokens": 100}, 901),
            (DEPLOYMENT_TEXT, HELLO | {"prompt": "x" * 901, "max_tokens": 100}, 901),
            (TEXT, HELLO | {"prompt": "x" * 901, "model_parameters": {"max_tokens": 100}}, 901),
            (CHAT, HELLO | {"messages": history(("user", 895)), "model_parameters": {"max_tokens": 100}}, 901),
        ):
            assert detail_of(await client.post(path, json=sent | {"stream": stream}), 400) == (
                f"The prompt has {tokens} tokens and max_tokens is 100; the model's context length is {CONTEXT} tokens"
            )


async def test_a_prompt_that_leaves_just_enough_room_is_answered(client: httpx.AsyncClient) -> None:
    response = await client.post(DEPLOYMENT_TEXT, json=HELLO | {"prompt": "x" * 900, "max_tokens": 100})
    assert response_text(response) == "x" * 100
    whole = await client.post(DEPLOYMENT_TEXT, json=HELLO | {"prompt": "x" * (CONTEXT - 1)})
    assert (response_text(whole), whole.json()["finish_reason"]) == ("x", "length")


async def test_a_prompt_without_room_for_one_token_is_refused(client: httpx.AsyncClient) -> None:
    for path in (DEPLOYMENT_CHAT, DEPLOYMENT_TEXT):
        detail = detail_of(await client.post(path, json=HELLO | {"prompt": "x" * CONTEXT}), 400)
        assert f"the model's context length is {CONTEXT} tokens" in detail
    huge = HELLO | {"max_tokens": 2**80}
    assert "max_tokens is 9223372036854775807" in detail_of(await client.post(DEPLOYMENT_CHAT, json=huge), 400)


async def test_a_history_that_does_not_fit_is_truncated_and_reported_in_a_header(client: httpx.AsyncClient) -> None:
    sent = {
        "chat_history": history(("system", 10), ("user", 400), ("assistant", 100), ("user", 300), ("assistant", 100)),
        "prompt": "Hello",
    }
    for stream in (False, True):
        response = await client.post(DEPLOYMENT_CHAT, json=sent | {"stream": stream})
        assert response.headers[TRIMMED_HEADER] == "2"
    remaining = len("system: \nuser: \nassistant: \nuser: Hello") + 10 + 300 + 100
    assert f'"prompt_tokens":{remaining},' in response.text


async def test_a_conversation_of_the_sibling_route_is_truncated_too(client: httpx.AsyncClient) -> None:
    sent = {"model": "echo", "messages": history(("user", 800), ("assistant", 10), ("user", 5)), "instructions": "Hm"}
    response = await client.post(CHAT, json=sent)
    assert (response_text(response), response.headers[TRIMMED_HEADER]) == ("xxxxx", "2")
    assert response.json()["token_usage"]["prompt"] == len("system: Hm\nuser: xxxxx")


@pytest.mark.parametrize(
    ("max_tokens", "length", "dropped"),
    [(None, 782, None), (None, 783, "1"), (300, 682, None), (300, 683, "1"), (1, 981, None), (1, 982, "1")],
)
async def test_max_tokens_or_a_fifth_of_the_context_is_reserved(
    client: httpx.AsyncClient, max_tokens: int | None, length: int, dropped: str | None
) -> None:
    overhead = len("user: \nuser: Hello")
    sent = {"chat_history": history(("user", length)), "prompt": "Hello", "max_tokens": max_tokens}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    assert (response_text(response), response.headers.get(TRIMMED_HEADER)) == ("Hello"[:max_tokens], dropped)
    assert response.json()["prompt_tokens"] == (len("user: Hello") if dropped else length + overhead)


async def test_the_prompt_alone_may_use_the_reserved_tokens(client: httpx.AsyncClient) -> None:
    sent = {"chat_history": history(("system", 10), ("user", 10)), "prompt": "x" * 900}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    assert (response.headers[TRIMMED_HEADER], response.json()["prompt_tokens"]) == ("2", 906)
    assert response.json()["finish_reason"] == "length"


async def test_a_refused_prompt_reports_its_size_and_no_truncation(client: httpx.AsyncClient) -> None:
    sent = {"chat_history": history(("user", 500), ("assistant", 9)), "prompt": "x" * 500, "max_tokens": 600}
    response = await client.post(DEPLOYMENT_CHAT, json=sent)
    assert "The prompt has 506 tokens and max_tokens is 600" in detail_of(response, 400)
    assert TRIMMED_HEADER not in response.headers


def truncation_plan(roles: str) -> TruncationPlan:
    """A conversation by the first letters of its roles."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": f"{role}{index}"} for index, role in enumerate(roles)]
    return TruncationPlan(ChatPrompt(tuple(Message(**message) for message in messages)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("roles", "steps"),
    [
        ("u", ["u0"]),
        ("su", ["s0 u1", "u1"]),
        ("uau", ["u0 a1 u2", "u2"]),
        ("auu", ["a0 u1 u2", "u1 u2", "u2"]),
        ("uauau", ["u0 a1 u2 a3 u4", "u2 a3 u4", "u4"]),
        ("suasuau", ["s0 u1 a2 s3 u4 a5 u6", "s0 s3 u4 a5 u6", "s0 s3 u6", "s3 u6", "u6"]),
        ("uaaau", ["u0 a1 a2 a3 u4", "u4"]),
    ],
)
def test_turns_go_first_then_system_messages_oldest_first(roles: str, steps: list[str]) -> None:
    plan = truncation_plan(roles)
    remaining = [plan.drop_first(count).messages for count in plan.drop_counts]
    assert [" ".join(message.content for message in messages) for messages in remaining] == steps


def test_a_truncated_conversation_keeps_its_other_fields() -> None:
    beside = ChatPrompt((Message("user", "a"), Message("user", "b")), effort="low", template="t")
    remaining = TruncationPlan(beside).drop_first(1)
    assert (remaining.messages, remaining.effort, remaining.template) == ((Message("user", "b"),), "low", "t")


async def test_as_few_messages_as_possible_are_dropped(client: httpx.AsyncClient) -> None:
    for pairs in range(30):
        sent = {"chat_history": history(*[("user", 20), ("assistant", 20)] * pairs), "prompt": "Hello"}
        response = await client.post(DEPLOYMENT_CHAT, json=sent)
        tokens = response.json()["prompt_tokens"]
        pair = len("user: \nassistant: \n") + 40
        assert tokens <= CONTEXT * 4 // 5
        dropped = int(response.headers.get(TRIMMED_HEADER, 0))
        assert tokens == (pairs - dropped // 2) * pair + len("user: Hello")
        assert not dropped or tokens + pair > CONTEXT * 4 // 5


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
async def test_every_route_refuses_an_unknown_key(
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


async def test_the_models_are_listed(client: httpx.AsyncClient) -> None:
    listing = (await client.get("/v4/models")).json()
    assert list(listing) == ["current_page", "items", "items_per_page", "total_item_count"]
    [item] = listing["items"]
    assert (listing["current_page"], listing["items_per_page"], listing["total_item_count"]) == (1, 100, 1)
    assert item["request_schema"]["$ref"].endswith("DeploymentChatRequest")
    assert "completions" in json.dumps(item["response_schema"])
    assert {name: value for name, value in item.items() if not name.endswith("_schema")} == {
        "id": "echo",
        "account_id": "dragoman",
        "created_at": "2024-01-01T00:00:00Z",
        "created_by_identity_type": "user",
        "created_by_user_id": "dragoman",
        "deployment_count": 1,
        "model_type": "CHAT_COMPLETION",
        "name": "echo",
        "supports_multi_turn": True,
        "model_vendor": "LLMENGINE",
    }


@pytest.mark.parametrize("name", ["echo", "acme/parrot", "acme%2Fparrot"])
async def test_one_model_is_shown_under_each_of_its_names(client: httpx.AsyncClient, name: str) -> None:
    item = (await client.get(f"/v4/models/{name}")).json()
    assert (item["id"], item["name"]) == (name.replace("%2F", "/"), "echo")


@pytest.mark.parametrize("name", ["foo", "acme/foo", "echo/deployments"])
async def test_a_model_that_is_not_there_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    assert detail_of(await client.get(f"/v4/models/{name}"), 404) == f"Model '{name}' not found"


async def test_the_deployments_are_listed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v4/model-deployments")).json() == {
        "current_page": 1,
        "items": [
            {
                "id": "echo",
                "account_id": "dragoman",
                "created_at": "2024-01-01T00:00:00Z",
                "created_by_identity_type": "user",
                "created_by_user_id": "dragoman",
                "name": "echo",
                "status": "READY",
                "model_instance_id": "echo",
            }
        ],
        "items_per_page": 100,
        "total_item_count": 1,
    }


@pytest.mark.parametrize("path", ["/v4/models", "/v4/model-deployments"])
async def test_lists_come_in_pages(client: httpx.AsyncClient, path: str) -> None:
    ignored = {"sort_by": "name:asc", "view": "Deployments", "account_id": "x"}
    listing = (await client.get(path, params={"page": "2", "limit": "10000", **ignored})).json()
    assert (listing["items"], listing["current_page"], listing["items_per_page"]) == ([], 2, 10000)
    assert listing["total_item_count"] == 1


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"model_type": "CHAT_COMPLETION"}, 1),
        ({"model_type": "COMPLETION"}, 0),
        ({"model_group_id": "group"}, 0),
        ({"sort_by": "name:asc", "view": "Deployments"}, 1),
    ],
)
async def test_models_are_filtered(client: httpx.AsyncClient, query: dict[str, str], count: int) -> None:
    listing = (await client.get("/v4/models", params=query)).json()
    assert (len(listing["items"]), listing["total_item_count"]) == (count, count)


@pytest.mark.parametrize("path", ["/v4/models", "/v4/model-deployments"])
@pytest.mark.parametrize(
    ("query", "message", "kind"),
    [
        ({"page": "0"}, "Input should be greater than or equal to 1", "greater_than_equal"),
        ({"page": "x"}, "Input should be a valid integer", "int_type"),
        ({"page": "9" * 30}, "Input should be a valid integer", "int_type"),
        ({"page": "²"}, "Input should be a valid integer", "int_type"),
        ({"limit": "0"}, "Input should be between 1 and 10000", "value_error"),
        ({"limit": "-1"}, "Input should be between 1 and 10000", "value_error"),
        ({"limit": "10001"}, "Input should be between 1 and 10000", "value_error"),
        ({"limit": ""}, "Input should be a valid integer", "int_type"),
    ],
)
async def test_a_page_out_of_range_is_reported_with_its_path(
    client: httpx.AsyncClient, path: str, query: dict[str, str], message: str, kind: str
) -> None:
    [name] = query
    expected = [{"loc": ["query", name], "msg": message, "type": kind}]
    assert detail_of(await client.get(path, params=query), 422) == expected


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
