"""The server answers every request in the dialect's envelope, and continues to serve."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Iterator
from string import printable
from typing import Any

import aiohttp
import httpx
import pytest

from tests.support.dialects.hostile_requests import TEXT, HostileRequest, hostile_requests
from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CONNECTIONS = 12
TIMEOUT = aiohttp.ClientTimeout(total=TEST_TIMEOUT_SECONDS)


class HostileResponse:
    """The response to one request."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def is_valid(self) -> bool:
        """Whether it is a whole answer, a whole stream, or an error in the envelope."""
        if self.status == 200 and self.headers["content-type"].startswith("text/event-stream"):
            return self.body.startswith(b"data: {") and self.body.endswith(b"\n\ndata: [DONE]\n\n")
        document = json.loads(self.body)
        if self.status == 200:
            return bool(document["choices"]) and document["usage"]["prompt_tokens"] > 0
        error = document["error"]
        return (
            self.status in (400, 413)
            and set(error) == {"message", "type", "param", "code"}
            and all(isinstance(value, str) for value in error.values())
            and error["code"] == str(self.status)
        )


async def ask(session: aiohttp.ClientSession, request: HostileRequest) -> HostileResponse:
    headers = {"content-type": request.content_type}
    async with session.post(request.path, data=io.BytesIO(request.body), headers=headers) as response:
        return HostileResponse(response.status, response.headers, await response.read())


async def ask_all(url: str, requests: Iterator[HostileRequest]) -> Counter[int]:
    """Send every request over a few persistent connections, and count the statuses."""
    statuses: Counter[int] = Counter()

    async def client() -> None:
        for request in requests:
            answer = await ask(session, request)
            statuses[answer.status] += 1
            assert answer.is_valid, (request.path, request.body[:2000], answer.status, answer.body[:2000])

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with (
        aiohttp.ClientSession(url, connector=connector, timeout=TIMEOUT) as session,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(CONNECTIONS):
            clients.create_task(client())
    return statuses


def still_serves(url: str, model: str) -> bool:
    response = httpx.post(
        f"{url}{TEXT}", json={"model": model, "prompt": "Once", "max_tokens": 4}, timeout=TEST_TIMEOUT_SECONDS
    )
    return response.status_code == 200 and httpx.get(f"{url}/ready", timeout=TEST_TIMEOUT_SECONDS).status_code == 200


async def test_three_thousand_hostile_requests_are_all_answered(echo_server: RunningServer) -> None:
    requests = hostile_requests(1, 3_000, model="echo", max_tokens=64)
    statuses = await ask_all(echo_server.url, requests)
    assert min(statuses[200], statuses[400]) > 300
    assert statuses[413] > 0
    assert statuses.total() == 3_000
    assert still_serves(echo_server.url, "echo")


async def test_hostile_requests_to_a_real_model_are_all_answered(shallow_server: RunningServer) -> None:
    requests = hostile_requests(2, 200, model="shallow", max_tokens=4)
    statuses = await ask_all(shallow_server.url, requests)
    assert min(statuses[200], statuses[400]) > 50
    assert still_serves(shallow_server.url, "shallow")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_largest_numbers_that_are_accepted_reach_a_real_model(
    shallow_server: RunningServer, stream: bool
) -> None:
    largest = dict.fromkeys(["max_tokens", "top_k", "seed", "priority"], 2**64 - 1)
    extreme = {"temperature": 2, "repetition_penalty": 5e-324, "top_p": 0.9, "min_p": 1, "stop": list(printable[:64])}
    body = {"model": "shallow", "prompt": "one two three", "stream": stream, **largest, **extreme}
    request = HostileRequest(TEXT, json.dumps(body).encode(), "application/json")
    assert await ask_all(shallow_server.url, iter([request])) == {200: 1}
