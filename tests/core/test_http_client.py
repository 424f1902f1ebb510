"""The connector against servers that send whatever they like, on real connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from dragoman.core.http_client import MAX_HEAD_BYTES, BoundedConnector, ResponseHeadTooLarge
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sender:
    """A server that answers each request with `parts`, the last one for ever if `is_endless`."""

    def __init__(self, *parts: bytes, is_endless: bool = False) -> None:
        self._parts = parts
        self._is_endless = is_endless
        self.sent_bytes = 0
        self.requests = 0
        self.connections = 0
        self.was_cut_off = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                for part in self._parts:
                    await self._send(writer, part)
                while self._is_endless:
                    await self._send(writer, self._parts[-1] * 1000)
        self.was_cut_off.set()
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        writer.write(part)
        await writer.drain()
        self.sent_bytes += len(part)


@contextlib.asynccontextmanager
async def client_of(sender: Sender) -> AsyncIterator[aiohttp.ClientSession]:
    server = await asyncio.start_server(sender.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    timeout = aiohttp.ClientTimeout(total=TEST_TIMEOUT_SECONDS)
    connector = BoundedConnector()
    async with (
        server,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([CONTINUE], id="interim responses"),
        pytest.param([HINTS], id="interim responses with headers"),
        pytest.param([b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"], id="headers"),
    ],
)
async def test_a_head_without_end_is_cut_off(parts: list[bytes]) -> None:
    sender = Sender(*parts, is_endless=True)
    async with client_of(sender) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.get("/")
        await asyncio.wait_for(sender.was_cut_off.wait(), TEST_TIMEOUT_SECONDS)
    # What is beyond the limit fills the buffers of the sockets, and nobody reads it.
    assert sender.sent_bytes < 8 * 1024 * 1024


async def test_interim_responses_without_end_are_named() -> None:
    async with client_of(Sender(CONTINUE, is_endless=True)) as client:
        with pytest.raises(ResponseHeadTooLarge, match=f"more than {MAX_HEAD_BYTES} bytes"):
            await client.get("/")


@pytest.mark.parametrize("interim", [b"", CONTINUE, HINTS * 100])
async def test_a_response_is_read_after_interim_ones_and_on_a_used_connection(interim: bytes) -> None:
    sender = Sender(interim + OK)
    async with client_of(sender) as client:
        for _ in range(30):  # Together more than one head may have.
            async with client.get("/") as response:
                assert (response.status, await response.read()) == (200, b"ok")
    assert (sender.requests, sender.connections) == (30, 1)


async def test_a_body_may_be_larger_than_a_head() -> None:
    body = b"x" * (5 * MAX_HEAD_BYTES)
    sender = Sender(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    async with client_of(sender) as client:
        for _ in range(2):
            async with client.get("/") as response:
                assert await response.read() == body
