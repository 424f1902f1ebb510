"""The routes of the queue, where clients wait for the answer by default."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from dragoman.core.errors import EngineFailed
from dragoman.dialects.http import sse
from dragoman.jobs.values.options import QueueOptions
from tests.support.apps import client_of, echo_app
from tests.support.dialects.asgi_connections import DisconnectingClient
from tests.support.echo_engines import GatedEcho
from tests.support.jobs.http_queue_harness import (
    ACCEPT_STREAM,
    RESPOND_ASYNC,
    HttpQueueHarness,
    job_when_ended,
    open_queue_harness,
    queue_client,
    without_event_ids,
)

HELD, REQUEST, PLAIN = "/queue/chat/completions", "/queue/request", "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
STREAMED = HELLO | {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with queue_client() as client:
        yield client


@pytest.fixture
def queue_harness() -> Iterator[HttpQueueHarness]:
    with open_queue_harness() as queue_harness:
        yield queue_harness


def without_id_and_time(text: str) -> str:
    """Return a stream without what differs between answers."""
    documents = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    for document in documents:
        document["id"] = document["created"] = None
    return json.dumps(documents)


async def test_a_client_that_waits_is_answered_as_on_the_plain_route(client: httpx.AsyncClient) -> None:
    held = await client.post(HELD, json=HELLO | {"priority": 7})
    plain = await client.post(PLAIN, json=HELLO)
    assert held.status_code == 200
    assert held.headers["x-litellm-priority"] == "7"
    document, direct = held.json(), plain.json()
    assert document["id"] == f"chatcmpl-{held.headers['x-request-id']}"
    assert (document["choices"], document["usage"]) == (direct["choices"], direct["usage"])
    job = (await client.get(f"/queue/response/{held.headers['x-dragoman-job-id']}")).json()
    assert job == {"id": held.headers["x-dragoman-job-id"], "status": "finished", "result": document}


async def test_a_queued_stream_is_the_direct_stream_with_ids(client: httpx.AsyncClient) -> None:
    held, plain = [await client.post(path, json=STREAMED) for path in (HELD, PLAIN)]
    assert held.headers["content-type"] == plain.headers["content-type"] == sse.MEDIA_TYPE
    assert "x-litellm-priority" not in held.headers
    text = without_event_ids(held.text)
    assert without_id_and_time(text) == without_id_and_time(plain.text)
    assert text.endswith("data: [DONE]\n\n")
    again = await client.get(f"/queue/response/{held.headers['x-dragoman-job-id']}", headers=ACCEPT_STREAM)
    assert again.text == held.text


async def test_the_body_decides_about_the_usage_of_the_stream(client: httpx.AsyncClient) -> None:
    for body in (STREAMED, HELLO):
        url = (await client.post(REQUEST, json=body)).json()["url"]
        assert ('"usage"' in (await client.get(url, headers=ACCEPT_STREAM)).text) == (body is STREAMED)


async def test_a_request_to_the_older_route_is_only_queued(client: httpx.AsyncClient) -> None:
    response = await client.post(REQUEST, json=HELLO)
    document = response.json()
    assert (response.status_code, list(document)) == (200, ["id", "url", "eta", "status"])
    assert response.headers["x-dragoman-job-id"] == document["id"]
    assert (await job_when_ended(client, document["url"]))["result"]["choices"][0]["message"]["content"] == "Hello"


async def test_respond_async_returns_immediately(client: httpx.AsyncClient) -> None:
    response = await client.post(HELD, json=HELLO, headers=RESPOND_ASYNC)
    assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
    assert "x-litellm-priority" not in response.headers


@pytest.mark.parametrize(("sent", "used"), [(0, 0), (255, 255), (2000, 255), (None, 128)])
async def test_in_the_queue_0_is_the_first(client: httpx.AsyncClient, sent: int | None, used: int) -> None:
    response = await client.post(HELD, json=HELLO | {"priority": sent})
    assert response.headers["x-litellm-priority"] == str(used)


@pytest.mark.parametrize("sent", [-1, "1", 1.5])
async def test_an_invalid_priority_is_rejected(client: httpx.AsyncClient, sent: object) -> None:
    response = await client.post(HELD, json=HELLO | {"priority": sent})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")


async def test_a_queued_job_reports_its_position_and_a_running_one_its_eta() -> None:
    engine = GatedEcho(withhold_first_token=True, is_open=False)
    async with queue_client(engine, options=QueueOptions(concurrency=1)) as client:
        first, second = [(await client.post(REQUEST, json=HELLO)).json()["url"] for _ in range(2)]
        await engine.generation_started.wait()
        running, waiting = [(await client.get(url)).json() for url in (first, second)]
        engine.gate.set()
        await job_when_ended(client, second)
    assert list(waiting) == ["id", "status", "eta", "position"]
    assert (waiting["status"], waiting["position"]) == ("queued", 1)
    assert list(running) == ["id", "status", "eta"]
    assert running["status"] == "running"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_waits_too_long_times_out(stream: bool) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_client(engine, options=QueueOptions(concurrency=1, client_wait_seconds=0.05)) as client:
        before = (await client.post(REQUEST, json=HELLO)).json()["url"]
        await engine.generation_started.wait()
        response = await client.post(HELD, json=HELLO | {"stream": stream})
        engine.gate.set()
        await job_when_ended(client, before)
        job = (await client.get(f"/queue/response/{response.headers['x-dragoman-job-id']}")).json()
    error = {
        "message": "litellm.Timeout: Request timed out while polling queue",
        "type": "timeout_error",
        "param": "None",
        "code": "408",
    }
    assert (response.status_code, response.json()) == (408, {"error": error})
    assert (job["status"], job["error"]) == ("failed", error)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent", [False, True])
async def test_cancelling_a_job_reports_it_to_the_waiting_client(
    queue_harness: HttpQueueHarness, stream: bool, silent: bool
) -> None:
    engine = GatedEcho(withhold_first_token=silent, is_open=False)
    async with queue_harness.server(engine) as server:
        client = server.client
        holding = asyncio.create_task(client.post(HELD, json=HELLO | {"stream": stream}))
        await engine.generation_started.wait()
        [job_id] = queue_harness.job_ids()
        await client.delete(f"/queue/response/{job_id}")
        held = await holding
    error = {"message": f"Job '{job_id}' was cancelled", "type": "cancelled", "param": "None", "code": "410"}
    if stream and not silent:
        assert held.status_code == 200
        last = without_event_ids(held.text).rstrip("\n").rpartition("\n\n")[2]
        assert json.loads(last.removeprefix("data: ")) == {"error": error}
    else:
        assert (held.status_code, held.json()) == (410, {"error": error})


async def test_a_disconnect_does_not_cancel_the_job(queue_harness: HttpQueueHarness) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_harness.server(engine) as server:
        client = server.client
        leaving = DisconnectingClient(HELD, STREAMED, queue_harness.secret, disconnect_after=2)
        await leaving.send_to(server.app)
        [job_id] = [value.decode() for name, value in leaving.sent[0]["headers"] if name == b"x-dragoman-job-id"]
        engine.gate.set()
        document = await job_when_ended(client, f"/queue/response/{job_id}")
    assert document["result"]["choices"][0]["message"]["content"] == "Hello"
    assert (engine.runs, engine.cancelled) == (1, 0)


async def test_a_silent_stream_is_kept_alive_by_comments_that_end_no_event(queue_harness: HttpQueueHarness) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_harness.server(engine, keep_alive_seconds=0.01) as server:
        client = DisconnectingClient(HELD, STREAMED, queue_harness.secret, disconnect_after=5)
        await client.send_to(server.app)
        engine.gate.set()
    bodies = [message["body"] for message in client.sent if message["type"] == "http.response.body"]
    assert bodies.count(b": keep-alive\n") >= 2
    assert sse.KEEP_ALIVE not in bodies


async def test_a_repeated_queued_request_has_the_same_response(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "once"}
    first, again = [await client.post(HELD, json=STREAMED, headers=headers) for _ in range(2)]
    assert first.text == again.text
    assert again.headers.pop("idempotent-replayed") == "true"
    assert dict(again.headers) == dict(first.headers)
    assert (await client.post(HELD, json=STREAMED, headers=headers | RESPOND_ASYNC)).status_code == 409


async def test_an_engine_that_fails_is_an_ordinary_error_before_the_first_event() -> None:
    engine = GatedEcho(*[EngineFailed("It broke")] * 9, withhold_first_token=True)
    async with queue_client(engine, options=QueueOptions(max_attempts=1)) as client:
        response = await client.post(HELD, json=STREAMED)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "internal_server_error"


@pytest.mark.parametrize("path", [HELD, REQUEST])
async def test_queueing_without_a_database_is_rejected(path: str) -> None:
    async with client_of(echo_app()) as client:
        response = await client.post(path, json=HELLO)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "bad_request_error"


@pytest.mark.parametrize("job_id", ["job_", "job_" + "g" * 32, "job_" + "0" * 33, "%00", "%F0%9F%A6%9C"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_invalid_job_id_is_not_found(client: httpx.AsyncClient, method: str, job_id: str) -> None:
    response = await client.request(method, f"/queue/response/{job_id}")
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("not_found_error", "None", "404")


@pytest.mark.parametrize("has_key", [False, True], ids=["without a key", "with a key"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_job_goes_on_is_not_to_be_sent_again_without_a_key(
    queue_harness: HttpQueueHarness, stream: bool, has_key: bool
) -> None:
    engine = GatedEcho(withhold_first_token=True, is_open=False)
    headers = {"idempotency-key": "order 1"} if has_key else {}
    async with queue_harness.server(engine) as server:
        waiting = asyncio.create_task(server.client.post(HELD, json=HELLO | {"stream": stream}, headers=headers))
        await engine.generation_started.wait()
        server.app.drain()
        refused = await waiting
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.headers.get("x-should-retry") == (None if has_key else "false")
