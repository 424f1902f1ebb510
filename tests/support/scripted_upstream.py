"""An HTTP server of a script: what it sends to each request, byte by byte, and when it closes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    """Frame a part of a body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(data: bytes) -> bytes:
    """Frame an event of a stream as a part of a body."""
    return chunk(b"data: " + data + b"\n\n")


def response(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Return a response with a length."""
    lines = [f"HTTP/1.1 {status} Reason", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class ScriptedRequest(NamedTuple):
    """A request that an upstream got, and the connection for its response."""

    head: bytes
    body: bytes
    writer: asyncio.StreamWriter
    closed: asyncio.Event
    """Set when the client has closed the connection."""

    async def send(self, *parts: bytes) -> None:
        """Send each part by itself."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)


Script = Callable[[ScriptedRequest], Awaitable[object]]
"""Answers a request. True: close the connection afterwards."""


def sends(*parts: bytes, close: bool = False) -> Script:
    """Make a script that sends these bytes."""

    async def script(request: ScriptedRequest) -> bool:
        await request.send(*parts)
        return close

    return script


class ScriptedUpstream:
    """Answers requests by scripts in turn, and then by the last one for ever."""

    def __init__(self, *scripts: Script) -> None:
        self.requests: list[ScriptedRequest] = []
        self.connections = 0
        self.is_left = asyncio.Event()
        """Set when a connection has ended."""
        self._scripts = list(scripts)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        closed = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while request := await _receive(reader, writer, closed):
                self.requests.append(request)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                watcher = asyncio.create_task(_watch(reader, closed))
                try:
                    should_close = await script(request)
                finally:
                    watcher.cancel()
                    await asyncio.gather(watcher, return_exceptions=True)
                if should_close or closed.is_set():
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            closed.set()
            self.is_left.set()
            writer.close()
            self._tasks.discard(task)

    def stop(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()


async def _receive(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closed: asyncio.Event
) -> ScriptedRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    body = await reader.readexactly(int(lengths[0].partition(b":")[2])) if lengths else b""
    return ScriptedRequest(head, body, writer, closed)


async def _watch(reader: asyncio.StreamReader, closed: asyncio.Event) -> None:
    """Note that the client has closed the connection; a client sends nothing before it has its response."""
    with contextlib.suppress(ConnectionError):
        assert not await reader.read(1)
    closed.set()


@contextlib.asynccontextmanager
async def running_upstream(upstream: ScriptedUpstream, unix_path: Path | None = None) -> AsyncGenerator[str]:
    """Run the upstream and return its URL."""
    if unix_path is None:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        url = f"http://{host}:{port}"
    else:
        server = await asyncio.start_unix_server(upstream.serve, unix_path)
        url = f"unix://{unix_path}"
    try:
        yield url
    finally:
        server.close()
        upstream.stop()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await server.wait_closed()


async def hang_after(request: ScriptedRequest, *parts: bytes) -> None:
    """Send these bytes and nothing more, until the client has closed the connection."""
    await request.send(*parts)
    await request.closed.wait()
