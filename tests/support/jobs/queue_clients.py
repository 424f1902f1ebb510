"""Clients that queue requests at a server that is killed repeatedly, and retry until each has its answer."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from dragoman.accounts.administration.consistency import find_discrepancies
from tests.support.metered import AccountFixture
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

_SUBMITTERS = 16
_PAUSE_SECONDS = 0.1
_PATH = "/queue/chat/completions"

ENDED = ("finished", "failed", "cancelled")


class QueueClients:
    """Submits requests and reads their results. An async context manager."""

    def __init__(self, url: str, key: str) -> None:
        self.job_ids: dict[int, str] = {}
        """Job ids by the number of the request."""
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}

    async def __aenter__(self) -> "QueueClients":
        self._session = aiohttp.ClientSession(self._url, timeout=aiohttp.ClientTimeout(total=TEST_TIMEOUT_SECONDS))
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self._session.close()

    async def submit(self, bodies: Sequence[Mapping[str, object]]) -> None:
        """Queue all requests, each under an Idempotency-Key, retrying until it is accepted."""
        slots = asyncio.Semaphore(_SUBMITTERS)

        async def submit_one(number: int, body: Mapping[str, object]) -> None:
            headers = {"prefer": "respond-async", "idempotency-key": f"request {number}"}
            async with slots:
                status, answer = await self._request("POST", _PATH, json=body, headers=self._headers | headers)
            assert status == 202, answer
            self.job_ids[number] = answer["id"]

        await asyncio.gather(*(submit_one(number, body) for number, body in enumerate(bodies)))

    async def results(self) -> dict[int, dict[str, Any]]:
        """Wait for the end of all jobs and return their documents."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < len(self.job_ids):
            for number in self.job_ids.keys() - found.keys():
                status, answer = await self._request(
                    "GET", f"/queue/response/{self.job_ids[number]}", headers=self._headers
                )
                assert status == 200, answer
                if answer["status"] not in ENDED:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    break
                found[number] = answer
        return found

    async def request_directly(self, bodies: Sequence[Mapping[str, object]]) -> list[Any]:
        """Return the answers to the requests without queueing them."""
        slots = asyncio.Semaphore(_SUBMITTERS)

        async def request(body: Mapping[str, object]) -> Any:
            async with slots:
                status, answer = await self._request("POST", "/v1/chat/completions", json=body, headers=self._headers)
            assert status == 200, answer
            return answer

        return await asyncio.gather(*map(request, bodies))

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        while True:
            try:
                async with self._session.request(method, path, **options) as response:
                    if response.status not in (429, 503):
                        return response.status, await response.json()
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                pass
            await asyncio.sleep(_PAUSE_SECONDS)


def assert_each_charged_once(account_fixture: AccountFixture, requests: int) -> None:
    """Assert that the accounts balance, nothing is held, and each request has one charge."""
    assert find_discrepancies(account_fixture.database) == []
    assert account_fixture.account.holds == 0
    usage = account_fixture.usage
    assert Counter(record.result for record in usage) == {"finished": requests}
    assert len({record.request_id for record in usage}) == requests
