"""The routes in front of the echo engine: paths, headers, counts, lists, errors and keep-alives."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dragoman.core.errors import BadRequest, DragomanError, Overloaded
from dragoman.dialects.anthropic.errors import AnthropicErrors
from tests.support.apps import KEY, client_of, echo_app
from tests.support.dialects import claude_code
from tests.support.dialects.asgi_connections import AsgiConnection
from tests.support.dialects.scripted_engine import ScriptedEngine
from tests.support.echo_engines import GatedEcho

HI: dict[str, Any] = {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo_app()) as client:
        yield client


def text_of(response: httpx.Response) -> str:
    return "".join(block["text"] for block in response.json()["content"])


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages?beta=true", "/anthropic/v1/messages?beta=true"])
async def test_messages_are_answered_under_every_path_and_query(client: httpx.AsyncClient, path: str) -> None:
    assert text_of(await client.post(path, json=HI)) == "Hi"


async def test_a_host_of_its_own_serves_the_vendors_paths() -> None:
    async with client_of(echo_app(hosts={"a.example": "anthropic"}), "a.example") as client:
        assert text_of(await client.post("/v1/messages", json=HI)) == "Hi"
        assert (await client.get("/v1/models")).json()["has_more"] is False
        assert (await client.head("/")).status_code == 200
        assert (await client.post("/v1/chat/completions", json=HI)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY, "authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY, **claude_code.HEADERS},
    ],
)
async def test_a_key_is_read_from_either_header(headers: dict[str, str]) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            assert (await client.post(path, json=HI, headers=headers)).status_code == 200
            refused = await client.post(path, json=HI, headers=VERSION)
            assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
            assert refused.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/messages", 400),
        ("POST", "/v1/messages/count_tokens", 400),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/none", 404),
        ("POST", "/v1/messages/batches", 404),
    ],
)
async def test_every_answer_has_its_id_in_both_headers(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path, headers=VERSION, content=b"{}")
    assert response.status_code == status
    assert len(response.headers["request-id"]) == 32
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_tokens_are_counted_as_the_same_request_reports_them(client: httpx.AsyncClient) -> None:
    for body in (HI, claude_code.request(claude_code.first_turn("Hi"))):
        conversation = {name: body[name] for name in body.keys() & {"model", "messages", "system", "tools", "thinking"}}
        counted = (await client.post("/v1/messages/count_tokens", json=conversation)).json()
        usage = (await client.post("/v1/messages", json=body)).json()["usage"]
        assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


async def test_the_models_are_in_anthropics_form_for_requests_with_its_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json()["object"] == "list"
    assert (await client.get("/v1/models/echo")).json()["object"] == "model"
    for path, headers in (("/v1/models", VERSION), ("/anthropic/v1/models", {})):
        page = (await client.get(path, headers=headers)).json()
        assert [info["id"] for info in page["data"]] == ["echo", "acme/parrot"], "clients find aliases in the list"
        assert (page["first_id"], page["last_id"], page["has_more"]) == ("echo", "acme/parrot", False)
        one = (await client.get(f"{path}/acme/parrot", headers=headers)).json()
        assert one == page["data"][1]
        assert (one["type"], one["max_input_tokens"]) == ("model", 8192)


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ("limit=1", ["echo"], True),
        ("limit=1&after_id=echo", ["acme/parrot"], False),
        ("after_id=acme/parrot", [], False),
        ("before_id=acme/parrot", ["echo"], False),
        ("limit=1000", ["echo", "acme/parrot"], False),
    ],
)
async def test_the_models_are_listed_in_pages(
    client: httpx.AsyncClient, query: str, ids: list[str], has_more: bool
) -> None:
    page = (await client.get(f"/anthropic/v1/models?{query}")).json()
    assert ([info["id"] for info in page["data"]], page["has_more"]) == (ids, has_more)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=none"])
async def test_a_wrong_page_is_a_bad_request(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/anthropic/v1/models?{query}")
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_probe_finds_a_server_and_nothing_else_is_at_its_path(client: httpx.AsyncClient) -> None:
    assert (await client.head("/")).status_code == 200
    assert (await client.get("/")).status_code == (await client.post("/")).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/messages/batches", "/v1/messages/batches/b", "/v1/files", "/v1/skills", "/v1/complete"]
)
async def test_what_is_not_served_is_not_found_in_its_words(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, headers=VERSION)
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
    if "messages" not in path:
        assert (await client.post(path)).json() == {"detail": "Not Found"}, "the path is not this dialect's alone"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": []}, "messages: List should have at least 1 items, got 0"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages.0.role: Input should be one of"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages.0.content.0.type: Field required"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "prompt is too long: 9006 tokens > 8191 maximum"),
        ({"stop_sequences": ["x" * 300]}, "stop_sequences.0: String should have at most 256"),
    ],
)
async def test_a_bad_request_is_described_in_anthropics_words(
    client: httpx.AsyncClient, fields: dict[str, Any], message: str
) -> None:
    response = await client.post("/v1/messages", json=HI | fields)
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith(message)


async def test_more_tokens_than_the_context_holds_are_no_error(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/messages", json=HI | {"max_tokens": 10**9})
    assert (response.status_code, response.json()["stop_reason"]) == (200, "end_turn")


async def test_an_image_is_refused_by_a_model_of_text(client: httpx.AsyncClient) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    response = await client.post("/v1/messages", json=HI | {"messages": [{"role": "user", "content": [image]}]})
    assert (response.status_code, "images" in response.text) == (400, True)


async def test_a_refused_prefill_is_described_in_anthropics_words() -> None:
    refusal = BadRequest("no", "continue_final_message")
    async with client_of(echo_app(engine=ScriptedEngine([], refusal))) as client:
        response = await client.post("/v1/messages", json=HI)
    assert response.json()["error"]["message"].startswith("This model does not support assistant message prefill.")


def test_clients_are_told_whether_to_try_again() -> None:
    errors = AnthropicErrors()
    overloaded = errors.render(Overloaded("busy", 7))
    assert (overloaded.status, overloaded.headers) == (529, {"retry-after": "7", "x-should-retry": "true"})
    assert json.loads(overloaded.body)["error"] == {"type": "overloaded_error", "message": "busy"}
    assert errors.render(DragomanError("x")).headers["x-should-retry"] == "true"
    assert errors.render(BadRequest("x")).headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("withhold", "expected"), [(True, b": keep-alive\n\n"), (False, b'event: ping\ndata: {"type":"ping"}\n\n')]
)
async def test_a_silent_stream_gets_comments_before_its_first_event_and_pings_after_it(
    withhold: bool, expected: bytes
) -> None:
    engine = GatedEcho(withhold_first_token=withhold, is_open=False)
    app = echo_app(engine=engine, keep_alive_seconds=0.01)
    connection = AsgiConnection(json.dumps(HI | {"stream": True}).encode())
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/messages",
        "headers": [(b"host", b"localhost")],
        "query_string": b"beta=true",
    }
    running = asyncio.create_task(app(scope, connection.receive, connection.send))
    await connection.wait_until(lambda bodies: bodies.count(expected) > 2)
    engine.gate.set()
    await running
    stream = b"".join(connection.bodies).decode()
    if withhold:
        assert "ping" not in stream.partition("event: message_start")[0]
    assert stream.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
