"""No body delays the requests of others, however large it is and on whatever route.

What is measured is not time but this process's processor time, which other processes do not lengthen: the most that it
spent from a request to /health to its answer, while the body was received and answered.
"""

import asyncio
import time

import httpx
import pytest

from dragoman.dialects.http.operation import Operation
from tests.support.apps import client_of, echo_app, running_app
from tests.support.dialects.large_bodies import BODY_BYTES, body_routes, large_bodies

MAX_DELAY_SECONDS = 0.25

ATTEMPTS = 3
"""What a body delays, it delays each time. Other threads of the tests, and the system's memory, do so now and then."""

PAUSE_SECONDS = 0.001
"""Between two requests to /health. Without it they keep the interpreter from the thread that decodes the body."""

ROUTES = body_routes()

SAMPLE = 20
"""Each field takes one of so many kinds of values, and the next field the next."""


async def longest_delay(client: httpx.AsyncClient, path: str, body: bytes) -> float:
    """Return the most processor seconds that a request to /health took until the body was answered."""
    post = asyncio.create_task(client.post(path, content=body))
    longest = 0.0
    while not post.done():
        started = time.process_time()
        await asyncio.sleep(PAUSE_SECONDS)  # the body's turn, which a request that arrives now has to wait for
        assert (await client.get("/health")).status_code == 200
        longest = max(longest, time.process_time() - started)
    response = await post
    assert response.status_code in (200, 400, 404, 422), (response.status_code, response.text[:200])
    assert len(response.content) < 2 * BODY_BYTES
    return longest


@pytest.mark.parametrize(("number", "operation"), list(enumerate(ROUTES.values())), ids=list(ROUTES))
async def test_no_body_delays_the_health_of_the_server(number: int, operation: Operation) -> None:
    app = echo_app(max_body_bytes=BODY_BYTES)
    late: dict[str, list[float]] = {}
    async with running_app(app), client_of(app) as client:
        path = operation.path.format(model="echo", deployment="echo", name="echo")
        for large in large_bodies(operation, number, SAMPLE):
            delays: list[float] = []
            while len(delays) < ATTEMPTS:
                delays.append(await longest_delay(client, path, large.content))
                if delays[-1] <= MAX_DELAY_SECONDS:
                    break
            else:
                late[large.label] = delays
    assert not late, late
