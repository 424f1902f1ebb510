"""Requests that are queued, in every dialect's own words."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dragoman.accounts.balances import create_account, deposit
from dragoman.accounts.keys import KeyRules, create_key
from dragoman.core.errors import BadRequest
from dragoman.dialects import sse
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from dragoman.jobs.webhooks.urls import UrlRules
from dragoman.server.settings import DialectName
from tests.support.apps import client_of
from tests.support.connections import Client
from tests.support.gated_echo import GatedEcho
from tests.support.queueing import (
    ACCEPT_STREAM,
    RESPOND_ASYNC,
    HttpQueueHarness,
    job_when_ended,
    open_queue_harness,
    queue_client,
    without_event_ids,
)
from tests.support.receivers import SECRET, WebhookReceiver, running_receiver
from tests.support.speakers import SPEAKERS, Speaker

NO_JOB = f"/queue/response/job_{'0' * 32}"


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.name)
def speaker(request: pytest.FixtureRequest) -> Speaker:
    speaker: Speaker = request.param
    return speaker


@pytest.fixture
def queue_harness() -> Iterator[HttpQueueHarness]:
    with open_queue_harness() as queue_harness:
        yield queue_harness


async def submit(client: httpx.AsyncClient, speaker: Speaker, text: str = "Hello", **options: Any) -> str:
    """Queue a chat; the path of its job."""
    response = await client.post(
        speaker.path("echo"), json=speaker.body("echo", text, **options), headers=RESPOND_ASYNC
    )
    assert response.status_code == 202, response.text
    return str(response.json()["url"])


async def test_a_preference_to_be_answered_later_is_heeded_and_the_job_says_where(speaker: Speaker) -> None:
    async with queue_client() as client:
        body = speaker.body("echo", "Hello")
        response = await client.post(
            speaker.path("echo"), json=body, headers={"prefer": 'wait=5; x=",", RESPOND-ASYNC'}
        )
    told = response.json()
    assert response.status_code == 202
    assert list(told) == ["id", "url", "eta", "status"]
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["location"] == told["url"] == f"/queue/response/{told['id']}"
    assert response.headers["x-dragoman-job-id"] == told["id"]
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream", [False, True])
async def test_the_result_is_what_would_have_been_answered_at_once(speaker: Speaker, stream: bool) -> None:
    async with queue_client() as client:
        direct = await client.post(speaker.path("echo"), json=speaker.body("echo", "Hello"))
        told = await job_when_ended(client, await submit(client, speaker, stream=stream))
    assert list(told) == ["id", "status", "result"]
    assert told["result"].keys() == direct.json().keys()
    assert speaker.read(told["result"]) == speaker.read(direct.json())


async def test_the_stream_of_a_job_is_that_of_the_route_it_came_in_by(speaker: Speaker) -> None:
    async with queue_client() as client:
        body = speaker.body("echo", "Hello", stream=True)
        direct = await client.post(speaker.path("echo"), json=body)
        response = await client.get(await submit(client, speaker, stream=True), headers=ACCEPT_STREAM)
    assert response.headers["content-type"] == sse.MEDIA_TYPE
    assert response.headers["x-dragoman-job-id"].startswith("job_")
    text = without_event_ids(response.text)
    assert speaker.read_stream(text) == speaker.read_stream(direct.text)
    assert text.count("\n\n") == direct.text.count("\n\n")


async def test_a_reader_who_loses_the_connection_after_each_event_misses_nothing(speaker: Speaker) -> None:
    async with queue_client() as client:
        url = await submit(client, speaker, "x" * 200, stream=True)
        whole = (await client.get(url, headers=ACCEPT_STREAM)).text
        assert (await client.get(url, headers=ACCEPT_STREAM)).text == whole, "a replay is the same, byte for byte"
        events = whole.split("\n\n")[:-1]
        assert len(events) > 200
        for number in range(len(events) + 1):
            rest = await client.get(url, headers=ACCEPT_STREAM | {"last-event-id": str(number)})
            assert rest.text == "".join(f"{event}\n\n" for event in events[number:])
        beyond = await client.get(url, headers=ACCEPT_STREAM | {"last-event-id": str(len(events) + 1)})
    assert beyond.status_code == 400
    assert "Last-Event-ID" in beyond.json()["error"]["message"]


@pytest.mark.parametrize("number", ["", "one", "-1", "1.0", "²", "9" * 16])
async def test_what_is_no_event_is_refused(number: str) -> None:
    async with queue_client() as client:
        url = await submit(client, SPEAKERS[0])
        headers = [(b"accept", b"text/event-stream"), (b"last-event-id", number.encode())]
        assert (await client.get(url, headers=headers)).status_code == 400


async def test_two_readers_follow_one_job_while_it_runs(speaker: Speaker) -> None:
    engine = GatedEcho()
    engine.gate.clear()
    async with queue_client(engine) as client:
        url = await submit(client, speaker, stream=True)
        readers = [asyncio.create_task(client.get(url, headers=ACCEPT_STREAM)) for _ in range(2)]
        await engine.generation_started.wait()
        assert (await client.get(url)).json()["status"] == "running"
        engine.gate.set()
        one, other = [(await reader).text for reader in readers]
    assert one == other
    assert speaker.read_stream(without_event_ids(one)).text == "Hello"
    assert engine.runs == 1


async def test_somebody_elses_job_is_not_there(speaker: Speaker, queue_harness: HttpQueueHarness) -> None:
    async with queue_harness.server() as server:
        client = server.client
        url = await submit(client, speaker)
        theirs = {"authorization": f"Bearer {queue_harness.other_secret}"}
        answers = [await client.request(method, url, headers=theirs) for method in ("GET", "DELETE")]
        nowhere = await client.get(NO_JOB)
        assert (await job_when_ended(client, url))["status"] == "finished"
    for answer in answers:
        assert answer.status_code == 404
        assert answer.text.replace(url.rpartition("/")[2], "") == nowhere.text.replace(NO_JOB.rpartition("/")[2], "")


async def test_a_key_for_one_dialect_alone_finds_the_jobs_that_came_in_it(
    speaker: Speaker, queue_harness: HttpQueueHarness
) -> None:
    async with queue_harness.server() as server:
        secret = queue_harness.customer.new_key(KeyRules(dialects=(speaker.name,)))
        async with client_of(server.app, key=secret) as client:
            url = await submit(client, speaker)
            assert speaker.read((await job_when_ended(client, url))["result"]).text == "Hello"
            assert (await client.delete(url)).status_code == 200
        unknown = {"authorization": "Bearer sk-of-nobody-0123456789"}
        assert (await server.client.get(url, headers=unknown)).status_code == 401


async def test_a_job_that_another_account_pays_for_is_found_with_that_account(queue_harness: HttpQueueHarness) -> None:
    [scale] = [speaker for speaker in SPEAKERS if speaker.name == "scale"]
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


async def test_a_job_that_is_cancelled_says_so_wherever_it_is_asked(speaker: Speaker) -> None:
    engine = GatedEcho()
    engine.gate.clear()
    async with queue_client(engine) as client:
        url = await submit(client, speaker, stream=True)
        reading = asyncio.create_task(client.get(url, headers=ACCEPT_STREAM))
        await engine.generation_started.wait()
        cancelled = await client.delete(url)
        again, told = await client.delete(url), await client.get(url)
        stream = (await reading).text
        assert (await client.get(url, headers=ACCEPT_STREAM)).text == stream
    assert cancelled.json() == again.json() == told.json() == {"id": url.rpartition("/")[2], "status": "cancelled"}
    assert engine.cancelled == 1
    assert speaker.is_broken_off(without_event_ids(stream))
    assert "was cancelled" in stream


async def test_cancelling_what_has_ended_changes_nothing(speaker: Speaker) -> None:
    async with queue_client() as client:
        url = await submit(client, speaker)
        await job_when_ended(client, url)
        assert (await client.delete(url)).json()["status"] == "finished"
        assert speaker.read((await client.get(url)).json()["result"]).text == "Hello"


async def test_a_job_that_failed_has_its_dialects_error_and_no_terminator(speaker: Speaker) -> None:
    async with queue_client(GatedEcho(BadRequest("These messages are odd", "messages"))) as client:
        url = await submit(client, speaker, stream=True)
        told = await job_when_ended(client, url)
        stream = await client.get(url, headers=ACCEPT_STREAM)
    assert told.pop("status") == "failed"
    assert told.keys() - {"id"} in ({"error"}, {"detail"})
    assert speaker.is_error(told)
    assert f'"{"chat_history" if speaker.name == "scale" else "messages"}"' in json.dumps(told)
    assert stream.status_code == 200
    assert speaker.is_broken_off(without_event_ids(stream.text))
    assert "[DONE]" not in stream.text


async def test_a_reader_goes_on_where_it_was_when_the_server_is_started_again(
    speaker: Speaker, queue_harness: HttpQueueHarness
) -> None:
    engine = GatedEcho()
    engine.gate.clear()
    async with queue_harness.server(engine) as server:
        url = await submit(server.client, speaker, stream=True)
        reader = Client(b"")
        headers = [(b"authorization", f"Bearer {queue_harness.secret}".encode()), (b"accept", b"text/event-stream")]
        scope = {"type": "http", "method": "GET", "path": url, "headers": headers, "query_string": b""}
        reading = asyncio.create_task(server.app(scope, reader.receive, reader.send))
        await reader.until(lambda bodies: bool(bodies))
        server.app.drain()
        await reading
    stream = b"".join(reader.bodies).decode()
    *events, error, _ = stream.split("\n\n")
    assert "id: " not in error, "the job has not ended"
    assert speaker.is_broken_off(without_event_ids(stream))
    async with queue_harness.server() as server:
        rest = await server.client.get(url, headers=ACCEPT_STREAM | {"last-event-id": str(len(events))})
        whole = await server.client.get(url, headers=ACCEPT_STREAM)
    assert "".join(f"{event}\n\n" for event in events) + rest.text == whole.text
    assert speaker.read_stream(without_event_ids(whole.text)).text == "Hello"
    queue_harness.customer.assert_settled()


async def test_the_same_request_with_the_same_key_is_the_same_job(speaker: Speaker) -> None:
    engine = GatedEcho()
    headers = RESPOND_ASYNC | {"idempotency-key": "order 1"}
    async with queue_client(engine) as client:
        first, again, other = [
            await client.post(speaker.path("echo"), json=speaker.body("echo", text), headers=headers)
            for text in ("Hello", "Hello", "Another")
        ]
        await job_when_ended(client, first.json()["url"])
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert other.status_code == 409
    assert speaker.is_error(other.json())
    assert other.headers["x-should-retry"] == "false"
    assert engine.runs == 1


async def test_what_is_wrong_with_a_request_is_told_as_ever(speaker: Speaker) -> None:
    async with queue_client() as client:
        for body, model, status in (
            ({"model": "echo"}, "echo", speaker.missing_status),
            (speaker.body("unheard-of", "Hi"), "unheard-of", speaker.unknown_model_status),
        ):
            response = await client.post(speaker.path(model), json=body, headers=RESPOND_ASYNC)
            assert response.status_code == status
            assert speaker.is_error(response.json())
        client.headers.pop("authorization")
        assert (await client.post(speaker.path("echo"), json={}, headers=RESPOND_ASYNC)).status_code == 401
        assert (await client.get(NO_JOB)).status_code == 401


@pytest.mark.parametrize(
    "webhook", ["", "ftp://a.example", "https://", "https://a b", "https://a:x", "https://[", "https://a/" + "x" * 2000]
)
async def test_a_webhook_is_one_web_address(speaker: Speaker, webhook: str) -> None:
    async with queue_client() as client:
        response = await client.post(
            speaker.path("echo"),
            json=speaker.body("echo", "Hi"),
            headers=RESPOND_ASYNC | {"x-dragoman-webhook": webhook},
        )
    assert response.status_code == speaker.out_of_range_status
    assert "x-dragoman-webhook" in response.text


async def test_the_webhook_of_a_queued_request_is_told_of_its_end_and_that_of_another_refused(
    speaker: Speaker, queue_harness: HttpQueueHarness
) -> None:
    webhooks = WebhookOptions(parse_secret(SECRET), UrlRules(allow_http=True, allow_private=True), poll_seconds=0.02)
    async with running_receiver(WebhookReceiver()) as receiver, queue_harness.server(webhooks=webhooks) as server:
        client, headers = server.client, {"x-dragoman-webhook": receiver.url()}
        response = await client.post(speaker.path("echo"), json=speaker.body("echo", "Hi"), headers=headers)
        assert response.status_code == speaker.out_of_range_status
        assert "respond-async" in response.text
        queued = await client.post(
            speaker.path("echo"), json=speaker.body("echo", "Hi"), headers=headers | RESPOND_ASYNC
        )
        [received] = await receiver.wait_for(1)
    received.assert_signed()
    told = received.content["data"]
    assert (told["id"], told["state"], told["url"]) == (queued.json()["id"], "finished", queued.json()["url"])


async def test_on_a_host_of_its_own_a_dialect_tells_of_its_jobs_too(queue_harness: HttpQueueHarness) -> None:
    hosts: dict[str, DialectName] = {"e.example": "empower", "a.example": "arcee", "s.example": "scale"}
    paths = {"e.example": "/chat/completions", "a.example": "/v1/chat/completions", "s.example": "/v4/chat-completions"}
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    async with queue_harness.server(hosts=hosts) as server:
        for host, path in paths.items():
            async with client_of(server.app, host, key=queue_harness.secret) as client:
                queued = await client.post(path, json=body, headers=RESPOND_ASYNC)
                assert "Hello" in str((await job_when_ended(client, queued.headers["location"]))["result"])
                assert (await client.get(NO_JOB)).status_code == 404


async def test_scales_trimming_is_told_of_what_is_queued_too() -> None:
    turns = [{"role": role, "content": "x" * 3000} for role in ("user", "assistant") * 2]
    async with queue_client() as client:
        body = {"chat_history": turns, "prompt": "Hello", "max_tokens": 100}
        queued = await client.post("/v4/models/echo/chat-completions", json=body, headers=RESPOND_ASYNC)
        assert queued.headers["x-dragoman-trimmed-messages"] == "2"
        assert (await job_when_ended(client, queued.headers["location"]))["result"]["completions"] == [
            ["Hello", ["Hello"]]
        ]
