"""A client's own deadline, in the header x-request-timeout."""

import asyncio

import httpx
import pytest

from dragoman.core.events import Delta
from tests.support.apps import client_of, echo_app
from tests.support.dialects.clients import DialectClient
from tests.support.manual_loop import advance, on_manual_loop
from tests.support.scripted_engine import ScriptedEngine
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

BODY = {"model": "echo", "prompt": "a", "stream": True}


async def test_an_answer_that_is_late_ends_with_an_error_of_the_dialect_and_stops_the_engine(
    dialect: DialectClient,
) -> None:
    engine = ScriptedEngine([asyncio.Event()], [asyncio.Event()])
    async with client_of(echo_app(engine=engine)) as client:
        for stream in (False, True):
            response = await client.post(
                dialect.path("echo"),
                json=dialect.body("echo", "a", stream=stream),
                headers={"x-request-timeout": "0.01"},
            )
            assert response.status_code == 408
            assert dialect.is_error(response.json())
            # The client has no more time, and its library would retry a 408.
            assert response.headers["x-should-retry"] == "false"
    assert engine.running == 0


@on_manual_loop
async def test_a_stream_that_has_begun_ends_with_an_error_too() -> None:
    engine = ScriptedEngine([Delta(0, "b", [98]), asyncio.Event()])
    async with client_of(echo_app(engine=engine)) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY, headers={"x-request-timeout": "10"}))
        while not engine.running:  # noqa: ASYNC110 - an engine has no event for it
            await asyncio.sleep(0)
        await advance(9)
        assert not asking.done()
        await advance(TEST_TIMEOUT_SECONDS)
        response = await asking
    assert response.status_code == 200
    assert '"text":"b"' in response.text
    assert "timeout" in response.text
    assert "[DONE]" not in response.text


async def test_an_answer_within_the_time_is_complete() -> None:
    async with client_of(echo_app()) as client:
        response = await client.post("/v1/completions", json=BODY, headers={"x-request-timeout": "100.5"})
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("value", ["", "soon", "-1", "inf", "nan", "1e3", "1_0", "٣"])
async def test_a_time_that_is_no_number_of_seconds_is_refused(value: str) -> None:
    async with client_of(echo_app()) as client:
        headers = httpx.Headers([(b"x-request-timeout", value.encode())])
        response = await client.post("/v1/completions", json=BODY, headers=headers)
    assert response.status_code == 400
    assert "x-request-timeout must be a number of seconds" in response.text
