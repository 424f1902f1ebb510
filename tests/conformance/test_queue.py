"""Requests that are queued, in every dialect's own words."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.core.egress.urls import UrlRules
from dragoman.core.errors import BadRequest
from dragoman.dialects.http import sse
from dragoman.dialects.registry import DialectName
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from tests.support.apps import client_of
from tests.support.dialects.asgi_connections import AsgiConnection
from tests.support.dialects.clients import DIALECT_CLIENTS, DialectClient
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
from tests.support.jobs.webhook_receivers import SECRET, WebhookReceiver, running_receiver

NO_JOB = f"/queue/response/job_{'0' * 32}"


@pytest.fixture
def queue_harness() -> Iterator[HttpQueueHarness]:
    with open_queue_harness() as queue_harness:
        yield queue_harness


async def submit(client: httpx.AsyncClient, dialect: DialectClient, text: str = "Hello", **options: Any) -> str:
    """Queue a chat and return the path of its job."""
    response = await client.post(
        dialect.path("echo"), json=dialect.body("echo", text, **options), headers=RESPOND_ASYNC
    )
    assert response.status_code == 202, response.text
    return str(response.json()["url"])


async def test_the_jobs_location_is_below_the_root_path(
    dialect: DialectClient, queue_harness: HttpQueueHarness
) -> None:
    async with queue_harness.server(root_path="/llm") as server:
        body = dialect.body("echo", "Hello", max_tokens=4)
        for prefix in ("", "/llm"):  # The proxy removes it from requests, or leaves it there.
            headers = {"prefer": "respond-async"}
            response = await server.client.post(prefix + dialect.path("echo"), json=body, headers=headers)
            assert response.status_code == 202
            document = response.json()
            assert response.headers["location"] == document["url"] == f"/llm/queue/response/{document['id']}"
            assert (await server.client.get(document["url"])).json()["id"] == document["id"]


async def test_prefer_respond_async_returns_the_jobs_location(dialect: DialectClient) -> None:
    async with queue_client() as client:
        body = dialect.body("echo", "Hello")
        response = await client.post(
            dialect.path("echo"), json=body, headers={"prefer": 'wait=5; x=",", RESPOND-ASYNC'}
        )
    document = response.json()
    assert response.status_code == 202
    assert list(document) == ["id", "url", "eta", "status"]
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["location"] == document["url"] == f"/queue/response/{document['id']}"
    assert response.headers["x-dragoman-job-id"] == document["id"]
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream", [False, True])
async def test_a_jobs_result_equals_the_direct_response(dialect: DialectClient, stream: bool) -> None:
    async with queue_client() as client:
        direct = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hello"))
        document = await job_when_ended(client, await submit(client, dialect, stream=stream))
    assert list(document) == ["id", "status", "result"]
    assert document["result"].keys() == direct.json().keys()
    assert dialect.read(document["result"]) == dialect.read(direct.json())


async def test_a_jobs_stream_equals_the_stream_of_its_route(dialect: DialectClient) -> None:
    async with queue_client() as client:
        body = dialect.body("echo", "Hello", stream=True)
        direct = await client.post(dialect.path("echo"), json=body)
        response = await client.get(await submit(client, dialect, stream=True), headers=ACCEPT_STREAM)
    assert response.headers["content-type"] == sse.MEDIA_TYPE
    assert response.headers["x-dragoman-job-id"].startswith("job_")
    text = without_event_ids(response.text)
    assert dialect.read_stream(text) == dialect.read_stream(direct.text)
    assert text.count("\n\n") == direct.text.count("\n\n")


async def test_reconnecting_after_each_event_misses_nothing(dialect: DialectClient) -> None:
    async with queue_client() as client:
        url = await submit(client, dialect, "x" * 70, stream=True)
        whole = (await client.get(url, headers=ACCEPT_STREAM)).text
        assert (await client.get(url, headers=ACCEPT_STREAM)).text == whole, "a replay is the same, byte for byte"
        events = whole.split("\n\n")[:-1]
        assert len(events) > 70
        for number in range(len(events) + 1):
            rest = await client.get(url, headers=ACCEPT_STREAM | {"last-event-id": str(number)})
            assert rest.text == "".join(f"{event}\n\n" for event in events[number:])
        beyond = await client.get(url, headers=ACCEPT_STREAM | {"last-event-id": str(len(events) + 1)})
    assert beyond.status_code == 400
    assert "Last-Event-ID" in beyond.json()["error"]["message"]


@pytest.mark.parametrize("number", ["", "one", "-1", "1.0", "²", "9" * 16])
async def test_an_invalid_last_event_id_is_rejected(number: str) -> None:
    async with queue_client() as client:
        url = await submit(client, DIALECT_CLIENTS[0])
        headers = [(b"accept", b"text/event-stream"), (b"last-event-id", number.encode())]
        assert (await client.get(url, headers=headers)).status_code == 400


async def test_two_readers_follow_one_job_while_it_runs(dialect: DialectClient) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_client(engine) as client:
        url = await submit(client, dialect, stream=True)
        readers = [asyncio.create_task(client.get(url, headers=ACCEPT_STREAM)) for _ in range(2)]
        await engine.generation_started.wait()
        assert (await client.get(url)).json()["status"] == "running"
        engine.gate.set()
        one, other = [(await reader).text for reader in readers]
    assert one == other
    assert dialect.read_stream(without_event_ids(one)).text == "Hello"
    assert engine.runs == 1


async def test_jobs_of_another_account_are_not_found(dialect: DialectClient, queue_harness: HttpQueueHarness) -> None:
    async with queue_harness.server() as server:
        client = server.client
        url = await submit(client, dialect)
        theirs = {"authorization": f"Bearer {queue_harness.other_secret}"}
        answers = [await client.request(method, url, headers=theirs) for method in ("GET", "DELETE")]
        nowhere = await client.get(NO_JOB)
        assert (await job_when_ended(client, url))["status"] == "finished"
    for answer in answers:
        assert answer.status_code == 404
        assert answer.text.replace(url.rpartition("/")[2], "") == nowhere.text.replace(NO_JOB.rpartition("/")[2], "")


async def test_a_key_limited_to_one_dialect_finds_that_dialects_jobs(
    dialect: DialectClient, queue_harness: HttpQueueHarness
) -> None:
    async with queue_harness.server() as server:
        secret = queue_harness.customer.new_key(KeyRules(dialects=(dialect.name,)))
        async with client_of(server.app, key=secret) as client:
            url = await submit(client, dialect)
            assert dialect.read((await job_when_ended(client, url))["result"]).text == "Hello"
            assert (await client.delete(url)).status_code == 200
        unknown = {"authorization": "Bearer sk-of-nobody-0123456789"}
        assert (await server.client.get(url, headers=unknown)).status_code == 401


async def test_a_job_that_another_account_pays_for_is_found_with_that_account(queue_harness: HttpQueueHarness) -> None:
    [scale] = [dialect for dialect in DIALECT_CLIENTS if dialect.name == "scale"]
    other = create_account(queue_harness.customer.database, "third").id
    deposit(queue_harness.customer.database, other, 10**9)
    rich = create_key(
        queue_harness.customer.database, queue_harness.customer.account_id, other_accounts=(other,)
    ).secret
    async with queue_harness.server() as server, client_of(server.app, key=rich) as client:
        client.headers["x-selected-account-id"] = str(other)
        url = await submit(client, scale)
        assert (await job_when_ended(client, url))["status"] == "finished"
        client.headers.pop("x-selected-account-id")
        assert (await client.get(url)).status_code == 404


async def test_a_cancelled_job_is_reported_as_cancelled_everywhere(dialect: DialectClient) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_client(engine) as client:
        url = await submit(client, dialect, stream=True)
        reading = asyncio.create_task(client.get(url, headers=ACCEPT_STREAM))
        await engine.generation_started.wait()
        cancelled = await client.delete(url)
        again, document = await client.delete(url), await client.get(url)
        stream = (await reading).text
        assert (await client.get(url, headers=ACCEPT_STREAM)).text == stream
    assert cancelled.json() == again.json() == document.json() == {"id": url.rpartition("/")[2], "status": "cancelled"}
    assert engine.cancelled == 1
    assert dialect.ends_with_error(without_event_ids(stream))
    assert "was cancelled" in stream


async def test_cancelling_what_has_ended_changes_nothing(dialect: DialectClient) -> None:
    async with queue_client() as client:
        url = await submit(client, dialect)
        await job_when_ended(client, url)
        assert (await client.delete(url)).json()["status"] == "finished"
        assert dialect.read((await client.get(url)).json()["result"]).text == "Hello"


async def test_a_job_that_failed_has_its_dialects_error_and_no_terminator(dialect: DialectClient) -> None:
    async with queue_client(GatedEcho(BadRequest("These messages are odd", "messages"))) as client:
        url = await submit(client, dialect, stream=True)
        document = await job_when_ended(client, url)
        stream = await client.get(url, headers=ACCEPT_STREAM)
    assert document.pop("status") == "failed"
    assert document.keys() - {"id"} in ({"error"}, {"detail"})
    assert dialect.is_error(document)
    assert dialect.names_field(json.dumps(document), dialect.messages_field)
    assert stream.status_code == 200
    assert dialect.ends_with_error(without_event_ids(stream.text))
    assert "[DONE]" not in stream.text


async def test_a_stream_resumes_after_a_server_restart(dialect: DialectClient, queue_harness: HttpQueueHarness) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_harness.server(engine) as server:
        url = await submit(server.client, dialect, stream=True)
        reader = AsgiConnection(b"")
        headers = [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {queue_harness.secret}".encode()),
            (b"accept", b"text/event-stream"),
        ]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": url,
            "headers": headers,
            "query_string": b"",
        }
        reading = asyncio.create_task(server.app(scope, reader.receive, reader.send))
        await reader.wait_until(lambda bodies: bool(bodies))
        server.app.drain()
        await reading
    stream = b"".join(reader.bodies).decode()
    *events, error, _ = stream.split("\n\n")
    assert "id: " not in error, "the job has not ended"
    assert dialect.ends_with_error(without_event_ids(stream))
    async with queue_harness.server() as server:
        rest = await server.client.get(url, headers=ACCEPT_STREAM | {"last-event-id": str(len(events))})
        whole = await server.client.get(url, headers=ACCEPT_STREAM)
    assert "".join(f"{event}\n\n" for event in events) + rest.text == whole.text
    assert dialect.read_stream(without_event_ids(whole.text)).text == "Hello"
    queue_harness.customer.assert_settled()


async def test_the_same_request_with_the_same_key_is_the_same_job(dialect: DialectClient) -> None:
    engine = GatedEcho()
    headers = RESPOND_ASYNC | {"idempotency-key": "order 1"}
    async with queue_client(engine) as client:
        first, again, other = [
            await client.post(dialect.path("echo"), json=dialect.body("echo", text), headers=headers)
            for text in ("Hello", "Hello", "Another")
        ]
        await job_when_ended(client, first.json()["url"])
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert other.status_code == 409
    assert dialect.is_error(other.json())
    assert other.headers["x-should-retry"] == "false"
    assert engine.runs == 1


async def test_invalid_queued_requests_return_the_usual_errors(dialect: DialectClient) -> None:
    async with queue_client() as client:
        for body, model, status in (
            ({"model": "echo"}, "echo", dialect.missing_field_status),
            (dialect.body("unheard-of", "Hi"), "unheard-of", dialect.unknown_model_status),
        ):
            response = await client.post(dialect.path(model), json=body, headers=RESPOND_ASYNC)
            assert response.status_code == status
            assert dialect.is_error(response.json())
        client.headers.pop("authorization")
        assert (await client.post(dialect.path("echo"), json={}, headers=RESPOND_ASYNC)).status_code == 401
        assert (await client.get(NO_JOB)).status_code == 401


@pytest.mark.parametrize(
    "webhook", ["", "ftp://a.example", "https://", "https://a b", "https://a:x", "https://[", "https://a/" + "x" * 2000]
)
async def test_a_webhook_must_be_one_http_url(dialect: DialectClient, webhook: str) -> None:
    async with queue_client() as client:
        response = await client.post(
            dialect.path("echo"),
            json=dialect.body("echo", "Hi"),
            headers=RESPOND_ASYNC | {"x-dragoman-webhook": webhook},
        )
    assert response.status_code == dialect.out_of_range_status
    assert "x-dragoman-webhook" in response.text


async def test_a_queued_request_calls_its_webhook_and_a_direct_one_may_not_have_one(
    dialect: DialectClient, queue_harness: HttpQueueHarness
) -> None:
    webhooks = WebhookOptions(
        secret=parse_secret(SECRET), rules=UrlRules(allow_http=True, allow_private=True), poll_seconds=0.02
    )
    async with running_receiver(WebhookReceiver()) as receiver, queue_harness.server(webhooks=webhooks) as server:
        client, headers = server.client, {"x-dragoman-webhook": receiver.url()}
        response = await client.post(dialect.path("echo"), json=dialect.body("echo", "Hi"), headers=headers)
        assert response.status_code == dialect.out_of_range_status
        assert "respond-async" in response.text
        queued = await client.post(
            dialect.path("echo"), json=dialect.body("echo", "Hi"), headers=headers | RESPOND_ASYNC
        )
        [received] = await receiver.wait_for(1)
    received.assert_signed()
    document = received.content["data"]
    assert (document["id"], document["state"], document["url"]) == (
        queued.json()["id"],
        "finished",
        queued.json()["url"],
    )


async def test_a_dialects_own_host_serves_its_jobs(queue_harness: HttpQueueHarness) -> None:
    hosts: dict[str, DialectName] = {"e.example": "empower", "a.example": "arcee", "s.example": "scale"}
    paths = {"e.example": "/chat/completions", "a.example": "/v1/chat/completions", "s.example": "/v4/chat-completions"}
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    async with queue_harness.server(hosts=hosts) as server:
        for host, path in paths.items():
            async with client_of(server.app, host, key=queue_harness.secret) as client:
                queued = await client.post(path, json=body, headers=RESPOND_ASYNC)
                assert "Hello" in str((await job_when_ended(client, queued.headers["location"]))["result"])
                assert (await client.get(NO_JOB)).status_code == 404


async def test_scale_reports_truncation_of_queued_requests() -> None:
    turns = [{"role": role, "content": "x" * 3000} for role in ("user", "assistant") * 2]
    async with queue_client() as client:
        body = {"chat_history": turns, "prompt": "Hello", "max_tokens": 100}
        queued = await client.post("/v4/models/echo/chat-completions", json=body, headers=RESPOND_ASYNC)
        assert queued.headers["x-dragoman-trimmed-messages"] == "2"
        assert (await job_when_ended(client, queued.headers["location"]))["result"]["completions"] == [
            ["Hello", ["Hello"]]
        ]
