"""Clients of scripted upstreams."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream.http_client import CROSSING_SECONDS, IDLE_SECONDS, UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress, UpstreamRequest
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from dragoman.engines.upstream.transport_errors import (
    TransportError,
)
from tests.support.scripted_upstream import (
    ScriptedUpstream,
    running_upstream,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CHAT = UpstreamRequest(path="/v1/chat/completions", body=b'{"stream":true}')
KEY = "sk-upstream-0123456789"
CERTIFICATE = Path(__file__).parents[1] / "data" / "receiver.pem"


@contextlib.asynccontextmanager
async def connected(
    upstream: ScriptedUpstream,
    timeouts: UpstreamTimeouts | None = None,
    max_connections: int = 10,
    idle_seconds: float = IDLE_SECONDS,
    crossing_seconds: float = CROSSING_SECONDS,
) -> AsyncGenerator[UpstreamClient]:
    async with running_upstream(upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        client = UpstreamClient(
            UpstreamAddress.parse(url),
            key=SecretText(KEY),
            timeouts=timeouts,
            max_connections=max_connections,
            idle_seconds=idle_seconds,
            crossing_seconds=crossing_seconds,
        )
        try:
            yield client
        finally:
            client.close()


async def received(client: UpstreamClient, request: UpstreamRequest = CHAT) -> list[bytes]:
    """Read a stream whose events all have tokens."""
    data: list[bytes] = []
    async with client.stream(request) as stream:
        while events := await stream.read():
            stream.note_token()
            data += [each.data for each in events]
    return data


async def failure(client: UpstreamClient, request: UpstreamRequest = CHAT) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await received(client, request)
    return caught.value
