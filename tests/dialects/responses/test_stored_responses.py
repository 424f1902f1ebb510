"""Responses are stored once, continued, listed, deleted, generated in the background, and streamed again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from dragoman.core.errors import BadRequest
from dragoman.core.events import Delta, Event, Finished, ToolCallDelta, Usage
from tests.support.apps import client_of, echo_app
from tests.support.dialects.openai_clients import openai_client
from tests.support.dialects.response_reader import check_response, parse_stream, read_events
from tests.support.dialects.scripted_engine import ScriptedEngine
from tests.support.echo_engines import GatedEcho
from tests.support.jobs.http_queue_harness import HttpQueueHarness, HttpQueueServer, open_queue_harness
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
CALL: list[Event] = [
    ToolCallDelta(index=0, call_index=0, arguments="{}", token_ids=[3], id="call_0", name="get_weather"),
    Finished(0, "tool_calls"),
    Usage(9, 1, 0),
]


@pytest.fixture
def harness() -> Any:
    with open_queue_harness() as harness:
        yield harness


@pytest.fixture
async def server(harness: HttpQueueHarness) -> AsyncIterator[HttpQueueServer]:
    async with harness.server() as server:
        yield server


def sdk_of(server: HttpQueueServer, key: str) -> AsyncIterator[AsyncOpenAI]:
    return openai_client(server.app, key=key)


@pytest.fixture
async def client(server: HttpQueueServer, harness: HttpQueueHarness) -> AsyncIterator[AsyncOpenAI]:
    async for client in sdk_of(server, harness.secret):
        yield client


@pytest.fixture
async def other(server: HttpQueueServer, harness: HttpQueueHarness) -> AsyncIterator[AsyncOpenAI]:
    """A client of another account."""
    async for client in sdk_of(server, harness.other_secret):
        yield client


async def test_a_stored_response_is_retrieved_as_it_was_sent(server: HttpQueueServer) -> None:
    for stream in (False, True):
        sent = await server.client.post("/v1/responses", json={"model": "echo", "input": "Hello", "stream": stream})
        response = read_events(parse_stream(sent.text)) if stream else sent.json()
        assert response["store"] is True
        check_response(response)
        assert (await server.client.get(f"/v1/responses/{response['id']}")).json() == response


async def test_a_response_continues_all_before_it(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="echo", input="one", instructions="Be brief")
    second = await client.responses.create(model="echo", input="two", previous_response_id=first.id)
    third = await client.responses.create(model="echo", input="three", previous_response_id=second.id)
    branch = await client.responses.create(model="echo", input="three", previous_response_id=first.id)
    tokens = [response.usage.input_tokens if response.usage else 0 for response in (first, second, third, branch)]
    flat = await client.responses.create(
        model="echo",
        input=[
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ],
    )
    assert flat.usage is not None
    assert tokens[2] == flat.usage.input_tokens, "instructions are not carried over"
    assert tokens[3] < tokens[2]
    assert (third.output_text, third.previous_response_id) == ("three", second.id)


async def test_a_call_is_answered_without_its_tools(harness: HttpQueueHarness) -> None:
    async with harness.server(ScriptedEngine(CALL)) as server:
        async for client in sdk_of(server, harness.secret):
            first = await client.responses.create(
                model="echo",
                input="Weather?",
                tools=[WEATHER],
                tool_choice="auto",
            )
            again = await client.responses.create(
                model="echo",
                previous_response_id=first.id,
                input=[{"type": "function_call_output", "call_id": "call_0", "output": "Rain"}],
            )
            assert again.status == "completed"


async def test_input_items_are_listed_in_pages(client: AsyncOpenAI) -> None:
    turns: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    response = await client.responses.create(model="echo", input=turns)
    first = await client.responses.input_items.list(response.id, limit=2, order="asc")
    texts = [item.model_dump()["content"][0]["text"] for item in first.data]
    assert (texts, first.has_more) == (["0", "1"], True)
    every = [item.id async for item in client.responses.input_items.list(response.id, limit=2)]
    assert len(set(every)) == 5
    assert every[::-1][:2] == [item.id for item in first.data]
    with pytest.raises(openai.BadRequestError):
        await client.responses.input_items.list(response.id, after="msg_gone")


async def test_an_item_is_referenced_by_its_id(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="echo", input="one")
    reference: Any = {"type": "item_reference", "id": response.output[0].id}
    again = await client.responses.create(model="echo", input=[reference, {"role": "user", "content": "two"}])
    assert again.output_text == "two"
    with pytest.raises(openai.BadRequestError, match="not found"):
        await client.responses.create(model="echo", input=[{"type": "item_reference", "id": "msg_gone"}])


async def test_a_conversation_of_many_values_is_not_read_on_the_event_loop(server: HttpQueueServer) -> None:
    many = {"role": "user", "content": "Hi", "unknown": [0] * 40_000}
    ids: list[str] = []
    statuses = []
    for _ in range(8):
        previous = {"previous_response_id": ids[-1]} if ids else {}
        sent = await server.client.post("/v1/responses", json={"model": "echo", "input": [many], **previous})
        statuses.append(sent.status_code)
        ids += [sent.json()["id"]] if sent.is_success else []
    assert statuses == [*[200] * 7, 400], "a body may have 250,000 values"
    assert "previous_response_id" in sent.text
    references = [{"type": "item_reference", "id": f"msg_{each.removeprefix('resp_')}0000"} for each in ids]
    for given, status in ((references[:2] * 3, 200), (references, 400)):
        again = await server.client.post("/v1/responses", json={"model": "echo", "input": given})
        assert again.status_code == status, again.text


async def test_what_is_deleted_foreign_or_never_stored_is_not_found(client: AsyncOpenAI, other: AsyncOpenAI) -> None:
    stored = await client.responses.create(model="echo", input="one")
    unstored = await client.responses.create(model="echo", input="one", store=False)
    assert unstored.model_dump()["store"] is False
    for reader, response_id in ((other, stored.id), (client, unstored.id), (client, "resp_gone")):
        with pytest.raises(openai.NotFoundError):
            await reader.responses.retrieve(response_id)
        with pytest.raises(openai.BadRequestError) as unknown:
            await reader.responses.create(model="echo", input="two", previous_response_id=response_id)
        assert (unknown.value.code, unknown.value.param) == ("previous_response_not_found", "previous_response_id")
    child = await client.responses.create(model="echo", input="two", previous_response_id=stored.id)
    with pytest.raises(openai.NotFoundError):
        await other.responses.delete(stored.id)
    await client.responses.delete(stored.id)
    for response_id in (stored.id, child.id):
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="echo", input="three", previous_response_id=response_id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(stored.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(stored.id)


async def test_without_a_database_responses_are_not_stored_and_say_so() -> None:
    async with client_of(echo_app()) as client:
        response = (await client.post("/v1/responses", json={"model": "echo", "input": "Hi"})).json()
        assert response["store"] is False
        assert (await client.get(f"/v1/responses/{response['id']}")).status_code == 404
        refused = await client.post("/v1/responses", json={"model": "echo", "input": "Hi", "background": True})
        assert refused.status_code == 400
        assert "database" in refused.json()["error"]["message"]


async def ended(client: AsyncOpenAI, response_id: str) -> Any:
    """Read the response's events to their end, and return it."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        with contextlib.suppress(openai.APIError):
            async for _ in await client.responses.retrieve(response_id, stream=True):
                pass
    return await client.responses.retrieve(response_id)


async def test_a_response_in_the_background_is_queued_polled_and_continued(client: AsyncOpenAI) -> None:
    queued = await client.responses.create(model="echo", input="one", background=True)
    assert (queued.status, queued.output, queued.usage, queued.background) == ("queued", [], None, True)
    done = await ended(client, queued.id)
    assert (done.id, done.status, done.output_text) == (queued.id, "completed", "one")
    again = await client.responses.create(model="echo", input="two", previous_response_id=queued.id)
    assert again.output_text == "two"
    items = [item async for item in client.responses.input_items.list(queued.id)]
    assert len(items) == 1


async def test_a_response_in_the_background_is_continued_without_having_been_retrieved(
    harness: HttpQueueHarness,
) -> None:
    async with harness.server() as server:
        async for client in sdk_of(server, harness.secret):
            first = await client.responses.create(model="echo", input="one", background=True)
            second: Any = await client.responses.create(
                model="echo",
                input="two",
                background=True,
                stream=True,
                previous_response_id=(await ended(client, first.id)).id,
            )
            events = [event async for event in second]
            assert events[-1].response.output_text == "two"


async def queue_hello(client: httpx.AsyncClient) -> str:
    """Request a response in the background, and return its id."""
    body = {"model": "echo", "input": "Hello", "background": True}
    return str((await client.post("/v1/responses", json=body)).json()["id"])


async def stream_of(client: httpx.AsyncClient, response_id: str, starting_after: int | None = None) -> str:
    query = "" if starting_after is None else f"&starting_after={starting_after}"
    return (await client.get(f"/v1/responses/{response_id}?stream=true{query}")).text


async def test_a_stream_in_the_background_can_be_read_again_from_any_event(server: HttpQueueServer) -> None:
    body = {"model": "echo", "input": "Hello", "background": True, "stream": True}
    first = (await server.client.post("/v1/responses", json=body)).text
    events = parse_stream(first)
    response = read_events(events)
    assert [event.name for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert await stream_of(server.client, response["id"]) == first
    for number in range(len(events) - 1):
        rest = await stream_of(server.client, response["id"], number)
        assert rest == first[first.index(f'"sequence_number":{number}') :].split("\n\n", 1)[1]
    assert (await server.client.get(f"/v1/responses/{response['id']}")).json() == response


async def test_openais_client_resumes_a_stream(client: AsyncOpenAI) -> None:
    queued = await client.responses.create(model="echo", input="Hello", background=True)
    async with client.responses.stream(response_id=queued.id, starting_after=2) as stream:
        numbers = [event.sequence_number async for event in stream]
    assert min(numbers) == 3


async def test_a_response_in_the_background_is_cancelled(harness: HttpQueueHarness) -> None:
    engine = GatedEcho(is_open=False)
    async with harness.server(engine) as server:
        async for client in sdk_of(server, harness.secret):
            queued = await client.responses.create(model="echo", input="Hello", background=True)
            assert (await client.responses.cancel(queued.id)).status == "cancelled"
            assert (await client.responses.retrieve(queued.id)).status == "cancelled"
            engine.gate.set()
            direct = await client.responses.create(model="echo", input="Hello")
            with pytest.raises(openai.BadRequestError):
                await client.responses.cancel(direct.id)
            ended_one = await client.responses.create(model="echo", input="Hello", background=True)
            await ended(client, ended_one.id)
            assert (await client.responses.cancel(ended_one.id)).status == "completed"
            await client.responses.delete(ended_one.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(ended_one.id)
    harness.customer.assert_settled()


@pytest.mark.parametrize("has_ended", [False, True])
async def test_nothing_of_a_deleted_response_in_the_background_is_kept(
    harness: HttpQueueHarness, has_ended: bool
) -> None:
    engine = GatedEcho(is_open=False)
    async with harness.server(engine) as server:
        queued_id = await queue_hello(server.client)
        if has_ended:
            engine.gate.set()
            await stream_of(server.client, queued_id)
        deleted = await server.client.delete(f"/v1/responses/{queued_id}")
        assert deleted.json()["deleted"] is True
        job_id = queued_id.replace("resp_", "job_")
        assert (await server.client.get(f"/queue/response/{job_id}")).status_code == 404
        assert (await server.client.get(f"/v1/responses/{queued_id}")).status_code == 404
    assert harness.job_ids() == []
    harness.customer.assert_settled()


async def test_a_response_can_be_continued_by_the_same_request_once_it_has_ended(harness: HttpQueueHarness) -> None:
    engine = GatedEcho(is_open=False)
    async with harness.server(engine) as server:
        queued_id = await queue_hello(server.client)
        following = {"model": "echo", "input": "Go on", "previous_response_id": queued_id}
        headers = {"idempotency-key": "following"}
        early = await server.client.post("/v1/responses", json=following, headers=headers)
        assert early.status_code == 400
        engine.gate.set()
        await stream_of(server.client, queued_id)
        late = await server.client.post("/v1/responses", json=following, headers=headers)
        assert late.status_code == 200, late.text


async def test_a_response_in_the_background_survives_a_restart_with_equal_bytes(harness: HttpQueueHarness) -> None:
    engine = GatedEcho(is_open=False)
    async with harness.server(engine) as server:
        queued_id = await queue_hello(server.client)
        server.app.drain()
    async with harness.server() as server:
        whole = await stream_of(server.client, queued_id)
        assert read_events(parse_stream(whole))["output"][0]["content"][0]["text"] == "Hello"
    async with harness.server() as server:
        assert await stream_of(server.client, queued_id) == whole
    harness.customer.assert_settled()


async def test_a_failure_in_the_background_is_told_in_the_response(harness: HttpQueueHarness) -> None:
    async with harness.server(
        ScriptedEngine([Delta(0, "x", [1])], BadRequest("These items are odd", "prompt"))
    ) as server:
        async for client in sdk_of(server, harness.secret):
            queued = await client.responses.create(model="echo", input="Hello", background=True)
            failed = await ended(client, queued.id)
            assert failed.status == "failed"
            assert failed.error is not None
            assert "odd" in failed.error.message
            stream = parse_stream(await stream_of(server.client, queued.id))
            assert [event.name for event in stream[-2:]] == ["error", "response.failed"]
