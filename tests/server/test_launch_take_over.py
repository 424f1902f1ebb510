"""A server that takes over from another one, as in an upgrade. The processes are real: they share one socket."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.support.dialects.streams import chat_body
from tests.support.server import STOP_TIMEOUT_SECONDS, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CLIENTS = 4
TIMEOUT = httpx.Timeout(TEST_TIMEOUT_SECONDS)
SLOWLY = {"DRAGOMAN_ECHO_TOKENS_PER_SECOND": "40"}
"""A stream of some 100 tokens outlives the start of the second server's worker."""


async def test_an_upgrade_under_load_refuses_no_request_cuts_no_stream_and_continues_the_queue(tmp_path: Path) -> None:
    environment = {"XDG_DATA_HOME": str(tmp_path), **SLOWLY}
    with running_server("echo", environment=environment) as old:
        stopping = asyncio.Event()
        clients = [asyncio.create_task(_use(old.url, stopping)) for _ in range(CLIENTS)]
        async with httpx.AsyncClient(base_url=old.url, timeout=TIMEOUT) as client:
            body = chat_body("queued " * 20, model="echo")
            accepted = await client.post("/v1/chat/completions", json=body, headers={"Prefer": "respond-async"})
            assert accepted.status_code == 202, "its connection is idle from now on"
            stream = asyncio.create_task(_stream(old.url))
            new = await asyncio.to_thread(_Server, "--take-over", str(old.process.pid), environment=environment)
            try:
                assert new.server.url == old.url
                assert await stream == "a long answer " * 8
                assert await asyncio.to_thread(old.process.wait, STOP_TIMEOUT_SECONDS) == 0
                stopping.set()
                assert min(await asyncio.gather(*clients)) > 0
                job = await client.get(accepted.headers["location"])
                while job.json().get("status") in ("IN_QUEUE", "IN_PROGRESS", "queued", "running"):
                    job = await client.get(accepted.headers["location"])
                assert "queued queued" in job.text
            finally:
                await asyncio.to_thread(new.stop)


class _Server:
    """A running server that can be started from a thread."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._context = running_server("echo", *arguments, environment=environment)
        self.server = self._context.__enter__()

    def stop(self) -> None:
        self._context.__exit__(None, None, None)


async def _use(url: str, stopping: asyncio.Event) -> int:
    """Send requests until the end, each on a connection that may be closed after it. Return their number."""
    answered = 0
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
        while not stopping.is_set():
            response = await client.post("/v1/chat/completions", json=chat_body("hi", model="echo"))
            assert response.status_code == 200, response.text
            answered += 1
    return answered


async def _stream(url: str) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
        body = chat_body("a long answer " * 8, model="echo", stream=True)
        response = await client.post("/v1/chat/completions", json=body)
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_a_process_that_is_no_server_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="ended with status 2"):
        _Server("--take-over", "1", environment={})
    assert "process 1 is no server of this user" in capfd.readouterr().err
