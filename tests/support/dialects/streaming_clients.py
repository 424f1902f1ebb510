"""Clients that stream without end from a server that is killed repeatedly, and count the tokens they receive."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator

import aiohttp

from tests.support.metered import AccountFixture, cost
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

_PATH = "/v1/completions"
_ANSWER = "abcdefghijklmnopqrstuvwxyz"


class StreamingClients:
    """Use it as an async context manager."""

    def __init__(self, url: str, key: str, *, clients: int, seed: int) -> None:
        self.delivered: Counter[str] = Counter()
        """Tokens by request id."""
        self.complete_request_ids: set[str] = set()
        """Requests whose answer was not streamed and arrived complete."""
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._random = random.Random(seed)
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self._tokens = 0
        self._target_tokens = 0
        self._reached = asyncio.Event()

    async def __aenter__(self) -> "StreamingClients":
        self._session = aiohttp.ClientSession(self._url, timeout=aiohttp.ClientTimeout(total=TEST_TIMEOUT_SECONDS))
        self._tasks = [asyncio.create_task(self._request_forever()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_raised: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def wait_for_tokens(self, tokens: int) -> None:
        """Wait until this many more tokens have arrived."""
        self._reached.clear()
        self._target_tokens = self._tokens + tokens
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await self._reached.wait()

    def _count(self, request_id: str, tokens: int) -> None:
        self.delivered[request_id] += tokens
        self._tokens += tokens
        if self._tokens >= self._target_tokens:
            self._reached.set()

    async def _request_forever(self) -> None:
        while True:
            body = {
                "model": "echo",
                "prompt": _ANSWER[: self._random.randint(1, len(_ANSWER))],
                "stream": self._random.random() < 0.8,
                "max_tokens": 64,
            }
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await self._request(body)

    async def _request(self, body: dict[str, object]) -> None:
        async with self._session.post(_PATH, json=body, headers=self._headers) as response:
            assert response.status == 200, await response.text()
            request_id = response.headers["x-request-id"]
            if not body["stream"]:
                answer = await response.json()
                self._count(request_id, answer["usage"]["completion_tokens"])
                self.complete_request_ids.add(request_id)
                return
            async for line in response.content:
                self._count(request_id, sum(map(len, _texts(line))))


def assert_all_tokens_charged(account_fixture: AccountFixture, clients: StreamingClients) -> None:
    """Check that nothing is held, no request was charged twice and every delivered token is paid."""
    account_fixture.assert_settled()
    by_id = {usage.request_id: usage for usage in account_fixture.usage}
    assert len(by_id) == len(account_fixture.usage)
    for request_id, tokens in clients.delivered.items():
        usage = by_id[request_id]
        assert usage.completion_tokens >= tokens
        assert usage.completion_tokens == tokens or request_id not in clients.complete_request_ids
    for usage in account_fixture.usage:
        assert usage.charge == cost(usage.prompt_tokens, usage.completion_tokens)
        assert usage.prompt_tokens or not usage.completion_tokens


def _texts(line: bytes) -> Iterator[str]:
    if line.startswith(b"data: {") and line.endswith(b"\n"):
        for choice in json.loads(line.removeprefix(b"data: "))["choices"]:
            yield choice["text"]
